from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speaq.config import ModelConfig
from speaq.model.reference_weights import (
    UNUSED,
    WeightsError,
    checked,
    from_reference,
    load_reference_checkpoint,
    our_name,
    reference_name,
)
from speaq.model.speaq import SpeaQ
from tests.golden.reference_model import generate
from tests.helpers.reference_files import to_reference
from tests.helpers.shared import GOLDEN

SMALL = ModelConfig(
    backbone="resnet18",
    hidden_dim=16,
    num_heads=2,
    feedforward_dim=24,
    num_encoder_layers=1,
    num_decoder_layers=2,
    num_queries=5,
)


@pytest.mark.parametrize("name", ["g7_official_speaq_state_dict", "g7_official_baseline_state_dict"])
def test_every_official_name_is_used_or_deliberately_not(name: str) -> None:
    entries = json.loads((GOLDEN / f"{name}.json").read_text())["entries"]
    official = {entry["name"]: entry["shape"] for entry in entries}
    with torch.device("meta"):
        model = SpeaQ(ModelConfig(query_multiple=2 if "speaq_state" in name else 1), 150, 50)
    ours = {reference_name(key): list(value.shape) for key, value in model.state_dict().items()}
    assert ours == {key: shape for key, shape in official.items() if key not in UNUSED}
    assert all(reference_name(our_name(key)) == key for key in ours)


def test_generated_weights_equal_the_stored_ones() -> None:
    with np.load(GOLDEN / "g7_small_stored.npz", allow_pickle=False) as arrays:
        stored = {name[6:]: arrays[name] for name in arrays.files if name.startswith("state.detr.")}
    statistics = ("running_mean", "running_var")
    for name, value in stored.items():
        if not name.endswith(statistics):
            np.testing.assert_array_equal(generate(name, value.shape, rounded=True), value, err_msg=name)


def test_there_and_back_gives_the_same_model() -> None:
    torch.manual_seed(0)
    model, other = SpeaQ(SMALL, 7, 5).eval(), SpeaQ(SMALL, 7, 5).eval()
    reference = to_reference(model.state_dict())
    other.load_state_dict(from_reference(reference))
    assert to_reference(other.state_dict()).keys() == reference.keys()
    images, sizes = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64]])
    for ours, theirs in zip(vars(model(images, sizes)).values(), vars(other(images, sizes)).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_unused_buffers_are_left_out_and_unknown_names_refused() -> None:
    assert from_reference(dict.fromkeys(UNUSED, torch.ones(2))) == {}
    with pytest.raises(WeightsError, match=r"detr\.transformer\.surprise"):
        from_reference({"detr.transformer.surprise": torch.ones(2)})


@pytest.mark.parametrize("changes", [{"backbone": "small", "frozen_stages": 0}, {"reference_points": True}])
def test_what_the_reference_has_not_is_refused(changes: dict[str, Any]) -> None:
    model = SpeaQ(ModelConfig(**(SMALL.model_dump() | changes)), 7, 5)
    with pytest.raises(WeightsError, match="no counterpart"):
        to_reference(model.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_read(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    state = to_reference(SpeaQ(SMALL, 7, 5).state_dict())
    content = {"model": state, "iteration": 3, "__author__": "nobody"}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)  # older files are no archives
    loaded = load_reference_checkpoint(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


class Attack:
    """A pickle that runs code when it is opened carelessly."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("attacked"),)  # type: ignore[return-value]


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _torn(path: Path, share: float) -> None:
    torch.save({"model": {"a": torch.ones(2000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _flipped(path: Path) -> None:
    """One bit of a tensor is another one: the archive opens as if nothing had happened."""
    value = torch.full((2000,), 3.0)
    torch.save({"model": {"a": value}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(value.numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: path.write_bytes(b""), "not a checkpoint"),
        (lambda path: path.write_text("just a text"), "not a checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256))), "not a checkpoint"),
        (_write_zip, "not a checkpoint but a zip archive of other files"),
        (lambda path: _torn(path, 0.5), "not a checkpoint"),
        (lambda path: _torn(path, 0.99), "not a checkpoint"),
        (lambda path: _flipped(path), r"damaged \(check sum of .*data/0\)"),
        (lambda path: path.write_bytes(pickle.dumps({"model": Attack()})), "not a checkpoint"),
        (lambda path: torch.save({"model": {"a": torch.ones(2)}, "code": Attack()}, path), "not a checkpoint"),
        (lambda path: torch.save([1, 2], path), "no parameters by name in it"),
        (lambda path: torch.save({"a": torch.ones(2)}, path), r"begins with detr\. as there, but 'a' is one"),
        (lambda path: torch.save({"model": {"a": 3}}, path), "no parameters by name in it"),
        (lambda path: torch.save({"model": {"detr.a": 3}}, path), r"'detr\.a' is a int"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    write: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    write(path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_reference_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "attacked").exists()


SHAPES = {"a": torch.Size((2, 3)), "b": torch.Size((1,))}


def test_tensors_that_fit_come_as_float32_in_storage_of_their_own() -> None:
    large = torch.arange(600.0, dtype=torch.float64).reshape(200, 3)
    values = checked({"b": torch.ones(1, dtype=torch.bfloat16), "a": large[:2]}, SHAPES, "file")
    assert list(values) == ["a", "b"]
    assert all(value.dtype == torch.float32 for value in values.values())
    assert torch.equal(values["a"], large[:2].float())
    assert values["a"].untyped_storage().nbytes() == 24
    assert checked({"a": torch.ones(1).expand(2, 3), "b": torch.ones(1)}, SHAPES, "file")["a"].is_contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": torch.ones(1)}, "file: c has no place in the model"),
        ({"a": None}, r"file: a is missing \(1 of 2 are\)"),
        ({"a": torch.ones(3, 2)}, r"file: a has shape \(3, 2\), the model wants \(2, 3\)"),
        ({"b": torch.ones(1, dtype=torch.int64)}, r"file: b holds torch.int64"),
        ({"a": torch.ones(2, 3).to_sparse()}, r"file: a holds torch.float32 \(torch.sparse_coo\)"),
        ({"b": torch.tensor([float("nan")])}, "file: b holds a value that is not finite"),
        ({"b": torch.tensor([float("-inf")], dtype=torch.float16)}, "file: b holds a value that is not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    values = {"a": torch.ones(2, 3), "b": torch.ones(1)} | changes
    with pytest.raises(WeightsError, match=message):
        checked({name: value for name, value in values.items() if value is not None}, SHAPES, "file")
