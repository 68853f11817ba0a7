"""Features: what frozen parts of a network make of each picture, computed once and stored. The files and their form.

A folder of features holds features.json, which says what they were made of, and for each split files
`train-00000.h5`, … of `PICTURES` pictures each, every one written in one step. A picture of the train split is there
in one or more views, each augmented in its own way; one of val as it is evaluated.

Letters: E entries (a view of a picture each) of a split, N boxes of an entry, S cells of all entries, d channels.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speaq.data import BadFeatures, DataError
from speaq.files import atomic, foreign
from speaq.files.foreign import ForeignError
from speaq.structures import FloatArray, IntArray

FORMAT = "speaq-features/1"
FILE = "features.json"
PICTURES = 256  # entries of a file, but for the last of a split
Precision = Literal["float32", "bfloat16", "int8"]
BYTES: Mapping[Precision, int] = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a number
OF_SCALE = 4  # bytes, of each cell in int8
RESIDENT = 0.5  # share of a device's free memory that features may take there


@dataclass(frozen=True)
class Header:
    """What features were made of."""

    weights: str  # digest of the frozen parts' weights
    start: str  # the run or checkpoint that they came from, as text for people
    data: str  # digest of the annotations
    seen: Mapping[str, Any]  # of photos, see `speaq.data.photo_digest`
    keys: Mapping[str, Any]  # dotted key → value of the config that decides what they are
    seed: int  # of the augmentation
    views: int  # of a picture of the train split
    precision: Precision
    stride: int  # pixels of a cell
    channels: int  # d
    entries: Mapping[str, int]  # split → E
    complete: bool = False  # whether all files have been written

    def files(self, split: str) -> list[str]:
        """Names of a split's files."""
        return [f"{split}-{number:05d}.h5" for number in range(-(-self.entries[split] // PICTURES))]

    def write(self, folder: Path) -> None:
        """features.json, in one step."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        atomic.write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def read_header(folder: Path) -> Header:
    """What a folder of features says of itself. Raises BadFeatures."""
    path = folder / FILE
    try:
        content = foreign.read_json(path)
        named = content.pop("format", None) if isinstance(content, dict) else None
        header = Header(**content) if named == FORMAT else None
    except FileNotFoundError as error:
        raise BadFeatures(f"{folder}: holds no features (no {FILE}); make them with speaq cache") from error
    except (OSError, ForeignError, TypeError, ValueError) as error:
        raise BadFeatures(f"{path} · cannot be read ({' '.join(str(error).split())[:150]})") from error
    if header is None:
        raise BadFeatures(f"{path} · format · is {FORMAT} · {named!r}; make the features again with speaq cache")
    if header.precision not in get_args(Precision):
        raise BadFeatures(f"{path} · precision · is one of {', '.join(get_args(Precision))} · {header.precision!r}")
    return header


@dataclass(frozen=True)
class Picture:
    """One view of a picture as it is stored."""

    image_id: str
    original_hw: tuple[int, int]  # of the photo, pixels
    size_hw: tuple[int, int]  # as the network saw it, pixels
    boxes_xyxy: FloatArray  # [N, 4] in pixels of that size; empty ones are still there
    cells: Tensor  # [h, w, d] float32


def write_pictures(path: Path, pictures: Sequence[Picture], precision: Precision) -> None:
    """One file, in one step. Raises DataError for numbers that are not finite, OSError."""
    for picture in pictures:
        if not picture.cells.isfinite().all():
            raise DataError(f"{path}: features of image {picture.image_id} are not finite: the weights are damaged")
    columns: dict[str, NDArray[Any]] = {
        "image_ids": np.char.encode([picture.image_id for picture in pictures], "utf-8"),
        "original_hw": np.array([picture.original_hw for picture in pictures], np.int32),
        "sizes_hw": np.array([picture.size_hw for picture in pictures], np.int32),
        "cells_hw": np.array([picture.cells.shape[:2] for picture in pictures], np.int32),
        "num_boxes": np.array([len(picture.boxes_xyxy) for picture in pictures], np.int32),
        "boxes": np.concatenate([picture.boxes_xyxy for picture in pictures]),
        **_packed(torch.cat([picture.cells.flatten(0, 1) for picture in pictures]), precision),
    }
    with atomic.replaced(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)


def _packed(cells: Tensor, precision: Precision) -> dict[str, NDArray[Any]]:
    """[S, d] float32 as it is stored."""
    cells = cells.cpu()
    match precision:
        case "float32":
            return {"cells": cells.numpy()}
        case "bfloat16":
            return {"cells": cells.bfloat16().view(torch.int16).numpy()}
        case "int8":
            scales = cells.abs().amax(1).clamp(min=1e-12) / 127
            return {"cells": (cells / scales[:, None]).round().to(torch.int8).numpy(), "scales": scales.numpy()}


def _unpacked(cells: Tensor, scales: Tensor | None) -> Tensor:
    """[S, d] as stored, and [S] scales of int8 → float32."""
    if cells.dtype == torch.int16:
        return cells.view(torch.bfloat16).float()
    return cells if scales is None else cells.float() * scales[:, None]


class _File:
    """A file of features: its columns in memory, its cells mapped."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raises BadFeatures."""
        self.path = path
        try:
            with foreign.open_h5(path) as file:
                self.columns = {
                    name: self._column(file, name)[...]
                    for name in ("image_ids", "original_hw", "sizes_hw", "cells_hw", "num_boxes", "boxes")
                }
                self.columns["image_ids"] = np.char.decode(self.columns["image_ids"], "utf-8")
                self.cells = self._mapped(self._column(file, "cells"))
                self.scales = self._mapped(self._column(file, "scales")) if header.precision == "int8" else None
        except (ForeignError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:150]
            raise BadFeatures(f"{path} · cannot be read ({reason}); remove it and run speaq cache again") from error
        number = int(self.columns["cells_hw"].astype(np.int64).prod(1).sum())
        if self.cells.shape != (number, header.channels) or self.cells.dtype.itemsize != BYTES[header.precision]:
            wanted = f"[{number}, {header.channels}] of {header.precision}"
            raise BadFeatures(f"{path} · cells · is {wanted} · {list(self.cells.shape)} of {self.cells.dtype}")

    def _column(self, file: h5py.File, name: str) -> h5py.Dataset:
        column = foreign.h5_dataset(file, name)
        if column is None:
            raise BadFeatures(f"{self.path} · {name} · is there · missing; remove the file and run speaq cache again")
        return column

    def _mapped(self, column: h5py.Dataset) -> NDArray[Any]:
        """The values where they lie in the file. Raises ValueError where the file ends before they do."""
        offset = column.id.get_offset()
        if offset is None:
            raise ValueError(f"{column.name} does not lie in one piece")
        return np.memmap(self.path, column.dtype, "r", offset, column.shape)

    def part(self, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Some cells and their scales, in memory of their own."""
        scales = None if self.scales is None else torch.from_numpy(np.array(self.scales[begin:end]))
        return torch.from_numpy(np.array(self.cells[begin:end])), scales


class StoredSplit:
    """The features of a split, open for reading; an entry is a view of a picture."""

    def __init__(self, folder: Path, header: Header, name: str) -> None:
        """Raises BadFeatures where files are missing or damaged."""
        self.views = header.views if name == "train" else 1
        self._files = [_File(folder / file, header) for file in header.files(name)]
        columns = {key: np.concatenate([file.columns[key] for file in self._files]) for key in self._files[0].columns}
        if len(columns["image_ids"]) != header.entries[name]:
            found = len(columns["image_ids"])
            raise BadFeatures(f"{folder}: {name} has {found} pictures, {FILE} says {header.entries[name]}")
        self._sizes, self._original = columns["sizes_hw"], columns["original_hw"]
        self._cells_hw = columns["cells_hw"]
        self._boxes, self._first_box = columns["boxes"], _starts(columns["num_boxes"])
        self._file_of = np.repeat(np.arange(len(self._files)), [len(f.columns["cells_hw"]) for f in self._files])
        lengths = [file.columns["cells_hw"].astype(np.int64).prod(1) for file in self._files]
        self._first_cell = np.concatenate([_starts(length)[:-1] for length in lengths])  # in its file
        ids = columns["image_ids"].tolist()
        self._entries: dict[str, int] = {image_id: number for number, image_id in reversed(list(enumerate(ids)))}
        self._resident: dict[int, tuple[Tensor, Tensor | None]] = {}  # file → its cells and scales on a device

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._entries

    def entry(self, image_id: str, view: int = 0) -> int:
        """Place of a view of a picture."""
        return self._entries[image_id] + view

    def size_hw(self, entry: int) -> tuple[int, int]:
        """Height and width as the network saw it, pixels."""
        return _pair(self._sizes[entry])

    def original_hw(self, entry: int) -> tuple[int, int]:
        """Height and width of the photo, pixels."""
        return _pair(self._original[entry])

    def boxes_xyxy(self, entry: int) -> FloatArray:
        """[N, 4] boxes of the photo in pixels of `size_hw`, empty ones included."""
        boxes: FloatArray = self._boxes[self._first_box[entry] : self._first_box[entry + 1]]
        return boxes

    def cells(self, entry: int) -> Tensor:
        """[h, w, d] float32, on the device where the split is. Raises BadFeatures for numbers that are not finite."""
        number, (height, width) = int(self._file_of[entry]), _pair(self._cells_hw[entry])
        begin = int(self._first_cell[entry])
        end = begin + height * width
        if number in self._resident:
            cells, scales = self._resident[number]
            return _unpacked(cells[begin:end], None if scales is None else scales[begin:end]).view(height, width, -1)
        found = _unpacked(*self._files[number].part(begin, end)).view(height, width, -1)
        self._check_finite(found, number)
        return found

    def _check_finite(self, cells: Tensor, number: int) -> None:
        if not cells.isfinite().all():
            path = self._files[number].path
            raise BadFeatures(
                f"{path} · cells · are finite · NaN or infinite; remove the file and run speaq cache again"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all cells as they are stored."""
        return sum(int(file.cells.nbytes) for file in self._files)

    def to(self, device: torch.device) -> None:
        """Keeps all cells on a CUDA device where they fit into `RESIDENT` of its free memory. Raises BadFeatures."""
        if device.type != "cuda" or self.nbytes > RESIDENT * torch.cuda.mem_get_info(device)[0]:
            return
        for number, file in enumerate(self._files):
            cells, scales = file.part(0, len(file.cells))
            self._check_finite(_unpacked(cells, scales), number)
            self._resident[number] = cells.to(device), None if scales is None else scales.to(device)


def _starts(counts: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _pair(sizes: NDArray[Any]) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[1])


def unfinished(folder: Path, header: Header) -> Iterator[tuple[str, int]]:
    """(split, number of the file) of what has not been written yet."""
    for split in header.entries:
        for number, name in enumerate(header.files(split)):
            if not (folder / name).exists():
                yield split, number
