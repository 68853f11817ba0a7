"""A finished (or interrupted) run, used from its folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speaq.config import Config, ConfigError, apply, from_dict
from speaq.data import DataError
from speaq.data.records import SplitName
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import Split, VisualGenome, open_data
from speaq.evaluation.predictions import PredictionWriter, Source
from speaq.evaluation.report import to_json
from speaq.structures import IntArray
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


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint with the data set that it belongs to."""

    file: Path  # the checkpoint
    folder: Path  # of the run, or where the checkpoint lies
    task: TaskName
    config: Config
    vg: VisualGenome
    step: int
    weights: dict[str, Tensor]  # heads in the order of the data's names
    converted: bool  # from the reference's: it is not known which images were val

    @property
    def counted(self) -> Config:
        """The config whose train rows are counted: all of them where it is not known which were val."""
        return apply(self.config, {"data.num_val": 0}) if self.converted else self.config

    @property
    def counts(self) -> IntArray:
        """[P+1] relations of each predicate in the train rows that are counted."""
        return predicate_count(self.vg.split("train", self.counted.data), self.vg.num_predicates)

    def split(self, name: SplitName) -> Split:
        """A split of the data. Raises DataError where it has no image."""
        split = self.vg.split(name, self.config.data)
        if len(split) == 0:
            raise DataError(f"{self.vg.directory}: split {name} has no image")
        return split

    def model(self) -> tuple[nn.Module, torch.device]:
        """The trained network and where it is. Sets the number of threads as the run has it."""
        names = self.vg.vocabulary
        return _on_device(lambda: restored_model(self.task, self.config, names, self.weights, self.file), self.config)


def open_run(
    run: Path,
    data: Path | None = None,
    *,
    file: Path | None = None,
    split: SplitName = "val",
    overrides: Mapping[str, Any] | None = None,
    detectors: bool = False,
) -> OpenedRun:
    """Opens a run folder (or a checkpoint file) and its data.

    Args:
        file: a checkpoint of the run; default: the best.
        split: what is to be looked at: a look at the test split of a search is noted, or refused.
        overrides: dotted keys of the inference section, or `evaluation.batch_size`, with values other than the run's.
        detectors: whether a detector will do.

    Raises:
        ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not belong together; or the
            test split of the search that it is a trial of is sealed.
    """
    file = file or checkpoint.find(run)
    content = checkpoint.load(file) if detectors else checkpoint.load_speaq(file)
    if split == "test":
        seal.look(run, checkpoint=file.name, step=content["step"])
    if content["task"] == REPLICATED:
        raise ConfigError(f"{file}: a replicated detector is where SpeaQ starts (training.init_from); train it first")
    config = apply(from_dict(content["config"], str(file)), _allowed(overrides or {}))
    folder = run if run.is_dir() else file.parent
    vg = open_data(data_directory(folder, data))
    return OpenedRun(
        file=file,
        folder=folder,
        task=content["task"],
        config=config,
        vg=vg,
        step=content["step"],
        weights=by_name(content, vg.vocabulary, file, vg.directory),
        converted=content["data_digest"] is None,
    )


def _allowed(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises ConfigError for a key that belongs to training, or that would make the numbers incomparable."""
    for key in overrides:
        if not key.startswith("inference.") and key != "evaluation.batch_size":
            raise ConfigError(f"--set {key}: only inference.* and evaluation.batch_size can differ from the run's own")
    return overrides


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
    `overrides`, and what is raised: as of `open_run`.
    """
    opened = open_run(run, data, split=split_name, overrides=overrides, detectors=True)
    vg, split = opened.vg, opened.split(split_name)
    if predictions is not None and opened.task == "detector":
        raise ConfigError(f"--predictions {predictions}: {opened.file} is a detector's, which predicts no triplet")
    inference = opened.config.inference.model_dump(mode="json")
    source = Source(vg.vocabulary, split_name, vg.digest, opened.config.data, inference)
    with nullcontext() if predictions is None else PredictionWriter(predictions, source) as writer:
        store = None if writer is None else writer.add
        evaluation = _evaluate(opened.task, opened.model(), opened.counted, vg, split, progress=progress, store=store)
    return RunEvaluation(
        evaluation=evaluation,
        task=opened.task,
        split=split_name,
        images=len(split),
        checkpoint=opened.file,
        step=opened.step,
        predicates=vg.vocabulary.predicates,
    )


def _evaluate(
    task: TaskName,
    placed: tuple[nn.Module, torch.device],
    config: Config,
    vg: VisualGenome,
    split: Split,
    *,
    progress: Progress,
    store: Store | None = None,
) -> Evaluation:
    model, device = placed
    if task == "detector":
        return evaluate_detector(model, split, config, device, progress=progress)
    counts = predicate_count(vg.split("train", config.data), vg.num_predicates)
    return evaluator(config, vg, counts, store)(model, split, device, progress)


def evaluate_start(
    config: Config, data: Path, split_name: SplitName = "val", *, progress: Progress = no_progress
) -> Evaluation:
    """Evaluates SpeaQ as training would start it: random weights under `seed`, and `training.init_from`'s in them."""
    vg = open_data(data)
    torch.manual_seed(config.seed)
    model = _on_device(lambda: make_task("speaq", config, vg, vg.split("train", config.data)).model, config)
    return _evaluate("speaq", model, config, vg, vg.split(split_name, config.data), progress=progress)


def _on_device(make: Callable[[], nn.Module], config: Config) -> tuple[nn.Module, torch.device]:
    """A network and where it is, with as many threads as the config says."""
    if config.training.num_threads is not None:
        torch.set_num_threads(config.training.num_threads)
    model, device = make(), pick_device(config)
    return model.to(device).to(memory_format=torch.channels_last), device
