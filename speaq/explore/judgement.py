"""Which ground-truth rows a model finds, image by image: the evaluation's own matching, kept for looking at.

Letters: M ground-truth rows (relations) of an image or of a split, T predicted triplets, P predicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq.config import EvaluationConfig
from speaq.data.records import Split, SplitName
from speaq.evaluation.predictions import PredictionFile
from speaq.evaluation.protocol import Mode, protocol_name, unconstrained_name
from speaq.evaluation.protocols import images_of, rows_of
from speaq.evaluation.recall import RecallEvaluator, RecallResult
from speaq.evaluation.table import NEVER
from speaq.evaluation.triplets import (
    NUM_UNCONSTRAINED,
    apply_mode,
    constrained,
    first_found,
    match,
    pair_key,
    unconstrained,
)
from speaq.structures import IntArray, SceneGraph, ScenePrediction
from speaq.training.callbacks import Progress

NOTHING = -1
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ImageJudgement:
    """An image's triplets and ground-truth rows, each with what it finds or what finds it."""

    pairs: IntArray  # [T, 2] boxes of the triplets that the protocol leaves, best first
    predicates: IntArray  # [T]
    scores: NDArray[np.float32]  # [T]
    hit: BoolArray  # [T] the triplet finds a row
    near: BoolArray  # [T] both boxes and classes are a row's
    rank: IntArray  # [M] first triplet that finds the row; NEVER
    pair_rank: IntArray  # [M] first triplet with the row's boxes and classes, whatever its predicate; NEVER


@dataclass(frozen=True)
class Counting:
    """How triplets are ranked and matched: the choices of `speaq metrics`, with or without the graph constraint."""

    config: EvaluationConfig
    mode: Mode = "sgdet"
    constraint: bool = True  # False: several predicates of each triplet's pair, the list of ngR

    @property
    def name(self) -> str:
        """The protocol's short name."""
        return (protocol_name if self.constraint else unconstrained_name)(self.config, self.mode)

    def ranked(self, prediction: ScenePrediction) -> tuple[IntArray, IntArray, NDArray[np.float32]]:
        """Boxes [T, 2], predicates [T] and scores [T] of the triplets that count, best first; after `apply_mode`."""
        if self.constraint:
            kept = constrained(prediction, self.config.protocol)
            return prediction.pairs[kept], prediction.predicates[kept], prediction.triplet_scores[kept]
        num = max(NUM_UNCONSTRAINED, *self.config.recall_at)
        row, predicates = unconstrained(prediction, num, unique=self.config.protocol == "strict")
        pairs = prediction.pairs[row]
        return pairs, predicates, prediction.scores[pairs].prod(axis=1) * prediction.predicate_scores[row, predicates]


def judge(graph: SceneGraph, prediction: ScenePrediction, counting: Counting) -> ImageJudgement:
    """Matches boxes and classes, to know which pairs were found at all; of these recall's are equal in the predicate.

    `prediction` is one after `apply_mode`.
    """
    pairs, predicates, scores = counting.ranked(prediction)
    nameless = replace(graph, relations=graph.relations * (1, 1, 0))
    threshold, phrase = counting.config.iou_threshold, counting.mode == "phrase"
    near, near_row = match(nameless, prediction, pairs, np.zeros_like(predicates), threshold, phrase)
    right = predicates[near] == graph.relations[near_row, 2]
    places, num = np.arange(len(pairs)), len(graph.relations)
    return ImageJudgement(
        pairs=pairs,
        predicates=predicates,
        scores=scores,
        hit=np.isin(places, near[right]),
        near=np.isin(places, near),
        rank=first_found(near[right], near_row[right], num),
        pair_rank=first_found(near, near_row, num),
    )


def best_said(graph: SceneGraph, judged: ImageJudgement) -> IntArray:
    """[M] predicate of the best triplet on each row's pair; NOTHING where the pair was not found.

    NOTHING too where that is what another row says of the same two boxes: neither right nor a confusion.
    """
    found = judged.pair_rank < NEVER
    said = np.full(len(found), NOTHING)
    said[found] = judged.predicates[judged.pair_rank[found]]
    pair, truth = pair_key(graph.relations[:, :2]), graph.relations[:, 2]
    also_true = ((pair[:, None] == pair) & (truth[None] == said[:, None])).any(axis=1)
    said[also_true & (said != truth)] = NOTHING
    return said


@dataclass(frozen=True)
class Judgement:
    """All ground-truth rows of a split [M], in its order, and the recalls."""

    rank: IntArray  # [M] see ImageJudgement
    pair_rank: IntArray  # [M]
    said: IntArray  # [M] see best_said
    recall: RecallResult

    def hit(self, k: int) -> BoolArray:
        """[M] found by the best k triplets of its image."""
        return self.rank < k

    def wrong(self, k: int) -> BoolArray:
        """[M] both boxes and classes were found by the best k triplets, the predicate was not."""
        return (self.pair_rank < k) & ~self.hit(k)

    def missed(self, k: int) -> BoolArray:
        """[M] no triplet of the best k has its boxes and classes."""
        return self.pair_rank >= k

    def confusion(self, truth: IntArray, k: int, num_predicates: int) -> IntArray:
        """[P, P] rows of each predicate (`truth` [M]) by the predicate that their pair's best triplet has."""
        some = (self.pair_rank < k) & (self.said != NOTHING)
        counts = np.bincount(truth[some] * num_predicates + self.said[some], minlength=num_predicates**2)
        return counts.reshape(num_predicates, num_predicates)


def judge_split(
    *,
    path: Path,
    file: PredictionFile,
    split: Split,
    split_name: SplitName,
    evaluator: RecallEvaluator,
    counting: Counting,
    progress: Progress,
) -> Judgement:
    """Goes through all predictions once, and matches each with `judge` alone: the evaluator is given its ranks.

    Raises DataError where the predictions do not belong to the split, or are none of the mode.
    """
    num = len(split.relations)
    rank, pair_rank, said = np.full(num, NEVER), np.full(num, NEVER), np.full(num, NOTHING)
    rows = rows_of(path, file, split, split_name)
    for done, (row, graph, prediction) in enumerate(images_of(path, file, split, rows, counting.mode), start=1):
        judged = judge(graph, apply_mode(graph, prediction, counting.mode), counting)
        evaluator.add(row, graph, prediction, judged.rank)
        some = slice(split.relation_offsets[row], split.relation_offsets[row + 1])
        rank[some], pair_rank[some], said[some] = judged.rank, judged.pair_rank, best_said(graph, judged)
        progress(done, len(split), "matching")
    return Judgement(rank, pair_rank, said, replace(evaluator.result(), protocol=counting.name))
