"""A checkpoint of the reference implementation → a run folder of ours (config.yaml, checkpoints/best.pt).

Two files were published: the trained model, and a detector whose decoder is replicated into SpeaQ's three stacks. The
shape of the network is read off the parameters; what leaves no trace there is the published setting or a config's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.data.visual_genome import open_data
from speaq.files import atomic
from speaq.model.backbone import BLOCKS
from speaq.model.detector import NEW_PARTS
from speaq.model.reference_weights import (
    UNUSED,
    WeightsError,
    checked,
    from_reference,
    load_reference_checkpoint,
    reference_name,
)
from speaq.model.speaq import SpeaQ
from speaq.structures import Vocabulary
from speaq.training import checkpoint
from speaq.training.tasks import REPLICATED

Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by our names

CLASS_HEAD, PREDICATE_HEAD = "transformer.class_head.bias", "transformer.predicate_head.bias"
SUBJECTS, RELATIONS = "transformer.subject_queries", "transformer.relation_queries"


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint of the reference."""

    task: str  # of the checkpoint written: speaq, or replicated
    settings: str  # where all comes from that shapes do not tell
    used: int  # tensors
    unused: Mapping[str, str]  # name → why
    absent: tuple[str, ...]  # parts that a detector has not

    def __str__(self) -> str:
        kind = "SpeaQ" if self.task == "speaq" else f"replicated detector (without {', '.join(self.absent)})"
        unused = "; ".join(f"{name} ({reason})" for name, reason in self.unused.items()) or "none"
        return f"{kind} · {self.settings} · {self.used} tensors used · unused: {unused}"


def convert(reference: Path, run: Path, data: Path | None = None, config: Path | None = None) -> Conversion:
    """Writes a checkpoint of the reference as a run folder of ours. Every tensor is used or named in `UNUSED`.

    Args:
        reference: `{"model": state dict, …}` as `torch.save` wrote it.
        run: folder to write, new or empty; it appears when it is whole.
        data: data set that names the object classes and predicates; without, their numbers alone are known.
        config: config that gives all but the shape of the network, and the number of heads; without, the published
            settings, or the baseline's for a SpeaQ with as many relation queries as subject queries.

    Raises:
        ConfigError: the file, its parameters, the config or the folder cannot be used, or contradict each other.
        DataError: the data cannot be used.
    """
    _check_folder(run)
    try:
        state = load_reference_checkpoint(reference)
        shapes = _shapes(reference, state)
        absent = _absent(shapes)
        settings, complete = _config(reference, shapes, bool(absent), config)
        vocabulary = None if data is None else open_data(data, need_images=False, need_train=False).vocabulary
        _check_counts(reference, shapes, vocabulary)
        weights = _fitting(reference, state, shapes, absent, complete)
    except WeightsError as error:
        raise ConfigError(str(error)) from error
    task = REPLICATED if absent else "speaq"
    _write(run, task, weights, complete, vocabulary)
    unused = {name: reason for name, reason in UNUSED.items() if name in state}
    return Conversion(task, settings, len(weights), unused, absent)


def _check_folder(run: Path) -> None:
    """Raises ConfigError unless `run` is new or empty; what an earlier version left when it was cut off is removed."""
    if (run / "config.yaml").exists() or any((run / "checkpoints").glob("*.pt")):
        raise ConfigError(f"{run}: holds a run already; give another folder")
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: is a file; give a folder to write")
    if (run / "checkpoints").is_dir():
        atomic.tidy(run / "checkpoints")
        with contextlib.suppress(OSError):  # it holds something else
            (run / "checkpoints").rmdir()
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run}: is not empty; give a new folder")


def _write(run: Path, task: str, weights: Mapping[str, Tensor], config: Config, vocabulary: Vocabulary | None) -> None:
    content = {
        "task": task,
        "step": 0,
        "model": dict(weights),
        "config": configs.to_dict(config),
        "objects": None if vocabulary is None else list(vocabulary.objects),
        "predicates": None if vocabulary is None else list(vocabulary.predicates),
        "data_digest": None,
    }
    try:
        with atomic.whole(run) as unfinished:
            checkpoint.save(unfinished / "checkpoints" / checkpoint.BEST, content)
            atomic.write_text(unfinished / "config.yaml", configs.dump(config))
    except OSError as error:
        raise ConfigError(f"{run}: cannot be written ({error.strerror or error})") from error


def _shapes(reference: Path, state: Mapping[str, Tensor]) -> Shapes:
    try:
        shapes = {name: tuple(value.shape) for name, value in from_reference(state).items()}
    except WeightsError as error:
        raise WeightsError(f"{reference}: {error}") from error
    needed = (
        "backbone.conv1.weight",
        "backbone.layer1.0.conv1.weight",
        "transformer.encoder.projection.weight",
        "transformer.decoder.layers.0.subject.feed_forward.linear1.weight",
        CLASS_HEAD,
    )
    for name in needed:
        if not shapes.get(name):
            raise WeightsError(f"{reference}: {reference_name(name)} is missing; not SpeaQ, nor a replicated detector")
    return shapes


def _absent(shapes: Shapes) -> tuple[str, ...]:
    """The parts that are missing altogether, as in a detector; what is missing of a part is found later."""
    deep = _count(shapes, "transformer.decoder.layers.") > 1  # the last layer has no refinement
    return tuple(
        part
        for part, mark in NEW_PARTS.items()
        if not any(mark in name for name in shapes) and (deep or part != "refinement")
    )


