"""What is looked at: a split of a data set, the run, and what the run predicts for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq.config import DataConfig, EvaluationConfig
from speaq.data import DataError
from speaq.data.records import Split, SplitName, VisualGenome
from speaq.data.statistics import predicate_count, zero_shot_triplets
from speaq.evaluation.predictions import PredictionFile
from speaq.evaluation.recall import THIRDS, RecallEvaluator, head_body_tail
from speaq.evaluation.triplets import apply_mode, triplet_key
from speaq.explore.judgement import Counting, ImageJudgement, Judgement, judge, judge_split
from speaq.structures import IntArray, SceneGraph, ScenePrediction
from speaq.training.callbacks import Progress


@dataclass(frozen=True)
class Note:
    """What the reader should know on every page, and a command that changes it."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Predictions:
    """Stored predictions for the split of a view."""

    path: Path
    file: PredictionFile

    @cached_property
    def place(self) -> dict[str, int]:
        """Place in the file of every image id."""
        return {image_id: place for place, image_id in enumerate(self.file.image_ids)}


@dataclass(frozen=True, eq=False)
class View:
    """A split and, where there are some, a run and predictions for it. M relations of the split, P predicates."""

    data: VisualGenome
    split_name: SplitName
    config: DataConfig  # which images the split has
    counting: Counting  # how triplets are matched with ground truth
    title: str  # what the reader looks at: the folder of the data set or of the run
    run: Path | None = None
    predictions: Predictions | None = None
    notes: tuple[Note, ...] = ()

    @property
    def evaluation(self) -> EvaluationConfig:
        """How triplets are counted: K, protocol, threshold of IoU."""
        return self.counting.config

    @cached_property
    def split(self) -> Split:
        """The images that the config keeps of the split."""
        return self.data.split(self.split_name, self.config)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row in the split of every image id."""
        return {image_id: row for row, image_id in enumerate(self.split.image_ids.tolist())}

    @cached_property
    def predicate_count(self) -> IntArray:
        """[P] relations of the train split, behind head, body and tail."""
        return predicate_count(self.data.split("train", self.config), self.data.num_predicates)[:-1]

    @cached_property
    def part(self) -> IntArray:
        """[P] 0 for a predicate of the head, 1 of the body, 2 of the tail."""
        part = np.zeros(self.data.num_predicates, dtype=np.int64)
        for number, predicates in enumerate(head_body_tail(self.predicate_count)):
            part[predicates] = number
        return part

    def part_name(self, predicate: int) -> str:
        """head, body or tail, by how frequent the predicate is in training."""
        return THIRDS[self.part[predicate]]

    @cached_property
    def relation_classes(self) -> IntArray:
        """[M, 2] classes of subject and object."""
        first = self.split.box_offsets[self.split.relation_image]
        ends = self.split.relations[:, :2] + first[:, None]
        classes: IntArray = self.split.classes[ends].astype(np.int64)
        return classes

    @cached_property
    def zero_shot_triplets(self) -> IntArray | None:
        """[Z, 3] see `zero_shot_triplets`."""
        return zero_shot_triplets(self.data, self.split, self.config, self.evaluation.zero_shot)

    @cached_property
    def zero_shot(self) -> NDArray[np.bool_]:
        """[M] whether training never shows the relation's triplet."""
        known = self.zero_shot_triplets
        if known is None:
            return np.zeros(len(self.split.relations), dtype=np.bool_)
        keys = triplet_key(self.relation_classes, self.split.relations[:, 2].astype(np.int64))
        return np.isin(keys, triplet_key(known[:, :2], known[:, 2]))

    @cached_property
    def judgement(self) -> Judgement:
        """Made once; only with predictions."""
        return self.judge_all(lambda done, total, text: None)

    def judge_all(self, progress: Progress) -> Judgement:
        """The judgement, with its progress; later it is there at once. Raises DataError."""
        assert self.predictions is not None
        num = self.data.num_predicates
        mode = self.counting.mode
        evaluator = RecallEvaluator(num, self.evaluation, self.zero_shot_triplets, self.predicate_count, mode)
        made = judge_split(
            path=self.predictions.path,
            file=self.predictions.file,
            split=self.split,
            split_name=self.split_name,
            evaluator=evaluator,
            counting=self.counting,
            progress=progress,
        )
        self.__dict__["judgement"] = made  # where cached_property looks
        return made

    def graph(self, row: int) -> SceneGraph:
        """Ground truth of an image, in pixels of its listed size where the photo is lost or broken."""
        try:
            size_hw = self.split.size_hw(row)
        except DataError:
            height, width = self.split.listed_hw[row].tolist()
            size_hw = (height, width)
        return self.split.scene_graph(row, size_hw)

    def predicted(self, graph: SceneGraph) -> tuple[ScenePrediction, ImageJudgement] | None:
        """What is stored for an image, after `apply_mode`; None where nothing is."""
        if self.predictions is None or graph.image_id not in self.predictions.place:
            return None
        prediction = self.predictions.file.read(self.predictions.place[graph.image_id]).prediction
        prediction = apply_mode(graph, prediction, self.counting.mode)
        return prediction, judge(graph, prediction, self.counting)
