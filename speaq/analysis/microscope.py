"""The assignment microscope: one image of a run's data set under any matching settings, and why each query learns what.

microscope = Microscope.open(Path("RUN"))
slide = microscope.slide("1592")  # the network looks once
microscope.look(slide, 0, {"matching.max_repeats": 6})  # matching alone, with the functions that training uses

Letters: L decoder layers, R relation queries, M relations of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speaq.boxes import cxcywh_to_xyxy
from speaq.config import Config, ConfigError, MatchingConfig, apply
from speaq.data.dataset import SceneGraphDataset, collate
from speaq.data.records import SplitName
from speaq.matching.cost import compare
from speaq.matching.groups import PredicateGroups, groups_for
from speaq.matching.match import group_mask, match
from speaq.matching.repeats import best_sum, quality
from speaq.matching.rows import relation_queries, relation_truth
from speaq.runs.run import OpenedRun, open_run
from speaq.structures import IntArray, LayerOutputs, SceneGraph, Targets
from speaq.study import seal
from speaq.vocabulary import in_words


@dataclass(frozen=True)
class Examination:
    """An assignment and what led to it."""

    cost: Tensor  # [L, M, R] matching cost, without the 1e6 of queries outside the relation's group
    outside: Tensor | None  # [M, R] whether the query is of another group than the relation; None: no groups
    quality: Tensor | None  # [L, M, R] how well the query finds the relation; None: static repeats need none
    quality_sum: Tensor | None  # [L, M] of the K best queries; truncated, and at least 1, it is the repeats
    repeats: Tensor  # [L, M] int64, k
    relation: Tensor  # [L, R] int64, the relation that each query is matched to; -1: none


@torch.no_grad()
def examine(
    outputs: LayerOutputs, target: Targets, config: MatchingConfig, groups: PredicateGroups | None, query_multiple: int
) -> Examination:
    """Matches one image as training does, and keeps what training throws away.

    Args:
        outputs: of one image.
        target: of the same image, which is the only one.
        config, groups, query_multiple: as in `speaq.matching.match.match`.
    Raises:
        NonFiniteError: NaN or infinity in the outputs or targets.
    """
    assignment = match(outputs, target, config, groups, query_multiple)
    queries, truth = relation_queries(outputs), relation_truth(target)
    found = compare(queries, truth, config)
    _, _, outside = group_mask(queries, truth, groups, query_multiple)
    qualities = None if config.scheme == "static" else quality(found, config, outside)
    relation = truth.image.new_full((queries.shape[0], queries.shape[2]), -1)
    relation[assignment.layer, assignment.query] = assignment.relation
    return Examination(
        cost=found.cost,
        outside=outside,
        quality=qualities,
        quality_sum=None if qualities is None else best_sum(qualities, config.max_repeats),
        repeats=assignment.repeats[0],
        relation=relation,
    )


SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Slide:
    """An image that the network has looked at; everything is on the CPU."""

    image_id: str
    split: str
    graph: SceneGraph  # ground truth in pixels of the photo
    target: Targets  # the same as training sees it, resized as for evaluation; every relation, duplicates too
    outputs: LayerOutputs  # of all layers, B = 1
    triplets: tuple[str, ...]  # M, in words

    def box(self, kind: str, layer: int, query: int) -> list[float]:
        """A query's `subject_boxes` or `object_boxes`, xyxy in pixels of the photo."""
        height, width = self.graph.size_hw
        box = cxcywh_to_xyxy(getattr(self.outputs, kind)[layer, 0, query])
        return [round(float(x), 1) for x in box * torch.tensor([width, height, width, height])]


