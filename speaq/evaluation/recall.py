"""Recalls of a scene-graph model: R, ng-R, zR, mR, F, head / body / tail (method section 10), under a protocol.

Images come one at a time and are forgotten but for the ranks at which their rows were found (`RecallTable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from speaq.config import EvaluationConfig
from speaq.evaluation.protocol import Mode, protocol_name, unconstrained_name
from speaq.evaluation.table import NEVER, Float64Array, RecallTable, Rows, make_table
from speaq.evaluation.triplets import (
    NUM_UNCONSTRAINED,
    apply_mode,
    constrained,
    first_found,
    labels,
    match,
    pair_key,
    triplet_key,
    unconstrained,
)
from speaq.structures import IntArray, SceneGraph, ScenePrediction

THIRDS = ("head", "body", "tail")


@dataclass(frozen=True)
class RecallResult:
    """Metrics in [0, 1] by name, such as R@20; a metric that no image defines (zR without such rows) is absent.

    `averages` holds the same recalls averaged otherwise: R_dataset over all rows of the data set instead of images,
    mR_present over the predicates that some evaluated image has; ngR_dataset, ngmR and ngmR_present likewise.
    """

    mode: Mode
    protocol: str  # short name: numbers of different protocols are not comparable
    unconstrained_protocol: str  # of what begins with ng
    recall_at: tuple[int, ...]
    metrics: dict[str, float]
    averages: dict[str, float]
    per_predicate: dict[int, Float64Array]  # K → [P], 0 for a predicate that no image has
    predicate_images: IntArray  # [P] evaluated images that have the predicate
    thirds: tuple[IntArray, IntArray, IntArray] | None  # predicates of head, body and tail
    images_evaluated: int
    images_without_predictions: int
    images_skipped_without_predictions: int


class RecallEvaluator:
    """Gathers images, each once, and computes recalls over them."""

    def __init__(
        self,
        num_predicates: int,
        config: EvaluationConfig,
        zero_shot: IntArray | None = None,
        predicate_count: IntArray | None = None,
        mode: Mode = "sgdet",
    ) -> None:
        """`zero_shot` [Z, 3] rows (subject class, object class, predicate); `predicate_count` [P] or [P+1] rows of the
        training split, behind head, body and tail. Without one of them its metrics are left out.
        """
        assert predicate_count is None or len(predicate_count) in (num_predicates, num_predicates + 1)
        self._num_predicates = num_predicates
        self._config = config
        self._mode = mode
        self._zero_shot = None if zero_shot is None else np.unique(triplet_key(zero_shot[:, :2], zero_shot[:, 2]))
        self._thirds = None if predicate_count is None else head_body_tail(predicate_count[:num_predicates])
        self._images: dict[int, tuple[bool, Rows]] = {}

    def add(self, index: int, graph: SceneGraph, prediction: ScenePrediction, rank: IntArray | None = None) -> None:
        """Takes the image in row `index` of the split; a second time, or without ground-truth rows, it is ignored.

        Args:
            rank: [M] of the first triplet that finds each ground-truth row, where the caller has matched already.

        Raises ValueError where sgcls or predcls predictions do not use the ground-truth boxes.
        """
        if index in self._images or not len(graph.relations):
            return
        self._images[index] = (len(prediction.pairs) > 0, self._find(graph, prediction, rank))

    def _find(self, graph: SceneGraph, prediction: ScenePrediction, rank: IntArray | None) -> Rows:
        prediction = apply_mode(graph, prediction, self._mode)
        kept = constrained(prediction, self._config.protocol)
        pairs, predicates = prediction.pairs[kept], prediction.predicates[kept]
        if rank is None:
            rank = self._first(graph, prediction, pairs, predicates)
        num = max(NUM_UNCONSTRAINED, *self._config.recall_at)
        row, predicate = unconstrained(prediction, num, unique=self._config.protocol == "strict")
        unconstrained_rank = self._first(graph, prediction, prediction.pairs[row], predicate)
        pair_rank = np.full_like(rank, NEVER)
        if self._mode in ("sgcls", "predcls"):
            known = np.isin(pair_key(pairs), pair_key(graph.relations[:, :2]))
            pair_rank = self._first(graph, prediction, pairs[known], predicates[known])
        zero_shot = np.isin(labels(graph), () if self._zero_shot is None else self._zero_shot)
        return Rows(graph.relations[:, 2], zero_shot, rank, unconstrained_rank, pair_rank)

    def _first(self, graph: SceneGraph, prediction: ScenePrediction, pairs: IntArray, predicates: IntArray) -> IntArray:
        """[M] position of the first triplet that finds each ground-truth row, NEVER where none does."""
        phrase = self._mode == "phrase"
        position, row = match(graph, prediction, pairs, predicates, self._config.iou_threshold, phrase)
        return first_found(position, row, len(graph.relations))

    def table(self) -> RecallTable:
        """Everything seen so far."""
        return make_table([(index, *image) for index, image in self._images.items()])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": self.table()}  # columns pickle small and fast

    def __setstate__(self, state: dict[str, Any]) -> None:
        table: RecallTable = state["_images"]
        images = zip(table.index.tolist(), table.predicted.tolist(), table.images(), strict=True)
        self.__dict__.update(state, _images={index: (predicted, rows) for index, predicted, rows in images})

    @staticmethod
    def merge(parts: Sequence[RecallEvaluator]) -> RecallEvaluator:
        """The images of several workers, each once (samplers repeat some as padding); the first worker's counts.

        All parts are made with the same arguments; `parts` has at least one.
        """
        merged = copy(parts[0])
        for part in parts[1:]:
            merged._images = part._images | merged._images
        return merged

    def result(self) -> RecallResult:
        """Recalls over all images, the same bit for bit in whatever order and through however many workers they came.

        Where no image counts, recalls are 0 (and `images_evaluated` says so).
        """
        table = self.table()
        without = int((~table.predicted).sum())
        skip = self._config.protocol != "strict"
        if skip:
            table = table.select(table.predicted)
        per_predicate = {k: table.recall_per_predicate(k, self._num_predicates)[0] for k in self._config.recall_at}
        return RecallResult(
            mode=self._mode,
            protocol=protocol_name(self._config, self._mode),
            unconstrained_protocol=unconstrained_name(self._config, self._mode),
            recall_at=self._config.recall_at,
            metrics={
                name: value for k, recall in per_predicate.items() for name, value in self._metrics(table, k, recall)
            },
            averages={name: value for k in self._config.recall_at for name, value in self._averages(table, k)},
            per_predicate=per_predicate,
            predicate_images=table.recall_per_predicate(1, self._num_predicates)[1],
            thirds=self._thirds,
            images_evaluated=len(table.index),
            images_without_predictions=without,
            images_skipped_without_predictions=without if skip else 0,
        )

    def _metrics(self, table: RecallTable, k: int, per_predicate: Float64Array) -> list[tuple[str, float]]:
        recall = _mean(table.recall_per_image(table.rows.rank, k))
        mean_recall = float(per_predicate.mean())
        values = {"R": recall, "ngR": _mean(table.recall_per_image(table.rows.unconstrained_rank, k))}
        if table.rows.zero_shot.any():
            of_images = table.recall_per_image(table.rows.rank, k, among=table.rows.zero_shot)
            values["zR"] = _mean(of_images[~np.isnan(of_images)])
        values |= {"mR": mean_recall, "F": harmonic_mean(recall, mean_recall)}
        for name, third in zip(THIRDS, self._thirds or (), strict=False):
            if len(third):
                values[name] = float(per_predicate[third].mean())
        if self._mode in ("sgcls", "predcls"):
            values["A"] = _mean((table.rows.pair_rank < k).astype(np.float64))
        return [(f"{name}@{k}", value) for name, value in values.items()]

    def _averages(self, table: RecallTable, k: int) -> list[tuple[str, float]]:
        rank, unconstrained_rank = table.rows.rank, table.rows.unconstrained_rank
        recall, images = table.recall_per_predicate(k, self._num_predicates)
        unconstrained_recall, _ = table.recall_per_predicate(k, self._num_predicates, unconstrained_rank)
        values = {
            "R_dataset": _mean((rank < k).astype(np.float64)),
            "mR_present": _mean(recall[images > 0]),
            "ngR_dataset": _mean((unconstrained_rank < k).astype(np.float64)),
            "ngmR": float(unconstrained_recall.mean()),
            "ngmR_present": _mean(unconstrained_recall[images > 0]),
        }
        return [(f"{name}@{k}", value) for name, value in values.items()]


def _mean(values: Float64Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def head_body_tail(predicate_count: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Predicates [P] in thirds by training frequency, most frequent first, ties by index.

    Head gets the smaller part: 16, 17 and 17 of Visual Genome's 50. With fewer than three predicates a part is empty.
    """
    order = np.argsort(-np.asarray(predicate_count), kind="stable")
    num = len(order)
    head, body = num // 3, (num + 1) // 3
    return order[:head], order[head : head + body], order[head + body :]
