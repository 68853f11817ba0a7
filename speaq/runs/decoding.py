"""A run's raw outputs on the validation split, held by the host, and what decodings of them come to on half of it.

Nothing of them is written: with 300 relation queries and 50 predicates an image takes 76 KB, 5,000 images 0.4 GB.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from speaq.config import Config, InferenceConfig
from speaq.data.features import StoredSplit, read_header
from speaq.data.records import Split, looked_at
from speaq.data.statistics import zero_shot_triplets
from speaq.evaluation.detection import DetectionEvaluator
from speaq.evaluation.recall import RecallEvaluator
from speaq.inference import QueryOutputs, decode_queries
from speaq.runs.run import OpenedRun
from speaq.runs.stored import network_outputs
from speaq.structures import IntArray
from speaq.study.halves import halves
from speaq.training.callbacks import Metrics, Progress
from speaq.training.device import pick_device

Batch = tuple[IntArray, IntArray, QueryOutputs]  # rows of the split [n], heights and widths [n, 2], outputs of n images


@dataclass(frozen=True)
class Images:
    """Raw outputs of some images of a split, with all that evaluating them takes."""

    split: Split
    config: Config  # of the run
    counts: IntArray  # [P+1] of the train split
    zero_shot: IntArray | None
    batches: list[Batch] = field(default_factory=list)  # in the memory of the host

    def __len__(self) -> int:
        return sum(len(rows) for rows, _, _ in self.batches)

    def add(self, batch: Batch, wanted: IntArray) -> None:
        """Takes the images of a batch that lie in the wanted rows of the split."""
        rows, sizes_hw, queries = batch
        some = np.flatnonzero(np.isin(rows, wanted))
        if len(some):
            kept = {name: value.cpu()[torch.from_numpy(some)] for name, value in vars(queries).items()}
            self.batches.append((rows[some], sizes_hw[some], QueryOutputs(**kept)))

    def metrics(self, inference: InferenceConfig, *, boxes: bool = False) -> Metrics:
        """Recalls of the images with a decoding, as evaluating the network with it gives them.

        Args:
            boxes: box AP too.

        Raises ValueError for a decoding that the outputs cannot have (more predicates of a query than there are).
        """
        recall = RecallEvaluator(len(self.counts) - 1, self.config.evaluation, self.zero_shot, self.counts)
        found = DetectionEvaluator()
        device = pick_device(self.config)  # which holds one batch at a time
        for rows, sizes, queries in self.batches:
            sizes_hw = [(int(h), int(w)) for h, w in sizes]
            there = QueryOutputs(**{name: value.to(device) for name, value in vars(queries).items()})
            predictions = decode_queries(there, sizes_hw, inference, self.counts)
            for row, hw, prediction in zip(rows.tolist(), sizes_hw, predictions, strict=True):
                graph = self.split.scene_graph(row, hw)
                recall.add(row, graph, prediction)
                if boxes:
                    found.add(row, graph, prediction.boxes_xyxy, prediction.classes, prediction.scores)
        return {**recall.result().metrics, **(found.result() if boxes else {})}


def halved(opened: OpenedRun, progress: Progress) -> tuple[Images, Images]:
    """Raw outputs of a checkpoint on the images of val that training looks at: half to search on, half to judge.

    From stored features where it was trained from them. Raises DataError, ConfigError where either cannot be read.
    """
    config = opened.config
    split = looked_at(opened.split("val"), config.evaluation)
    if (features := config.training.features) is not None:  # which training has just judged
        split = replace(split, features=StoredSplit(Path(features), read_header(Path(features)), "val"))
    zero_shot = zero_shot_triplets(opened.vg, split, config.data, config.evaluation.zero_shot)
    searched, judged = (Images(split, config, opened.counts, zero_shot) for _ in range(2))
    to_search, to_judge = halves(split)
    for batch in network_outputs(opened, split, progress):
        searched.add(batch, to_search)
        judged.add(batch, to_judge)
    return searched, judged
