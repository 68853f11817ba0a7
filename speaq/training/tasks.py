"""What is trained: SpeaQ itself, or the detector that it starts from. Both give the loop the same few things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from speaq.config import Config, ConfigError, LossConfig
from speaq.config.sections import Heads
from speaq.data.statistics import predicate_count, zero_shot_triplets
from speaq.data.visual_genome import Split, VisualGenome
from speaq.evaluation.detection import BOX_AP
from speaq.evaluation.protocol import protocol_name
from speaq.losses import DetectorLoss, SpeaQLoss, predicate_weights
from speaq.matching.groups import groups_for
from speaq.model.backbone_weights import load_backbone
from speaq.model.detector import Detector, load_replicated, load_speaq, replicate
from speaq.model.reference_weights import WeightsError
from speaq.model.speaq import SpeaQ
from speaq.structures import IntArray, Targets, Vocabulary
from speaq.training import checkpoint, heads_by_name
from speaq.training.callbacks import Progress
from speaq.training.checkpoint import CheckpointError
from speaq.training.evaluate import Evaluation, Store, evaluate_detector, evaluate_scene_graphs

TaskName = Literal["speaq", "detector"]
REPLICATED = "replicated"  # a checkpoint's task besides these: a detector in SpeaQ's shape, to start SpeaQ from
STARTS = {"detector": replicate, REPLICATED: load_replicated, "speaq": load_speaq}  # of SpeaQ, by checkpoint's task


class Criterion(Protocol):
    """A loss: outputs of the network and targets → the weighted total, 0-d, and its parts by name, 0-d each."""

    def __call__(self, outputs: Any, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass
class Task:
    """A network to train, with its loss and its evaluation."""

    name: TaskName
    model: nn.Module
    criterion_for: Callable[[LossConfig], Criterion]  # of the network's outputs, with these weights
    best_metric: str
    protocol: str  # short name of how its metrics are counted
    evaluate: Callable[[nn.Module, Split, torch.device, Progress], Evaluation]


def make_model(task: TaskName, config: Config, num_objects: int, num_predicates: int) -> nn.Module:
    """The network of a task, randomly initialised."""
    if task == "detector":
        return Detector(config.model, num_objects)
    return SpeaQ(config.model, num_objects, num_predicates)


def restored_model(
    task: TaskName, config: Config, vocabulary: Vocabulary, weights: Mapping[str, Tensor], where: object
) -> nn.Module:
    """The network of a task with a checkpoint's weights.

    Raises CheckpointError where they do not fit its config, before a network larger than they are takes any memory.
    """
    counts = len(vocabulary.objects), len(vocabulary.predicates)
    misfit = f"{where}: its weights do not fit its config"
    if (layers := config.model.num_encoder_layers + config.model.num_decoder_layers) > len(weights):
        raise CheckpointError(f"{misfit} (of {layers} layers)")
    try:
        with torch.device("meta"):  # shapes alone
            planned = make_model(task, config, *counts)
        planned.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{misfit} ({str(error).strip().splitlines()[-1].strip()})") from error
    model = make_model(task, config, *counts)
    model.load_state_dict(weights)
    return model


def make_task(task: TaskName, config: Config, vg: VisualGenome, train_split: Split) -> Task:
    """Builds model, criterion and evaluation of a task; weights come from `init_from` or `backbone_from`.

    Raises ConfigError for settings that the task, or the data, cannot have.
    """
    if task == "detector" and config.training.relation_multiplier != 1:
        raise ConfigError(
            f"training.relation_multiplier {config.training.relation_multiplier:g} has no effect on a detector, which "
            "has no relation stream: leave it at 1"
        )
    num_objects, num_predicates = len(vg.vocabulary.objects), len(vg.vocabulary.predicates)
    model = make_model(task, config, num_objects, num_predicates)
    if config.training.backbone_from is not None:
        initialise_backbone(model, Path(config.training.backbone_from))
    if config.training.init_from is not None:
        initialise(model, Path(config.training.init_from), task, vg.vocabulary, config.training.init_heads)
    if task == "detector":
        return Task(
            task,
            model,
            lambda losses: DetectorLoss(losses, config.matching, num_objects),
            "AP50",
            BOX_AP,
            lambda m, split, device, progress: evaluate_detector(m, split, config, device, progress=progress),
        )
    counts = predicate_count(train_split, num_predicates)
    return Task(
        task,
        model,
        lambda losses: make_criterion(config.model_copy(update={"losses": losses}), counts, vg.vocabulary),
        config.training.best_metric,
        protocol_name(config.evaluation),
        evaluator(config, vg, counts),
    )


def make_criterion(config: Config, counts: IntArray, vocabulary: Vocabulary) -> SpeaQLoss:
    """SpeaQ's loss for the train split's predicate counts [P+1]."""
    weights = predicate_weights(
        torch.from_numpy(np.ascontiguousarray(counts[:-1])),
        config.losses.oversample,
        config.losses.undersample,
        config.losses.no_relation_weight,
    )
    groups = groups_for(config, counts, vocabulary.predicates)
    num_objects = len(vocabulary.objects)
    return SpeaQLoss(config.losses, config.matching, groups, config.model.query_multiple, weights, num_objects)


def evaluator(
    config: Config, vg: VisualGenome, counts: IntArray, store: Store | None = None
) -> Callable[[nn.Module, Split, torch.device, Progress], Evaluation]:
    """Scene graph evaluation with everything but model, split and device filled in."""

    def evaluate(model: nn.Module, split: Split, device: torch.device, progress: Progress) -> Evaluation:
        zero_shot = zero_shot_triplets(vg, split, config.data, config.evaluation.zero_shot)
        return evaluate_scene_graphs(
            model, split, config, device, zero_shot=zero_shot, predicate_count=counts, progress=progress, store=store
        )

    return evaluate


def initialise_backbone(model: nn.Module, path: Path) -> None:
    """Loads published ResNet weights into the backbone. Raises ConfigError where the file cannot be used."""
    assert isinstance(model, SpeaQ | Detector)
    try:
        load_backbone(path, model.backbone)
    except WeightsError as error:
        raise ConfigError(f"training.backbone_from: {error}") from error


def initialise(
    model: nn.Module, path: Path, task: TaskName, vocabulary: Vocabulary, init_heads: Heads = "keep"
) -> None:
    """Loads the weights of a run folder or checkpoint into a model of a task.

    A detector's are replicated into SpeaQ's three decoders, one that is replicated already is copied, and of another
    SpeaQ the relation queries are repeated where the query multiple is larger here.

    Args:
        vocabulary: names of the model's classes and predicates.
        init_heads: what becomes of the heads' rows, see `training.init_heads`.

    Raises:
        ConfigError: the checkpoint does not fit the model; the message names the first differing weight or name.
    """
    file = checkpoint.find(path)
    content = checkpoint.load(file)
    source = str(content.get("task"))
    try:
        if isinstance(model, SpeaQ) and source in STARTS:
            STARTS[source](_weights(content, vocabulary, model, init_heads, file), model)
        elif task == source:
            model.load_state_dict(_weights(content, vocabulary, model, init_heads, file))
        else:
            raise ConfigError(f"training.init_from: {file} holds a {source} model; a {task} cannot start from it")
    except (RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(f"training.init_from: {file} does not fit the model: {lines[-1]}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"training.init_from: {file}: {error}") from error


def _weights(
    content: Mapping[str, Any], vocabulary: Vocabulary, model: nn.Module, init_heads: Heads, file: Path
) -> dict[str, Tensor]:
    """A checkpoint's weights, their heads made for `vocabulary` as `training.init_heads` says."""
    if init_heads == "keep":
        remedy = "; training.init_heads: matching keeps the rows of the names that both have"
        return heads_by_name.by_name(content, vocabulary, f"training.init_from: {file}", "the data", remedy)
    make = heads_by_name.matching if init_heads == "matching" else heads_by_name.new
    return make(content, vocabulary, model.state_dict(), file)
