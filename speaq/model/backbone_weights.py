"""Published ResNet weights as a start of the backbone: torchvision's files, DETR's and detectron2's ImageNet `.pkl`.

All three mean RGB images standardised by ImageNet's mean and deviation, and the stride in the 3×3 convolution; so does
our ResNet. Caffe2's do not, and are refused. Only names differ, see `speaq.model.reference_weights`.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speaq.files.foreign import first_line, is_zip
from speaq.files.regular import check_regular
from speaq.model.reference_weights import BACKBONE, WeightsError, checked, load_plain, named_values, our_name

DETR = "backbone.0.body."
CLASSIFIER = ("fc.", "stem.fc.")  # ImageNet's, and the counters below: deliberately unused
COUNTER = ".num_batches_tracked"


def load_backbone(path: Path, backbone: nn.Module) -> None:
    """Loads a file's ResNet into a backbone with torchvision's parameter names.

    Used is every parameter of the file's ResNet but the ImageNet classifier and batch norm's counters; of a DETR
    everything but the backbone is unused.

    Args:
        path: what `torch.save` wrote, of tensors and plain values; or a pickle of NumPy arrays that ends in .pkl.
        backbone: changed in place, nothing of it when this raises.

    Raises:
        WeightsError: the file cannot be read (nothing in it is executed), has another layout, or its ResNet is
            another one; names file and parameter.
    """
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    state = _state_dict(path)
    values = {name: _tensor(path, name, value) for name, value in _our_names(path, state).items()}
    backbone.load_state_dict(checked(values, shapes, f"{path} for this backbone"))


def _state_dict(path: Path) -> Mapping[str, Any]:
    pickled = path.suffix == ".pkl" and not is_zip(path)
    state = named_values(_unpickle(path) if pickled else load_plain(path))
    if not state:
        raise WeightsError(f"{path}: not a ResNet's weights: no parameters by name in it")
    return state


def _our_names(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the ResNet under torchvision's names."""
    if "conv1_w" in state:
        raise WeightsError(
            f"{path}: weights of Caffe2 (conv1_w): they are for BGR images and the stride in a block's first "
            "convolution, our ResNet is for RGB and the stride in the second"
        )
    if f"{DETR}conv1.weight" in state:
        state = {name.removeprefix(DETR): value for name, value in state.items() if name.startswith(DETR)}
    elif not {"conv1.weight", "stem.conv1.weight"} & state.keys():
        raise WeightsError(
            f"{path}: no ResNet that is known here: none of conv1.weight (torchvision), {DETR}conv1.weight (DETR) and "
            f"stem.conv1.weight (detectron2) among names such as {next(iter(state))!r}"
        )
    used = {n: value for n, value in state.items() if not n.startswith(CLASSIFIER) and not n.endswith(COUNTER)}
    if "stem.conv1.weight" in state:
        return {_torchvision_name(path, name): value for name, value in used.items()}
    return used


def _torchvision_name(path: Path, name: str) -> str:
    """res2.0.conv1.norm.weight → layer1.0.bn1.weight."""
    try:
        return our_name(BACKBONE + name).removeprefix("backbone.")
    except WeightsError as error:
        raise WeightsError(f"{path}: {name} is no parameter of a ResNet of detectron2") from error


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    if isinstance(value, _Array):
        return torch.from_numpy(value.values.astype(value.values.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor):
        raise WeightsError(f"{path}: {name} is a {type(value).__name__}, not an array")
    return value


class _Dtype:
    """Stands in for `numpy.dtype` in a pickle; objects, and all else that is no number, are refused."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in ("f2", "f4", "f8", "i4", "i8"):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it holds an array of byte order {self.order!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for `numpy.ndarray`, whose own way of unpickling trusts what it reads."""

    values: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.values = _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    data = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    return np.frombuffer(data, dtype.numpy()).reshape(shape, order=order)


def _from_buffer(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, axes: Any = None) -> _Array:
    """`axes` come with order K: the array is a C-ordered one with its axes permuted."""
    array = _Array()
    array.values = _array(raw, dtype, shape, order) if axes is None else _array(raw, dtype, shape, "C").transpose(axes)
    return array


ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),  # bytes, as protocol 2 writes them
    **{
        (f"numpy.{core}.{module}", name): value
        for core in ("core", "_core")  # before and since NumPy 2
        for module, name, value in (
            ("multiarray", "_reconstruct", lambda *_: _Array()),
            ("multiarray", "scalar", lambda dtype, raw: _from_buffer(raw, dtype, (), "C")),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle._Unpickler):
    """Knows arrays of numbers and plain containers, and nothing that could run.

    In Python, not C: that one sets up a memo as long as the file asks for, 32 GiB for five bytes.
    """

    read: Callable[[int], bytes]
    append: Callable[[object], None]

    def load_bytearray8(self) -> None:
        """Reads before it makes room; Python's does it the other way round, for as many bytes as the file claims."""
        (length,) = struct.unpack("<Q", self.read(8))
        content = self.read(length)
        if len(content) < length:
            raise EOFError
        self.append(bytearray(content))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return ADMITTED[module, name]


def _unpickle(path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(check_regular(path).read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # foreign bytes can fail anywhere in the unpickler
        raise WeightsError(f"{path}: not a pickle of arrays alone: {first_line(error)}") from error
