"""Finds the files and photos of a data set, and reads files as they are; names what is structurally wrong with them.

Letters: I images, N boxes, M relations, Z zero-shot triplets. Arrays keep the integer or float type of the file,
because box corners are formed in it (method section 1).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError
from speaq.data.formats import to_convert
from speaq.files import foreign
from speaq.files.foreign import ForeignError
from speaq.files.regular import sha256
from speaq.structures import IntArray

Array = NDArray[Any]
ANNOTATION_NAMES = ("VG-SGG-with-attri.h5", "VG-SGG.h5")
DICTIONARY_NAMES = ("VG-SGG-dicts-with-attri.json", "VG-SGG-dicts.json")
IMAGE_DATA_NAME = "image_data.json"
IMAGE_FOLDER = "VG_100K"
IMAGE_FOLDERS = (IMAGE_FOLDER, "VG_100K_2")  # as Visual Genome is distributed: a photo is in either
ZERO_SHOT_NAMES = ("zeroshot_triplets.npy", "zeroshot_triplet.pytorch")  # the second is the field's own
# Entries of Visual Genome's image_data.json that its h5 has no rows for.
CORRUPT_IDS = frozenset(("1592", "1722", "4616", "4617"))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set; `row` is the 0-based row of the file, where there is one."""

    file: str
    row: int | None
    field: str
    rule: str
    value: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        parts = (self.file, "" if self.row is None else f"row {self.row}", self.field, self.rule, self.value)
        return " · ".join(" ".join(part.split()) for part in parts if part)


Problems = list[Problem]


@dataclass(frozen=True)
class Files:
    """Where the files of a data set are, photos apart (`PhotoFolders`); the zero-shot list is optional."""

    directory: Path
    annotations: Path
    dictionaries: Path
    image_data: Path
    zero_shot: Path | None

    def digest(self) -> str:
        """sha256 over names and contents of the annotation files (photos are not read)."""
        total = hashlib.sha256()
        for path in (self.annotations, self.dictionaries, self.image_data):
            total.update(f"{path.name} {sha256(path)}\n".encode())
        return total.hexdigest()


@dataclass(frozen=True)
class Annotations:
    """The h5 file: ranges are inclusive rows, -1 for none; labels, predicates and box rows are as in the file."""

    split: Array  # [I]
    first_box: Array  # [I]
    last_box: Array  # [I]
    first_relation: Array  # [I]
    last_relation: Array  # [I]
    boxes: Array  # [N, 4] cx cy w h, the longest side of the image scaled to the box scale
    labels: Array  # [N]
    pairs: Array  # [M, 2]
    predicates: Array  # [M]


def find_files(directory: Path) -> Files:
    """Finds the files under either of their usual names; raises `DataError` where some are missing."""
    problems: Problems = []
    files = locate(directory, problems)
    if files is None:
        raise DataError(summary(directory, problems))
    return files


def locate(directory: Path, problems: Problems) -> Files | None:
    """As `find_files`, with what is missing in `problems`."""
    if not directory.is_dir():
        value = f"a file{to_convert(directory)}" if directory.is_file() else "missing"
        problems.append(Problem(str(directory), None, "", "is a directory", value))
        return None
    wanted = (ANNOTATION_NAMES, DICTIONARY_NAMES, (IMAGE_DATA_NAME,))
    paths = [next((directory / name for name in names if (directory / name).is_file()), None) for names in wanted]
    hint = "" if any(paths) else to_convert(directory)
    for names, path in zip(wanted, paths, strict=True):
        if path is None:
            problems.append(Problem(" or ".join(names), None, "", "is in the directory", f"missing{hint}"))
    annotations, dictionaries, image_data = paths
    if annotations is None or dictionaries is None or image_data is None:
        return None
    zero_shot = next((directory / name for name in ZERO_SHOT_NAMES if (directory / name).exists()), None)
    return Files(directory, annotations, dictionaries, image_data, zero_shot)


def summary(directory: Path, problems: Problems) -> str:
    """The first problems in one line."""
    more = f" … and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{directory}: {'; '.join(map(str, problems[:3]))}{more}"


