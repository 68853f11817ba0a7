"""Published ResNet weights from files, against torchvision's own networks."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from speaq.config import ConfigError
from speaq.model.backbone import ResNet
from speaq.model.backbone_weights import load_backbone
from speaq.model.reference_weights import BACKBONE, WeightsError, reference_name
from speaq.training import checkpoint
from speaq.training.loop import train
from speaq.training.tasks import TaskName
from tests.helpers.command import refusal
from tests.helpers.tiny import assignments, tiny

State = dict[str, Any]


def random_resnet(depth: int) -> nn.Module:
    """torchvision's network in evaluation mode; small running variances, so that the norms' eps matters."""
    torch.manual_seed(depth)
    network: nn.Module = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(1e-4, 2e-4)
        elif name.endswith("running_mean") or (value.dim() == 1 and name.endswith("bias")):
            value.normal_(0, 1e-3)
        elif value.dim() == 1:
            value.uniform_(5e-3, 1e-2)
    return network.eval()


def features(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        for name, child in network.named_children():
            if name not in ("avgpool", "fc"):
                images = child(images)
    return images


@pytest.fixture(scope="module")
def networks() -> dict[int, nn.Module]:
    return {depth: random_resnet(depth) for depth in (18, 50)}


def detr(network: nn.Module) -> State:
    body = {n: v for n, v in network.state_dict().items() if not n.startswith("fc.") and "num_batches" not in n}
    return {"transformer.encoder.norm.weight": torch.ones(3), **{f"backbone.0.body.{n}": v for n, v in body.items()}}


def detectron2(state: Mapping[str, Any]) -> State:
    """{"stem.conv1.norm.weight": array, …}, with the classifier and the counters of batch norm."""
    arrays: State = {}
    for name, value in state.items():
        if name.startswith("fc."):
            arrays[f"stem.{name}"] = np.asarray(value)
        else:  # the map knows no counters
            known = name.replace("num_batches_tracked", "running_var")
            theirs = reference_name(f"backbone.{known}").removeprefix(BACKBONE)
            arrays[theirs.replace("running_var", name.rpartition(".")[2])] = np.asarray(value)
    return arrays


def imagenet_pkl(network: nn.Module) -> bytes:
    content = {"model": detectron2(network.state_dict()), "__author__": "torchvision", "matching_heuristics": True}
    return pickle.dumps(content)


WRITERS: dict[str, Callable[[Path, nn.Module], Path]] = {}


def writer(function: Callable[[Path, nn.Module], Path]) -> Callable[[Path, nn.Module], Path]:
    WRITERS[function.__name__] = function
    return function


@writer
def torchvision_file(folder: Path, network: nn.Module) -> Path:
    torch.save(network.state_dict(), folder / "resnet.pth")
    return folder / "resnet.pth"


@writer
def torchvision_file_before_zip(folder: Path, network: nn.Module) -> Path:
    torch.save(network.state_dict(), folder / "resnet.pth", _use_new_zipfile_serialization=False)
    return folder / "resnet.pth"


@writer
def detr_file(folder: Path, network: nn.Module) -> Path:
    torch.save({"model": detr(network)}, folder / "detr.pth")
    return folder / "detr.pth"


@writer
def detectron2_file(folder: Path, network: nn.Module) -> Path:
    (folder / "R.pkl").write_bytes(imagenet_pkl(network))
    return folder / "R.pkl"


@pytest.mark.parametrize(("layout", "depth"), [(name, 18) for name in WRITERS] + [("detectron2_file", 50)])
def test_each_layout_gives_the_features_of_its_source(
    layout: str, depth: int, networks: dict[int, nn.Module], tmp_path: Path
) -> None:
    network, backbone = networks[depth], ResNet(depth)
    load_backbone(WRITERS[layout](tmp_path, network), backbone)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = features(network, images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(backbone.eval()(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


SMALL = {"stem_channels": 4, "width": 4}
OLD, NEW = b"numpy.core", b"numpy._core"


@pytest.mark.parametrize(
    ("protocol", "core"), [(0, OLD), (0, NEW), (2, OLD), (2, NEW), (3, OLD), (3, NEW), (4, NEW), (5, NEW)]
)
def test_every_pickle_protocol_both_names_of_numpy_and_all_orders_are_read(
    protocol: int, core: bytes, tmp_path: Path
) -> None:
    source, backbone = ResNet(18, **SMALL), ResNet(18, **SMALL)
    arrays = detectron2(source.state_dict())
    forms: list[Callable[[Any], Any]] = [
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: x.astype("f8"),
        lambda x: np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2) if x.ndim == 4 else x,
    ]
    arrays = {name: forms[i % 4](value) for i, (name, value) in enumerate(arrays.items())}
    arrays["stem.conv1.norm.num_batches_tracked"] = np.int64(3)
    text = pickle.dumps({"model": OrderedDict(arrays)}, protocol=protocol)
    assert NEW in text
    path = tmp_path / "R.pkl"
    path.write_bytes(text.replace(NEW, core))  # in place: up to protocol 3 a name ends with its line
    load_backbone(path, backbone)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    source, backbone = ResNet(18, **SMALL), ResNet(18, **SMALL)
    torch.save({name: value.bfloat16() for name, value in source.state_dict().items()}, tmp_path / "resnet.pth")
    load_backbone(tmp_path / "resnet.pth", backbone)
    assert all(value.dtype == torch.float32 for value in backbone.state_dict().values())
    assert torch.equal(backbone.conv1.weight, source.conv1.weight.bfloat16().float())


def changed(**changes: Any) -> State:
    """The state dict of a narrow ResNet-18 with entries (`__` for the dot) replaced, or without them (None)."""
    state = {**ResNet(18, **SMALL).state_dict(), **{n.replace("__", "."): v for n, v in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(layer4__1__bn2__bias=None), r"layer4\.1\.bn2\.bias is missing \(1 of 100 are\)"),
        (changed(bn1__weight=torch.ones(7)), r"bn1\.weight has shape \(7,\), the model wants \(4,\)"),
        (changed(bn1__weight=torch.ones(4).log() / 0), r"bn1\.weight holds a value that is not finite"),
        (changed(bn1__weight=[1.0]), r"bn1\.weight is a list, not an array"),
        (changed(layer5__0__conv1__weight=torch.ones(1)), r"layer5\.0\.conv1\.weight has no place in the model"),
        (changed(surprise=torch.ones(1)), "surprise has no place in the model"),
        ({"model": {f"backbone.0.body.{n}": v for n, v in ResNet(34, **SMALL).state_dict().items()}}, "has no place"),
        ({"model": {"backbone.0.body.conv1.weight": torch.ones(4, 3, 7, 7)}}, r"bn1\.weight is missing \(99 of 100"),
        ({"model": {"stem.conv1.weight": torch.ones(1), "res6.x": torch.ones(1)}}, r"res6\.x is no parameter"),
        ({"model": {"conv1_w": torch.ones(1), "res2_0_branch2a_w": torch.ones(1)}}, "Caffe2 .* BGR"),
        ({"features.0.weight": torch.ones(1)}, r"none of conv1\.weight .* such as 'features\.0\.weight'"),
        ({"model": {}}, "no parameters by name"),
        ({}, "no parameters by name"),
        ([torch.ones(1)], "no parameters by name"),
    ],
)
def test_other_weights_are_refused_by_name_and_change_nothing(content: Any, message: str, tmp_path: Path) -> None:
    path, backbone = tmp_path / "resnet.pth", ResNet(18, **SMALL)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone(path, backbone)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


class Attack:
    """A pickle that runs code when it is opened carelessly."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, ("touch attacked",)


