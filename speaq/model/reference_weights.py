"""Names of the reference implementation's parameters, and checkpoints written with them (golden G7 lists them all).

Only names differ: every tensor of ours has exactly one counterpart, of the same shape.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from speaq.files.foreign import ForeignError, Skipped, load_tensors

# What a {field} of a template stands for.
FIELDS = {
    "n": r"\d+",
    "stream": "subject|object|relation",
    "later": "object|relation",
    "attention": r"in_proj_weight|in_proj_bias|[qkv]_proj_weight|out_proj\.weight|out_proj\.bias",
    "linear": "linear[12]",
    "norm": "norm[123]",
    "kind": "weight|bias",
    "frozen": "weight|bias|running_mean|running_var",
}
TRANSFORMER = (  # ours, the reference's
    ("encoder.projection.{kind}", "input_proj.{kind}"),
    ("encoder.layers.{n}.self_attention.{attention}", "transformer.encoder.layers.{n}.self_attn.{attention}"),
    ("encoder.layers.{n}.feed_forward.{linear}.{kind}", "transformer.encoder.layers.{n}.{linear}.{kind}"),
    ("encoder.layers.{n}.{norm}.{kind}", "transformer.encoder.layers.{n}.{norm}.{kind}"),
    ("encoder.norm.{kind}", "transformer.encoder.norm.{kind}"),
    ("decoder.entity_norm.{kind}", "transformer.decoder.subject_norm.{kind}"),
    ("decoder.relation_norm.{kind}", "transformer.decoder.relation_norm.{kind}"),
    ("class_head.{kind}", "transformer.object_embed.{kind}"),
    ("predicate_head.{kind}", "transformer.relation_embed.{kind}"),
    ("box_head.layers.{n}.{kind}", "transformer.object_bbox_coords.layers.{n}.{kind}"),
    ("subject_queries", "query_embed.weight"),
    ("{later}_queries", "{later}_query_embed.weight"),
)
DECODER_LAYER = (  # under decoder.layers.{n} here, transformer.decoder there
    ("{stream}.self_attention.{attention}", "{stream}_layers.{n}.self_attn.{attention}"),
    ("{stream}.cross_attention.{attention}", "{stream}_layers.{n}.multihead_attn.{attention}"),
    ("{stream}.feed_forward.{linear}.{kind}", "{stream}_layers.{n}.{linear}.{kind}"),
    ("{stream}.{norm}.{kind}", "{stream}_layers.{n}.{norm}.{kind}"),
    ("{later}_conditioning.attention.{attention}", "{later}_pos_attn.{n}.{attention}"),
    ("{later}_conditioning.output.{kind}", "{later}_pos_linear.{n}.{kind}"),
    ("refinements.{stream}.attention.{attention}", "{stream}_graph_query_attn.{n}.{attention}"),
    ("refinements.{stream}.output.{kind}", "{stream}_graph_query_residual.{n}.{kind}"),
    ("refinements.{stream}.norm.{kind}", "{stream}_graph_query_norm.{n}.{kind}"),
)
STAGE = (  # of the backbone; ours, the reference's
    ("{n}.conv{n1}.weight", "{n}.conv{n1}.weight"),
    ("{n}.bn{n1}.{frozen}", "{n}.conv{n1}.norm.{frozen}"),
    ("{n}.downsample.0.weight", "{n}.shortcut.weight"),
    ("{n}.downsample.1.{frozen}", "{n}.shortcut.norm.{frozen}"),
)
STEM = (("conv1.weight", "conv1.weight"), ("bn1.{frozen}", "conv1.norm.{frozen}"))
UNUSED = {
    "criterion.empty_weight": "a detector's class weights of the loss come from the configuration",
    "criterion.empty_weight_obj": "class weights of the loss come from the configuration",
    "criterion.empty_rel_weight": "predicate weights of the loss come from the configuration and the data",
}
PREFIX = "detr."
STATE_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "net", "blobs")  # the last is Caffe2's
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, Lightning's
BACKBONE = f"{PREFIX}backbone.0.backbone."
PLAIN = (bool, int, float, complex, str, bytes, list, tuple, set, Mapping, NoneType)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class WeightsError(ValueError):
    """Published weights that cannot be used: the message names file or parameter and reason in one line."""


def our_name(name: str) -> str:
    """The name of a reference's parameter here. Raises WeightsError where there is none."""
    return _translate(name, _rules(to_reference=False), "the reference's parameter {} is unknown here")