# Field of `Annotations` → (key of the h5, kinds of number, columns; 0 is one-dimensional or a single column).
_KEYS: Mapping[str, tuple[str, str, int]] = {
    "split": ("split", "iu", 0),
    "first_box": ("img_to_first_box", "iu", 0),
    "last_box": ("img_to_last_box", "iu", 0),
    "first_relation": ("img_to_first_rel", "iu", 0),
    "last_relation": ("img_to_last_rel", "iu", 0),
    "boxes": ("boxes_{scale}", "iuf", 4),
    "labels": ("labels", "iu", 0),
    "pairs": ("relationships", "iu", 2),
    "predicates": ("predicates", "iu", 0),
}


def h5_key(field: str, scale: int = 1024) -> str:
    """The h5's name of a field of `Annotations`."""
    return _KEYS[field][0].format(scale=scale)


def read_annotations(path: Path, problems: Problems, scale: int = 1024) -> Annotations | None:
    """Reads the h5; None, with the reasons in `problems`, where keys, types or shapes are unusable."""
    found = len(problems)
    arrays: dict[str, Array] = {}
    try:
        with foreign.open_h5(path) as file:
            for field, (_, kinds, columns) in _KEYS.items():
                array = _read_array(file, path.name, h5_key(field, scale), kinds, columns, problems)
                if array is not None:
                    arrays[field] = array
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # of values, beside what opening raises
        problems.append(Problem(path.name, None, "", "is a readable HDF5 file", str(error)[:150]))
    if len(problems) > found:
        return None
    _check_lengths(path.name, arrays, scale, problems)
    return Annotations(**arrays) if len(problems) == found else None


def _read_array(file: h5py.File, name: str, key: str, kinds: str, columns: int, problems: Problems) -> Array | None:
    data = foreign.h5_dataset(file, key)
    if data is None:
        problems.append(Problem(name, None, key, "is in the file", "missing"))
        return None
    if data.dtype.kind not in kinds:
        wanted = "numbers" if "f" in kinds else "integers"
        problems.append(Problem(name, None, key, f"holds {wanted}", str(data.dtype)))
        return None
    shape: tuple[int, ...] = tuple(data.shape or ())
    if len(shape) == 1 and (columns == 0 or shape[0] == 0):
        array: Array = data[()]
    elif len(shape) == 2 and shape[1] == (columns or 1):
        array = data[()]
    else:
        wanted = f"[rows, {columns}]" if columns else "[rows] or [rows, 1]"
        problems.append(Problem(name, None, key, f"has shape {wanted}", str(list(shape))))
        return None
    if array.dtype.kind == "u":
        array = array.astype(np.int64)  # corners may be negative
    return array.reshape((-1, columns) if columns else -1)


def _check_lengths(name: str, arrays: Mapping[str, Array], scale: int, problems: Problems) -> None:
    groups = (
        ("first_box", "last_box", "first_relation", "last_relation", "split"),
        ("labels", "boxes"),
        ("pairs", "predicates"),
    )
    for first, *others in groups:
        for other in others:
            if len(arrays[other]) != len(arrays[first]):
                rule = f"has as many rows as {h5_key(first, scale)} ({len(arrays[first])})"
                problems.append(Problem(name, None, h5_key(other, scale), rule, str(len(arrays[other]))))


def read_attributes(path: Path) -> Array | None:
    """[N, 10] 1-based attribute ids padded with 0, as stored; None where the file has none. Raises DataError."""
    try:
        with foreign.open_h5(path) as file:
            data = foreign.h5_dataset(file, "attributes")
            if data is None or data.dtype.kind not in "iu" or len(data.shape or ()) != 2:
                return None
            return np.asarray(data[()])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} · attributes · can be read · {str(error)[:150]}") from error