def _config(reference: Path, shapes: Shapes, partial: bool, file: Path | None) -> tuple[str, Config]:
    """What settings are called, and the config that they and the shapes make."""
    if file is not None:
        values = configs.read_whole(file)
        given = values.setdefault("model", {})
        if not isinstance(given, dict):
            raise ConfigError(f"{file}: model: a section is a mapping of keys, not {given!r}")
        found = _model_keys(reference, shapes, partial, given)
        for key, value in found.items():
            if key in given and given[key] != value:
                raise ConfigError(f"{file}: model.{key}: {given[key]!r}, but {reference} has {value!r}")
        given.update(found)
        return f"settings of {file}", configs.from_dict(values, f"{file} with the shapes of {reference}")
    found = _model_keys(reference, shapes, partial, {})
    baseline = found.get("query_multiple") == 1
    preset = configs.BASELINE if baseline else configs.PUBLISHED
    overrides = {**preset, **{f"model.{key}": value for key, value in found.items()}}
    name = f"{'baseline' if baseline else 'published'} settings"
    config = configs.apply(Config(), overrides, f"{reference} with {name} (--config gives others, num_heads too)")
    return f"{name}, {config.model.num_heads} heads", config


def _model_keys(reference: Path, shapes: Shapes, partial: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the model section that names and shapes tell."""
    return {
        "backbone": _backbone(reference, shapes),
        "hidden_dim": shapes["transformer.encoder.projection.weight"][0],
        "feedforward_dim": shapes["transformer.decoder.layers.0.subject.feed_forward.linear1.weight"][0],
        "num_encoder_layers": _count(shapes, "transformer.encoder.layers."),
        "num_decoder_layers": _count(shapes, "transformer.decoder.layers."),
        "pre_norm": "transformer.encoder.norm.weight" in shapes,
        "reference_points": False,
        **_queries(reference, shapes, partial, given),
    }


def _backbone(reference: Path, shapes: Shapes) -> str:
    blocks = tuple(_count(shapes, f"backbone.layer{stage}.") for stage in range(1, 5))
    bottleneck = "backbone.layer1.0.conv3.weight" in shapes
    depths = [depth for depth, counts in BLOCKS.items() if counts == blocks and (depth >= 50) == bottleneck]
    if not depths:
        kind = "bottleneck" if bottleneck else "basic"
        raise WeightsError(f"{reference}: a backbone of {blocks} {kind} blocks is none of ResNet {list(BLOCKS)}")
    stem, width = shapes["backbone.conv1.weight"][0], shapes["backbone.layer1.0.conv1.weight"][0]
    if (stem, width) != (64, 64):
        raise WeightsError(
            f"{reference}: a ResNet-{depths[0]} of unusual width ({stem} channels in the stem, {width} in the first "
            "stage); model.backbone knows 64 and 64 alone"
        )
    return f"resnet{depths[0]}"


def _queries(reference: Path, shapes: Shapes, partial: bool, given: Mapping[str, Any]) -> dict[str, int]:
    """Q and m; a detector without m of its own leaves it to the settings."""
    if not shapes.get(SUBJECTS) or not shapes.get(RELATIONS):
        return {}
    entities, relations = shapes[SUBJECTS][0], shapes[RELATIONS][0]
    if entities == 0 or relations % entities:
        raise WeightsError(f"{reference}: {relations} relation queries are no multiple of {entities} subject queries")
    if relations == entities and partial:
        return {"num_queries": entities}
    multiple = given.get("query_multiple", 2)
    if given.get("multiply_queries") == "all" and relations == entities and isinstance(multiple, int) and multiple > 0:
        return {"num_queries": entities // multiple}
    return {"num_queries": entities, "query_multiple": relations // entities}


def _check_counts(reference: Path, shapes: Shapes, vocabulary: Vocabulary | None) -> None:
    objects, predicates = (None, None) if vocabulary is None else (vocabulary.objects, vocabulary.predicates)
    for name, words, head in (("object classes", objects, CLASS_HEAD), ("predicates", predicates, PREDICATE_HEAD)):
        if not shapes.get(head):
            continue
        count = shapes[head][0] - 1
        if count < 1 or (words is not None and len(words) != count):
            there = "" if words is None else f", the data has {len(words)}"
            raise WeightsError(f"{reference}: has {count} {name}{there}")


def _fitting(
    reference: Path, state: Mapping[str, Tensor], shapes: Shapes, absent: tuple[str, ...], config: Config
) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, each checked against the model of `config`."""
    num_predicates = shapes[PREDICATE_HEAD][0] - 1 if shapes.get(PREDICATE_HEAD) else 1
    with torch.device("meta"):
        own = SpeaQ(config.model, shapes[CLASS_HEAD][0] - 1, num_predicates).state_dict()
    marks = tuple(NEW_PARTS[part] for part in absent)
    wanted = {name: value.shape for name, value in own.items() if not any(mark in name for mark in marks)}
    if absent and shapes.get(RELATIONS):  # repeated where SpeaQ starts from them
        wanted[RELATIONS] = torch.Size((shapes[RELATIONS][0], config.model.hidden_dim))
    values = {name: value for name, value in state.items() if name not in UNUSED}
    by_name = {reference_name(name): shape for name, shape in wanted.items()}
    return from_reference(checked(values, by_name, str(reference)))


def _count(shapes: Iterable[str], prefix: str) -> int:
    """How many numbers follow a prefix in the names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})
