"""Checkpoints as training scripts write them, DETR's and RelTR's among them: read without running what is in them."""

from __future__ import annotations

import argparse
import datetime
import os
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speaq.files import foreign
from speaq.files.foreign import ForeignError
from speaq.model.backbone import ResNet
from speaq.model.backbone_weights import load_backbone
from speaq.model.reference_weights import WeightsError, load_reference_checkpoint
from speaq.runs.convert import convert
from speaq.training import checkpoint
from speaq.training.checkpoint import CheckpointError
from tests.helpers.command import refusal
from tests.helpers.reference_files import HEADS, assert_same_outputs, build, to_reference, written
from tests.helpers.tiny import assignments

State = dict[str, Tensor]
SMALL = {"stem_channels": 4, "width": 4}


def settings() -> argparse.Namespace:
    """What argparse gives such a script, and what people add to it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--output_dir", type=Path, default=Path("out"))
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args([])
    args.best, args.table, args.seen = np.float64(0.3), np.arange(3), torch.ones(2)
    args.nested = types.SimpleNamespace(when=datetime.datetime(2026, 1, 1), took=datetime.timedelta(seconds=1))
    return args


def script(state: State) -> dict[str, Any]:
    """What DETR's and RelTR's `main.py` save."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=1e-4)
    weight.sum().backward()
    optimizer.step()
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 2), torch.optim.lr_scheduler.MultiStepLR(optimizer, [2])]
    saved = {"optimizer": optimizer.state_dict(), "lr_scheduler": [one.state_dict() for one in schedules]}
    return {"model": state, **saved, "epoch": 3, "args": settings()}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "script": script,
    "bare": lambda state: state,
    "bare, ordered": OrderedDict,
    "bare, with others beside": lambda state: {**state, "epoch": 3, "args": settings(), "best": np.float32(1)},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(3.0)},
    "nested": lambda state: {"model": {"state_dict": state, "args": settings()}, "step": np.int64(3)},
    "module.": lambda state: script(prefixed(state, "module.")),
    "module. of a compiled model": lambda state: {"state_dict": prefixed(state, "_orig_mod.module.")},
    "Lightning's": lambda state: {"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.0"},
    "containers": lambda state: {"model": state, "log": defaultdict(list, a=[1]), "last": deque([1.0], maxlen=3)},
    "version": lambda state: {"model": state, "torch": torch.__version__, "path": Path("a"), "kinds": {int, float}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_checkpoint_is_read(form: str, zipped: bool, tmp_path: Path) -> None:
    state = {"detr.a.weight": torch.randn(3, 2), "detr.b.bias": torch.randn(3), "criterion.empty_weight": torch.ones(4)}
    torch.save(FORMS[form](state), tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    found = load_reference_checkpoint(tmp_path / "file.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["backbone.0.body.", "module.backbone.0.body."])
def test_a_detr_of_its_own_script_gives_its_backbone(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, backbone = ResNet(18, **SMALL), ResNet(18, **SMALL)
    rest = {f"{prefix.removesuffix('backbone.0.body.')}class_embed.weight": torch.ones(2, 2)}
    torch.save(script(prefixed(source.state_dict(), prefix) | rest), tmp_path / "checkpoint0003.pth")
    load_backbone(tmp_path / "checkpoint0003.pth", backbone)
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_converted_script_s_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    model = build()
    torch.save(script(prefixed(to_reference(model.state_dict()), "module.")), tmp_path / "reference.pth")
    (tmp_path / "config.yaml").write_text(HEADS, encoding="utf-8")
    convert(tmp_path / "reference.pth", tmp_path / "ours", config=tmp_path / "config.yaml")
    assert_same_outputs(written(tmp_path / "ours")[1], model)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Settings(argparse.Namespace):
    """A script's own class."""


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_not_known_to_be_harmless_is_named_and_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "file.pth"
    state = {"detr.a.weight": torch.ones(2)}
    for value, name in (
        (argparse.Namespace(x=Evil(ran)), "posix.mkdir"),
        ([np.array([Evil(ran)], dtype=object)], "posix.mkdir"),
        (Settings(lr=1), "tests.training.test_script_checkpoints.Settings"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (eval, "eval"),
    ):
        torch.save({"model": state, "args": value}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError) as refused:
            load_reference_checkpoint(path)
        assert f"it holds {name}, which" in str(refused.value)
        assert "\n" not in str(refused.value)
        with pytest.raises(ForeignError):
            foreign.load_tensors(path)
    assert not ran.exists()


def test_harmless_values_are_forgotten_not_made(tmp_path: Path) -> None:
    torch.save({"args": settings(), "log": defaultdict(list, a=[1])}, tmp_path / "file.pth")
    content = foreign.load_tensors(tmp_path / "file.pth")
    assert foreign.skipped(content) == "argparse.Namespace"
    assert type(content["args"]) is not argparse.Namespace
    assert vars(content["args"]) == {}
    assert content["log"] == {"a": [1]}
    assert foreign.skipped({"a": [1]}) is None
    with pytest.raises(Exception, match=r"argparse\.Namespace"):  # nobody else's torch.load admits more than before
        torch.load(tmp_path / "file.pth", weights_only=True)


def test_our_checkpoints_hold_nothing_of_the_kind(tmp_path: Path) -> None:
    content = {"task": "speaq", "step": 0, "config": {}, "model": {"a": torch.ones(1)}, "extra": settings()}
    checkpoint.save(tmp_path / "best.pt", content)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of speaq: it holds a argparse\.Namespace"):
        checkpoint.load(tmp_path / "best.pt")


@pytest.mark.parametrize("form", ["script", "bare", "module."])
def test_a_file_of_the_reference_is_pointed_to_convert(form: str, toy: Path, tmp_path: Path) -> None:
    file, config = tmp_path / "reference.pth", tmp_path / "config.yaml"
    torch.save(FORMS[form]({"detr.a.weight": torch.ones(2)}), file)
    config.write_text("", encoding="utf-8")
    (tmp_path / "photo.jpg").write_bytes(b"")
    wanted = f"{file}: is a file of the reference; speaq convert {file} RUN makes a run folder of it"
    start = ("train", "--config", config, "--data", toy, "--output", tmp_path / "run", *assignments())
    for line in (
        refusal("predict", tmp_path / "photo.jpg", "--checkpoint", file, "--output", tmp_path / "out"),
        refusal("evaluate", file, "--data", toy),
        refusal("export-model", file, tmp_path / "model.onnx"),
        refusal(*start, "--set", f"training.init_from={file}"),
    ):
        assert wanted in line
