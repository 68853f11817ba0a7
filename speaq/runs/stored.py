"""A trained run's raw outputs, made once, and evaluations from them: what searching the inference section needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speaq.config import Config, ConfigError, InferenceConfig
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import Split
from speaq.data.zero_shot import zero_shot_triplets
from speaq.evaluation.detection import DetectionEvaluator
from speaq.evaluation.recall import RecallEvaluator
from speaq.inference import QueryOutputs, decode_queries, query_outputs
from speaq.runs.raw_outputs import RawOutputs, writer
from speaq.runs.run import OpenedRun, open_run
from speaq.structures import IntArray
from speaq.training.callbacks import Progress, no_progress
from speaq.training.evaluate import Evaluation, raw_outputs


@dataclass(frozen=True)
class StoredRun:
    """Raw outputs of a run's best checkpoint on a split, with all that evaluating them takes."""

    raw: Path
    config: Config  # the run's
    data: Path
    data_digest: str
    step: int
    split: Split
    counts: IntArray  # [P+1] of the train split
    zero_shot: IntArray | None

    def evaluate(self, inference: InferenceConfig) -> Evaluation:
        """The same numbers as evaluating the network with this inference section; `layer` is that of the run.

        Raises ConfigError for another layer, DataError where the file cannot be read.
        """
        if inference.layer != self.config.inference.layer:
            raise ConfigError(f"inference.layer: {self.raw} holds layer {self.config.inference.layer} alone")
        recall = RecallEvaluator(len(self.counts) - 1, self.config.evaluation, self.zero_shot, self.counts)
        boxes = DetectionEvaluator()
        raw = RawOutputs(self.raw)
        try:
            for rows, sizes, queries in raw.batches():
                sizes_hw = [(int(h), int(w)) for h, w in sizes]
                predictions = decode_queries(queries, sizes_hw, inference, self.counts)
                for row, hw, prediction in zip(rows.tolist(), sizes_hw, predictions, strict=True):
                    graph = self.split.scene_graph(row, hw)
                    recall.add(row, graph, prediction)
                    boxes.add(row, graph, prediction.boxes_xyxy, prediction.classes, prediction.scores)
        finally:
            raw.close()
        result = recall.result()
        return Evaluation({**result.metrics, **boxes.result()}, result)


def store(run: Path, data: Path | None = None, *, progress: Progress = no_progress) -> StoredRun:
    """Raw outputs of the run's best checkpoint on the validation split, from its folder where they are there already.

    Raises:
        ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not belong together.
    """
    opened = open_run(run, data)
    config, vg = opened.config, opened.vg
    split = opened.split("val")
    path, header = place(opened)
    if not is_there(path, header):
        with writer(path, header) as append:
            for rows, sizes, queries in network_outputs(opened, split, progress):
                append(rows, sizes, queries)
    counts = predicate_count(vg.split("train", config.data), vg.num_predicates)
    zero_shot = zero_shot_triplets(vg, split, config.data, config.evaluation.zero_shot)
    return StoredRun(
        raw=path,
        config=config,
        data=vg.directory,
        data_digest=vg.digest,
        step=opened.step,
        split=split,
        counts=counts,
        zero_shot=zero_shot,
    )


def place(opened: OpenedRun) -> tuple[Path, dict[str, str]]:
    """Where raw outputs of a checkpoint on val are kept in its run's folder, and the header that they then have."""
    with opened.file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    layer = str(opened.config.inference.layer)
    header = {"checkpoint": digest, "data": opened.vg.digest, "split": "val", "layer": layer}
    return opened.folder / f"raw-val-{digest[:8]}.h5", header


def is_there(path: Path, header: dict[str, str]) -> bool:
    """Whether `path` holds the outputs that `header` describes. Raises DataError where it holds something else."""
    if not path.exists():
        return False
    raw = RawOutputs(path)
    try:
        return raw.header == header
    finally:
        raw.close()


@torch.inference_mode()
def network_outputs(
    opened: OpenedRun, split: Split, progress: Progress
) -> Iterator[tuple[IntArray, IntArray, QueryOutputs]]:
    """Rows of the split [n], heights and widths of the photos [n, 2] and outputs, batch by batch, of a checkpoint."""
    config, model, device = opened.config, *opened.model()
    for batch, outputs in raw_outputs(model, split, config, device, progress):
        yield np.array(batch.indices), np.array(batch.original_hw), query_outputs(outputs, config.inference.layer)