@dataclass(frozen=True)
class Microscope:
    """A run whose images are looked at."""

    run: Path
    opened: OpenedRun

    @classmethod
    def open(cls, run: Path, data: Path | None = None) -> Microscope:
        """Raises ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not fit."""
        return cls(run, open_run(run, data))

    @cached_property
    def _model(self) -> tuple[nn.Module, torch.device]:
        model, device = self.opened.model()
        return model.eval(), device

    @cached_property
    def _counts(self) -> IntArray:
        return self.opened.counts

    @torch.inference_mode()
    def slide(self, image_id: str) -> Slide:
        """The network's outputs for an image of any split.

        Raises:
            ConfigError: no such image with a relation, or it belongs to the sealed test split of a search.
            DataError: its photo cannot be read.
        """
        config, vg = self.opened.config, self.opened.vg
        for name in SPLITS:
            split = vg.split(name, config.data)
            found = (split.image_ids == image_id).nonzero()[0].tolist()
            if found:
                break
        else:
            raise ConfigError(f"image {image_id}: is in no split of {vg.directory}, or has no relation")
        if name == "test":
            seal.look(self.run, image=image_id)
        batch = collate([SceneGraphDataset(split, config.data, train=False)[found[0]]])
        graph = split.scene_graph(found[0], batch.original_hw[0])
        model, device = self._model
        outputs = model(batch.images.to(device), batch.sizes_hw.to(device)).float()
        on_host = LayerOutputs(**{f.name: getattr(outputs, f.name).cpu() for f in fields(outputs)})
        return Slide(image_id, name, graph, batch.targets, on_host, in_words(graph, vg.vocabulary))

    def settings(self, overrides: Mapping[str, Any]) -> tuple[Config, PredicateGroups | None]:
        """The run's config with other matching settings, and the groups that follow. Raises ConfigError."""
        for key in overrides:
            if not key.startswith("matching."):
                raise ConfigError(f"--set {key}: only matching.* can differ: the network's outputs are there already")
        config = apply(self.opened.config, overrides)
        return config, groups_for(config, self._counts, self.opened.vg.vocabulary.predicates)

    def examine(self, slide: Slide, overrides: Mapping[str, Any]) -> tuple[Examination, PredicateGroups | None]:
        """The image's assignment under other matching settings. Raises ConfigError for settings that cannot be."""
        config, groups = self.settings(overrides)
        multiple = config.model.query_multiple
        return examine(slide.outputs, slide.target, config.matching, groups, multiple), groups

    def look(self, slide: Slide, triplet: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """One relation in every layer, as plain values; layers count from 1, queries and triplets from 0.

        Of each layer: `repeats` k; `quality_sum` of the K best queries; `matched` queries; `as_trained`, both with
        the run's own settings; `quality`, `cost` [R] of every query for this relation, and `relation` [R] that it is
        matched to (None: none); `shown`: the queries that are matched now or in training, and the K best ones, with
        their boxes in pixels and what they predict.

        Raises:
            ConfigError: no such triplet, or settings that cannot be.
        """
        if not 0 <= triplet < len(slide.triplets):
            raise ConfigError(
                f"--triplet {triplet}: image {slide.image_id} has triplets 0 to {len(slide.triplets) - 1}"
            )
        config, _ = self.settings(overrides)
        now, groups = self.examine(slide, overrides)
        trained, _ = self.examine(slide, {})
        predicate = int(slide.target.relations[triplet, 2])
        subject, other, _ = slide.graph.relations[triplet].tolist()
        return {
            "image": slide.image_id,
            "split": slide.split,
            "triplet": triplet,
            "words": slide.triplets[triplet],
            "subject_box": slide.graph.boxes_xyxy[subject].tolist(),
            "object_box": slide.graph.boxes_xyxy[other].tolist(),
            "settings": config.matching.model_dump(mode="json"),
            "group": 0 if groups is None else groups.group_of_predicate[predicate],
            "group_bounds": self._bounds(groups),
            "layers": [
                self._layer(slide, triplet, layer, now, trained, config.matching.max_repeats)
                for layer in range(len(now.repeats))
            ],
        }

    def _bounds(self, groups: PredicateGroups | None) -> list[int]:
        """[G+1] first relation query of every group, and R."""
        model = self.opened.config.model
        bounds = (0, model.num_queries) if groups is None else groups.bounds
        return [bound * model.query_multiple for bound in bounds]

    def _layer(
        self, slide: Slide, triplet: int, layer: int, now: Examination, trained: Examination, max_repeats: int
    ) -> dict[str, Any]:
        matched, before = _matched(now, layer, triplet), _matched(trained, layer, triplet)
        quality = None if now.quality is None else now.quality[layer, triplet]
        best = [] if quality is None else quality.topk(min(max_repeats, len(quality))).indices.tolist()
        relation = now.relation[layer].tolist()
        return {
            "layer": layer + 1,
            "repeats": int(now.repeats[layer, triplet]),
            "quality_sum": None if now.quality_sum is None else round(float(now.quality_sum[layer, triplet]), 4),
            "matched": matched,
            "as_trained": {"repeats": int(trained.repeats[layer, triplet]), "matched": before},
            "quality": None if quality is None else _rounded(quality),
            "cost": _rounded(now.cost[layer, triplet]),
            "relation": [None if row < 0 else row for row in relation],
            "shown": [self._query(slide, layer, query) for query in dict.fromkeys([*matched, *before, *best])],
        }

    def _query(self, slide: Slide, layer: int, query: int) -> dict[str, Any]:
        outputs, vocabulary = slide.outputs, self.opened.vg.vocabulary
        return {
            "query": query,
            "subject": _best(outputs.subject_logits[layer, 0, query], vocabulary.objects),
            "predicate": _best(outputs.predicate_logits[layer, 0, query], vocabulary.predicates),
            "object": _best(outputs.object_logits[layer, 0, query], vocabulary.objects),
            "subject_box": slide.box("subject_boxes", layer, query),
            "object_box": slide.box("object_boxes", layer, query),
        }


def _matched(found: Examination, layer: int, triplet: int) -> list[int]:
    queries: list[int] = (found.relation[layer] == triplet).nonzero().flatten().tolist()
    return queries


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _best(logits: Tensor, names: tuple[str, ...]) -> list[Any]:
    """[name, probability] of the best class that is not background."""
    probability, index = logits.softmax(-1)[:-1].max(-1)
    return [names[int(index)], round(float(probability), 4)]