class ObjectBehindBytes:
    """An array of object pointers made of bytes: numpy's own unpickling would trust them."""

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments, *_ = cast(tuple[Any, ...], np.zeros(1).__reduce__())
        return rebuild, arguments, (1, (1,), np.dtype("O"), False, b"A" * 8)


CAFFE2 = {"blobs": {"conv1_w": np.ones(3, np.float32), "res2_0_branch2a_w": np.ones(3, np.float32)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": Attack(os.system)}), "not a pickle of arrays alone: it refers to posix.system"),
        (pickle.dumps({"model": Attack(eval)}), "it refers to builtins.eval"),
        (pickle.dumps({"model": Attack(np.memmap)}), "it refers to numpy.memmap"),
        (pickle.dumps({"model": {"stem.conv1.weight": np.array([None])}}), "it holds an array of 'O8', not of numbers"),
        (pickle.dumps({"model": {"stem.conv1.weight": ObjectBehindBytes()}}), "it holds an array of 'O8'"),
        (pickle.dumps({"model": {"stem.conv1.weight": np.array(["a"])}}), "it holds an array of 'U1', not of numbers"),
        (pickle.dumps(CAFFE2), "Caffe2 .* BGR"),
        (pickle.dumps(CAFFE2["blobs"], protocol=2), "Caffe2 .* BGR"),
        (pickle.dumps({"model": {"stem.conv1.weight": 3}}), r"conv1\.weight is a int, not an array"),
        (pickle.dumps([1]), "no parameters by name"),
        (pickle.dumps({"model": np.ones(3, np.float32)})[:-20], "not a pickle of arrays alone"),
        (b"", "not a pickle of arrays alone"),
        (b"just a text\n", "not a pickle of arrays alone"),
        (bytes(range(256)), "not a pickle of arrays alone"),
    ],
)
def test_other_pickles_are_refused_in_one_line_and_run_nothing(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "R.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone(path, ResNet(18, **SMALL))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["R.pkl"]


@pytest.mark.parametrize("name", ["R.pkl", "resnet.pth"])
def test_a_missing_file_and_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_backbone(tmp_path / name, ResNet(18, **SMALL))
    (tmp_path / name).mkdir()
    with pytest.raises(WeightsError, match=r"no such file|Is a directory"):
        load_backbone(tmp_path / name, ResNet(18, **SMALL))


RESNET: dict[str, Any] = {"model__backbone": "resnet18", "model__frozen_stages": 5, "training__max_steps": 1}


@pytest.mark.parametrize("task", ["speaq", "detector"])
def test_training_starts_from_the_file(
    task: TaskName, toy: Path, tmp_path: Path, networks: dict[int, nn.Module]
) -> None:
    path = detectron2_file(tmp_path, networks[18])
    train(tiny(**RESNET, training__backbone_from=str(path)), toy, tmp_path / "run", task=task)
    ours = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["model"]
    theirs = networks[18].state_dict()
    for name in ("conv1.weight", "layer4.1.conv2.weight", "bn1.running_var"):
        torch.testing.assert_close(ours[f"backbone.{name}"], theirs[name], rtol=1e-2, atol=1e-4)


def test_what_cannot_be_used_is_refused_by_the_key(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "R.pkl"
    path.write_bytes(pickle.dumps({"model": Attack(os.system)}))
    config = tiny(**RESNET, training__backbone_from=str(path))
    with pytest.raises(ConfigError, match=r"^training\.backbone_from: .*R\.pkl: not a pickle of arrays alone"):
        train(config, toy, tmp_path / "run")
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    line = refusal(
        *("train", "--config", tmp_path / "config.yaml", "--data", toy, "--output", tmp_path / "run"),
        *assignments(**RESNET, training__backbone_from=str(tmp_path / "no.pth")),
    )
    assert line == f"speaq: training.backbone_from: {tmp_path / 'no.pth'}: no such file"
    assert not (tmp_path / "run").exists()