def reference_name(name: str) -> str:
    """The reference's name of a parameter. Raises WeightsError where there is none."""
    return _translate(name, _rules(to_reference=True), "parameter {} has no counterpart in the reference")


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our names; `UNUSED` names are left out.

    Raises:
        WeightsError: a name is neither known nor deliberately unused.
    """
    return {our_name(name): value for name, value in state.items() if name not in UNUSED}


def load_reference_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads a checkpoint of the reference, `{"model": state dict, …}` or the like, without running anything in it.

    Returns:
        The state dict, under the reference's names, on the CPU.

    Raises:
        WeightsError: no such file, not a checkpoint, or one of another network.
    """
    state = named_values(load_plain(path))
    if not state:
        raise WeightsError(f"{path}: not a checkpoint of the reference: no parameters by name in it")
    if not any(name.startswith(PREFIX) for name in state):
        raise WeightsError(
            f"{path}: not a checkpoint of the reference: no parameter's name begins with {PREFIX} as there, but "
            f"{next(iter(state))!r} is one; of a DETR or RelTR training.backbone_from takes the backbone"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: not a state dict: {name!r} is a {type(value).__name__}")
    return state


def is_reference(content: Any) -> bool:
    """Whether what `torch.save` wrote holds parameters under the reference's names."""
    return any(name.startswith(PREFIX) for name in named_values(content))


def named_values(content: Any) -> dict[str, Any]:
    """The state dict in what a training script saved, none where there is no such thing.

    It lies there bare or under one of `STATE_KEYS`, alone or beside settings, which are left out as all is that is no
    tensor and has no parameter's name (with a dot). Prefixes of wrapped modules are taken off.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        return {}
    named = {str(name): value for name, value in content.items() if not isinstance(value, Skipped)}
    state = {name: value for name, value in named.items() if "." in name or not isinstance(value, PLAIN)}
    for prefix in WRAPPERS * 2:  # one may be wrapped in another
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_plain(path: Path) -> Any:
    """What `torch.save` wrote, tensors and plain values on the CPU; nothing of it is executed.

    Raises:
        WeightsError: no such file, foreign, torn or damaged, or it holds more than tensors and plain values.
    """
    try:
        return load_tensors(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise WeightsError(f"{path}: no such file") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ForeignError as error:
        raise WeightsError(f"{path}: {error}") from error


def checked(values: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: str) -> dict[str, Tensor]:
    """Tensors that fit a model, as float32 and each in a storage of its own.

    Args:
        values: tensors by name.
        shapes: the wanted ones, under the same names.
        where: file (and what to say of it) at the head of messages.

    Raises:
        WeightsError: the first name that is too many or missing, or value that has another shape, is not of a
            floating point type or not finite.
    """
    if extra := [name for name in values if name not in shapes]:
        raise WeightsError(f"{where}: {extra[0]} has no place in the model: another depth or option")
    if missing := [name for name in shapes if name not in values]:
        raise WeightsError(f"{where}: {missing[0]} is missing ({len(missing)} of {len(shapes)} are)")
    return {name: _as_float32(name, values[name], shape, where) for name, shape in shapes.items()}


def _as_float32(name: str, value: Tensor, shape: torch.Size, where: str) -> Tensor:
    if value.shape != shape:
        raise WeightsError(f"{where}: {name} has shape {tuple(value.shape)}, the model wants {tuple(shape)}")
    if value.dtype not in FLOATS or value.layout is not torch.strided:
        raise WeightsError(f"{where}: {name} holds {value.dtype} ({value.layout}), not floating point numbers")
    if not value.isfinite().all():
        raise WeightsError(f"{where}: {name} holds a value that is not finite")
    return value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)


@functools.cache
def _rules(*, to_reference: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    transformer = [
        *TRANSFORMER,
        *(("decoder.layers.{n}." + ours, "transformer.decoder." + theirs) for ours, theirs in DECODER_LAYER),
    ]
    pairs = [(f"transformer.{ours}", f"{PREFIX}{theirs}") for ours, theirs in transformer]
    pairs += [(f"backbone.{ours}", f"{BACKBONE}stem.{theirs}") for ours, theirs in STEM]
    for stage in range(1, 5):
        pairs += [(f"backbone.layer{stage}.{ours}", f"{BACKBONE}res{stage + 1}.{theirs}") for ours, theirs in STAGE]
    return tuple(
        (_pattern(ours if to_reference else theirs), theirs if to_reference else ours) for ours, theirs in pairs
    )


def _pattern(template: str) -> re.Pattern[str]:
    """A template with {fields} as an expression with named groups; {n1} is another {n}."""
    parts = re.split(r"\{(\w+)\}", template)
    fields = (f"(?P<{name}>{FIELDS[name.rstrip('1')]})" for name in parts[1::2])
    literals = (re.escape(part) for part in parts[2::2])
    return re.compile(re.escape(parts[0]) + "".join(f + x for f, x in zip(fields, literals, strict=True)))


def _translate(name: str, rules: tuple[tuple[re.Pattern[str], str], ...], message: str) -> str:
    for pattern, target in rules:
        if match := pattern.fullmatch(name):
            return target.format_map(match.groupdict())
    raise WeightsError(message.format(name))