def read_json(path: Path, problems: Problems, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The content of a JSON file; None, with the reason in `problems`, where it cannot be read."""
    try:
        return foreign.read_json(path, hook)
    except (OSError, ForeignError) as error:
        problems.append(Problem(path.name, None, "", "is valid JSON", str(error)[:150]))
        return None


def read_zero_shot(path: Path, num_classes: int, num_predicates: int, problems: Problems) -> Array | None:
    """[Z, 3] int64 rows (subject class, object class, predicate), 0-based; None with reasons where unusable."""
    try:
        triplets = foreign.load_npy(path) if path.suffix == ".npy" else _load_tensor(path)
    except (OSError, ValueError) as error:
        kind = "a .npy array" if path.suffix == ".npy" else "a tensor of torch.save"
        problems.append(Problem(path.name, None, "", f"is {kind}, of numbers", str(error).split("\n", 1)[0][:150]))
        return None
    if not isinstance(triplets, np.ndarray) or triplets.dtype.kind not in "iu" or triplets.shape[1:] != (3,):
        value = f"{getattr(triplets, 'dtype', 'archive')} {list(getattr(triplets, 'shape', ()))}"
        problems.append(Problem(path.name, None, "", "is an integer array [rows, 3]", value))
        return None
    limit = np.array((num_classes, num_classes, num_predicates))
    bad = np.flatnonzero(((triplets < 1) | (triplets > limit)).any(axis=1))
    for row in bad[:100]:
        rule = f"classes are 1 to {num_classes}, predicates 1 to {num_predicates}"
        problems.append(Problem(path.name, int(row), "subject, object, predicate", rule, str(triplets[row].tolist())))
    return None if len(bad) else triplets.astype(np.int64) - 1


def _load_tensor(path: Path) -> Array:
    """The one tensor of a file that `torch.save` wrote; nothing in it is executed. Raises ValueError without one."""
    import torch  # not for every command

    tensor = foreign.load_tensors(path)
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.dtype.is_complex:
        raise ValueError(f"holds a {type(tensor).__name__}, not a tensor of integers")
    return np.asarray(tensor.detach().to(torch.int64 if not tensor.is_floating_point() else torch.float64).numpy())


@dataclass(frozen=True)
class PhotoFolders:
    """At least one folder; of several, all are there."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, directory: Path) -> PhotoFolders:
        """Those of a data set; the first of their usual names where there is none."""
        there = tuple(directory / name for name in IMAGE_FOLDERS if (directory / name).is_dir())
        return cls(there or (directory / IMAGE_FOLDERS[0],))

    @property
    def exist(self) -> bool:
        """Whether there is a folder at all: where none is, only the usual one is named."""
        return self.folders[0].is_dir()

    def path(self, image_id: str) -> Path:
        """Where the photo of an image is, or would be in the first folder."""
        places = [folder / f"{image_id}.jpg" for folder in self.folders]
        return places[0] if len(places) == 1 else next(filter(Path.exists, places), places[0])

    def names(self) -> set[str]:
        """Names of all files, by one look at each folder. Raises OSError."""
        return {entry.name for folder in self.folders for entry in os.scandir(folder)}


def missing_photos(photos: PhotoFolders, rows: IntArray, ids: Sequence[str], problems: Problems) -> IntArray:
    """Those of `rows` whose photo is not there, with one line for all of them; no photo is opened.

    Args:
        rows: [n] rows of the h5 that need a photo.
        ids: [I] of all rows.
    """
    name = photos.folders[0].name
    try:
        names = photos.names()
    except OSError as error:
        reason = error.strerror or "unreadable"
        problems.append(Problem(name, None, "", "is the folder of the photos", reason))
        return rows
    missing = rows[[f"{ids[row]}.jpg" not in names for row in rows]] if len(rows) else rows
    if not len(missing):
        return missing
    first = str(ids[missing[0]])
    value = "missing"
    if len(missing) > 1:
        more = ", ".join(f"{ids[row]}.jpg" for row in missing[1:4])
        value += f"; {len(missing)} of {len(rows)} photos are ({more}{', …' if len(missing) > 4 else ''} too)"
    if other := next((one for one in sorted(names) if one.rpartition(".")[0] == first), None):
        value += f"; {other} lies there, but photos are named <image_id>.jpg"
    problems.append(Problem(f"{name}/{first}.jpg", int(missing[0]), "", "is on disk", value))
    return missing
