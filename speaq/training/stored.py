"""A trained run's raw outputs, made once, and evaluations from them: what searching the inference section needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speaq.config import Config, ConfigError, InferenceConfig, from_dict
from speaq.data import DataError
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import Split, VisualGenome, open_data
from speaq.data.zero_shot import zero_shot_triplets
from speaq.evaluation.detection import DetectionEvaluator
from speaq.evaluation.raw_outputs import RawOutputs, writer
from speaq.evaluation.recall import RecallEvaluator
from speaq.inference import decode_queries, query_outputs
from speaq.structures import IntArray
from speaq.training import checkpoint
from speaq.training.evaluate import Evaluation, Progress, _no_progress, raw_outputs
from speaq.training.loop import pick_device
from speaq.training.run import check_vocabulary, data_directory
from speaq.training.tasks import make_model


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


def store(run: Path, data: Path | None = None, *, progress: Progress = _no_progress) -> StoredRun:
    """Raw outputs of the run's best checkpoint on the validation split, from its folder where they are there already.

    Raises:
        ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not belong together.
    """
    file = checkpoint.find(run)
    content = checkpoint.load(file)
    if content["task"] != "speaq":
        raise ConfigError(f"{file}: is a {content['task']}'s checkpoint, which predicts no triplet")
    config = from_dict(content["config"], str(file))
    folder = run if run.is_dir() else file.parent
    vg = open_data(data_directory(folder, data))
    check_vocabulary(vg, content, file)
    split = vg.split("val", config.data)
    if len(split) == 0:
        raise DataError(f"{vg.directory}: split val has no image")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    header = {"checkpoint": digest, "data": vg.digest, "split": "val", "layer": str(config.inference.layer)}
    path = folder / f"raw-val-{digest[:8]}.h5"
    if not _is_there(path, header):
        _compute(path, header, content, config, vg, split, progress)
    counts = predicate_count(vg.split("train", config.data), vg.num_predicates)
    zero_shot = zero_shot_triplets(vg, split, config.data, config.evaluation.zero_shot)
    return StoredRun(path, config, vg.directory, vg.digest, content["step"], split, counts, zero_shot)


def _is_there(path: Path, header: dict[str, str]) -> bool:
    if not path.exists():
        return False
    raw = RawOutputs(path)
    try:
        return raw.header == header
    finally:
        raw.close()


def _compute(
    path: Path,
    header: dict[str, str],
    content: dict[str, object],
    config: Config,
    vg: VisualGenome,
    split: Split,
    progress: Progress,
) -> None:
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    model = make_model("speaq", config, len(vg.vocabulary.objects), vg.num_predicates)
    checkpoint.fill(model, content, f"checkpoint of {path.parent}")
    device = pick_device(config)
    model.to(device).to(memory_format=torch.channels_last)
    with writer(path, header) as append, torch.inference_mode():
        for batch, outputs in raw_outputs(model, split, config, device, progress):
            rows, sizes = np.array(batch.indices), np.array(batch.original_hw)
            append(rows, sizes, query_outputs(outputs, config.inference.layer))
