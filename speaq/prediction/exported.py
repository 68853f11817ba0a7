"""Networks in files that need none of our training code: ONNX, and `torch.export`'s .pt2. How they are opened and run.

The network takes images as they are, [B, 3, H, W] uint8 RGB padded at the lower right, and [B, 2] int64 heights and
widths without the padding; it standardises them itself and ignores what is beyond. It gives the outputs of one decoder
layer, `OUTPUTS`: [B, R, C+1] or [B, R, P+1] logits (background last), [B, R, 4] boxes as cxcywh in [0, 1] of the image.
All else that is needed (names, sizes, how outputs become triplets) lies in the file as JSON under the name `speaq`.

Letters: B images, H x W pixels, R relation queries, C object classes, P predicates.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from speaq.config import Config, ConfigError, from_dict, place_and_rule, short
from speaq.files.foreign import is_zip, parse_json
from speaq.structures import LayerOutputs, Vocabulary

SCHEMA = "speaq-model/1"
SUFFIXES = (".onnx", ".pt2")
KEY = "speaq"  # of the metadata
INPUTS = ("images", "sizes_hw")
OUTPUTS = tuple(field.name for field in fields(LayerOutputs))
Network = Callable[[Tensor, Tensor], LayerOutputs]


@dataclass(frozen=True)
class Exported:
    """An opened file; its network gives one layer, L = 1."""

    network: Network
    config: Config
    vocabulary: Vocabulary
    step: int


def open_exported(file: Path, device: str = "auto", *, trusted: bool = False) -> Exported:
    """Opens a file that `speaq export-model` wrote.

    Args:
        trusted: also a .pt2, which can hold code: `torch.export.load` unpickles and evaluates what is in it.

    Raises:
        ConfigError: no such file, another's file, another device than the CPU, or a library that is missing.
    """
    if device == "cuda":
        raise ConfigError(f"{file}: an exported network runs on the CPU here; give its run folder for --device cuda")
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    if file.suffix == ".pt2" and not trusted:
        raise ConfigError(
            f"{file}: a program of torch.export can run code when it is opened, so none is opened here; give the run "
            "or its .onnx, or open a file of your own with torch.export.load"
        )
    session = _session(file) if file.suffix == ".onnx" else None
    network, text = _open_program(file) if session is None else _of_session(session)
    content = _metadata(file, text)
    if session is not None:
        _check_names(file, session, content)
    vocabulary = Vocabulary(tuple(content.objects), tuple(content.predicates))
    return Exported(network, from_dict(content.config, str(file)), vocabulary, content.step)


class _Metadata(BaseModel):
    """What a file carries besides its network; later versions may add to it."""

    model_config = ConfigDict(strict=True, extra="ignore")

    objects: list[str] = Field(min_length=1)
    predicates: list[str] = Field(min_length=1)
    step: int = Field(ge=0)
    config: dict[str, Any]


def _metadata(file: Path, text: str | None) -> _Metadata:
    try:
        content = parse_json((text or "null").encode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise ConfigError(f"{file}: its metadata {KEY!r} are no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else content
        raise ConfigError(f"{file}: metadata {KEY!r} · schema is {SCHEMA!r} · {short(repr(found))}")
    try:
        return _Metadata.model_validate(content)
    except ValidationError as error:
        where, rule = place_and_rule(error)
        raise ConfigError(f"{file}: metadata {KEY!r} · {where} · {rule}; export the run again") from error


def _check_names(file: Path, session: Any, content: _Metadata) -> None:
    """Raises ConfigError where an ONNX network has other inputs or outputs, or other numbers of classes than names."""
    given, made = ({node.name: node.shape for node in nodes} for nodes in (session.get_inputs(), session.get_outputs()))
    if missing := [*(name for name in INPUTS if name not in given), *(name for name in OUTPUTS if name not in made)]:
        raise ConfigError(f"{file}: its network has no {missing[0]!r}; write one by speaq export-model")
    for name, names in (("subject_logits", "objects"), ("predicate_logits", "predicates")):
        classes, named = (made[name] or [None])[-1], len(getattr(content, names))
        if isinstance(classes, int) and classes != named + 1:
            raise ConfigError(f"{file}: metadata {KEY!r} · {names} names {named}, the network knows {classes - 1}")


def _session(file: Path) -> Any:
    """An ONNX network in its runtime. Raises ConfigError."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install -e ".[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common type but this
        raise ConfigError(f"{file}: not a readable ONNX file ({' '.join(str(error).split())[:160]})") from error


def _of_session(session: Any) -> tuple[Network, str | None]:
    def network(images: Tensor, sizes_hw: Tensor) -> LayerOutputs:
        given = dict(zip(INPUTS, (images.numpy(), sizes_hw.numpy()), strict=True))
        return _one_layer(torch.from_numpy(output) for output in session.run(list(OUTPUTS), given))

    return network, session.get_modelmeta().custom_metadata_map.get(KEY)


def _open_program(file: Path) -> tuple[Network, str | None]:
    extra: dict[str, Any] = {KEY: ""}
    if not is_zip(file):  # PyTorch would log tracebacks besides
        raise ConfigError(f"{file}: not a readable program (no zip archive, as torch.export.save writes one)")
    try:
        program = torch.export.load(file, extra_files=extra)
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: not a readable program ({' '.join(str(error).split())[:160]})") from error
    module = program.module()
    return lambda images, sizes_hw: _one_layer(module(images, sizes_hw)), extra[KEY]


def _one_layer(outputs: Any) -> LayerOutputs:
    return LayerOutputs(*(output[None] for output in outputs))
