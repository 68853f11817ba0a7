"""A finished (or interrupted) run, used from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speaq.config import Config, ConfigError, apply, from_dict
from speaq.data import DataError
from speaq.data.records import SplitName
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import Split, VisualGenome, open_data
from speaq.evaluation.predictions import PredictionWriter, Source
from speaq.evaluation.report import to_json
from speaq.study import seal
from speaq.training import checkpoint
from speaq.training.callbacks import Progress, no_progress
from speaq.training.device import pick_device
from speaq.training.evaluate import Evaluation, Store, evaluate_detector
from speaq.training.heads_by_name import by_name
from speaq.training.origins import data_directory as data_directory
from speaq.training.tasks import REPLICATED, TaskName, evaluator, make_task, restored_model


@dataclass(frozen=True)
class RunEvaluation:
    """An evaluation and what it was made from."""

    evaluation: Evaluation
    task: str
    split: str
    images: int
    checkpoint: Path
    step: int
    predicates: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Everything that a scene graph evaluation says, for JSON. Raises ConfigError for a detector's."""
        if self.evaluation.recall is None:
            raise ConfigError(f"{self.checkpoint}: is a detector's; its evaluation has box AP and no recall")
        boxes = {name: value for name, value in self.evaluation.metrics.items() if "@" not in name}
        return to_json(self.evaluation.recall, self.predicates, detection=boxes)


def evaluate_run(
    run: Path,
    split_name: SplitName = "val",
    data: Path | None = None,
    *,
    predictions: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> RunEvaluation:
    """Evaluates the best checkpoint of a run folder (or a checkpoint file, with `data`) on a split.

    With `predictions` every image's prediction is written into that file meanwhile (`speaq.evaluation.predictions`).
    `overrides` are dotted keys of the inference section, or `evaluation.batch_size`, with values other than the run's.

    Raises:
        ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not belong together; or the
            test split of the search that it is a trial of is sealed.
    """
    file = checkpoint.find(run)
    content = checkpoint.load(file)
    if split_name == "test":
        seal.look(run, checkpoint=file.name, step=content["step"])
    if content["task"] == REPLICATED:
        raise ConfigError(f"{file}: a replicated detector is where SpeaQ starts (training.init_from); train it first")
    config = apply(from_dict(content["config"], str(file)), _allowed(overrides or {}))
    vg = open_data(data_directory(run if run.is_dir() else file.parent, data))
    content["model"] = by_name(content, vg.vocabulary, file, vg.directory)
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    split = vg.split(split_name, config.data)
    if len(split) == 0:
        raise DataError(f"{vg.directory}: split {split_name} has no image")
    if predictions is not None and content["task"] == "detector":
        raise ConfigError(f"--predictions {predictions}: {file} is a detector's, which predicts no triplet")
    with nullcontext() if predictions is None else _writer(predictions, config, vg, split_name) as writer:
        evaluation = _evaluate(content, config, vg, split, progress, None if writer is None else writer.add)
    return RunEvaluation(
        evaluation=evaluation,
        task=content["task"],
        split=split_name,
        images=len(split),
        checkpoint=file,
        step=content["step"],
        predicates=vg.vocabulary.predicates,
    )


def _allowed(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises ConfigError for a key that belongs to training, or that would make the numbers incomparable."""
    for key in overrides:
        if not key.startswith("inference.") and key != "evaluation.batch_size":
            raise ConfigError(f"--set {key}: only inference.* and evaluation.batch_size can differ from the run's own")
    return overrides


def _writer(path: Path, config: Config, vg: VisualGenome, split_name: SplitName) -> PredictionWriter:
    inference = config.inference.model_dump(mode="json")
    return PredictionWriter(path, Source(vg.vocabulary, split_name, vg.digest, config.data, inference))


def _evaluate(
    content: dict[str, Any], config: Config, vg: VisualGenome, split: Split, progress: Progress, store: Store | None
) -> Evaluation:
    where = f"checkpoint of step {content['step']}"
    model = restored_model(content["task"], config, vg.vocabulary, content["model"], where)
    if content["data_digest"] is None:  # converted: which images were val is not known, and train may be smaller here
        config = apply(config, {"data.num_val": 0})
    return _evaluate_model(content["task"], model, config, vg, split, progress=progress, store=store)


def _evaluate_model(
    task: TaskName,
    model: nn.Module,
    config: Config,
    vg: VisualGenome,
    split: Split,
    *,
    progress: Progress,
    store: Store | None = None,
) -> Evaluation:
    device = pick_device(config)
    model.to(device).to(memory_format=torch.channels_last)
    if task == "detector":
        return evaluate_detector(model, split, config, device, progress=progress)
    counts = predicate_count(vg.split("train", config.data), len(vg.vocabulary.predicates))
    return evaluator(config, vg, counts, store)(model, split, device, progress)


def evaluate_start(
    config: Config, data: Path, split_name: SplitName = "val", *, progress: Progress = no_progress
) -> Evaluation:
    """Evaluates SpeaQ as training would start it: random weights under `seed`, and `training.init_from`'s in them."""
    vg = open_data(data)
    torch.manual_seed(config.seed)
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    task = make_task("speaq", config, vg, vg.split("train", config.data))
    return _evaluate_model("speaq", task.model, config, vg, vg.split(split_name, config.data), progress=progress)
