"""Predictions of a split in one HDF5 file, written while a model is evaluated or by any other program.

Letters: I images, D boxes of all images, T triplets of all images, C object classes, P predicates. All is 0-based.

| key | shape | type | content |
|---|---|---|---|
| image_id | [I] | text | the image's id in image_data.json; each once, in any order |
| sizes_hw | [I, 2] | integer | height and width of the photo, in whose pixels the boxes are |
| num_boxes, num_triplets | [I] | integer | rows of the image in the columns below, which hold image after image |
| boxes_xyxy | [D, 4] | float | corners in pixels |
| classes | [D] | integer | object class |
| scores | [D] | float | probability of the class |
| pairs | [T, 2] | integer | subject and object box, counted from the image's first box |
| predicates | [T] | integer | the triplet's predicate |
| triplet_scores | [T] | float | what the triplets are ranked by: descending within an image |
| predicate_scores | [T, P+1] | float | probabilities of all predicates, no-relation last |
| query_index | [T] | integer | the query a triplet came from (a model without queries counts its pairs) |

Of equal (subject box, object box, predicate) an image has one. In sgcls and predcls the boxes are the ground truth's,
in its order. Attributes: `format` "speaq predictions", `version` 1, `split` (train, val, test), `objects` [C] and
`predicates` [P] names in the order of their numbers, which may differ from the data set's; optional are `data_digest`
(as in a run's data.json), `data` and `inference` (JSON objects: the data.* keys that decide which images a split has,
and how outputs were decoded).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from speaq.config import ConfigError, DataConfig
from speaq.data import DataError
from speaq.files import foreign
from speaq.files.atomic import replaced
from speaq.structures import IntArray, ScenePrediction, Vocabulary
from speaq.vocabulary import difference, places

log = logging.getLogger(__name__)

Array = NDArray[Any]
FORMAT, VERSION = "speaq predictions", 1
SPLIT_KEYS = ("num_val", "keep_images_without_relations", "filter_non_overlap")  # of DataConfig: what a split holds
VAL_KEY = "val"  # too; files from before it have none

# Key → (kind of number, columns; 0 is one-dimensional, -1 is P+1), in the order of ScenePrediction's fields.
_PER_IMAGE: Mapping[str, tuple[str, int]] = {"sizes_hw": ("i", 2), "num_boxes": ("i", 0), "num_triplets": ("i", 0)}
_PER_BOX: Mapping[str, tuple[str, int]] = {"boxes_xyxy": ("f", 4), "classes": ("i", 0), "scores": ("f", 0)}
_PER_TRIPLET: Mapping[str, tuple[str, int]] = {
    "pairs": ("i", 2),
    "predicates": ("i", 0),
    "triplet_scores": ("f", 0),
    "predicate_scores": ("f", -1),
    "query_index": ("i", 0),
}
_COLUMNS = {**_PER_IMAGE, **_PER_BOX, **_PER_TRIPLET}
_CHUNK = 4096  # rows
_BLOCK = 2**16  # rows that are held in memory at once, beyond those of one image
_ROUNDING = 1e-5  # by which a float32 softmax may exceed 1


@dataclass(frozen=True)
class Source:
    """What the predictions of a file were made of."""

    vocabulary: Vocabulary
    split: str
    data_digest: str | None = None
    data: DataConfig | None = None
    inference: Mapping[str, Any] | None = None


class PredictionWriter:
    """Writes images as they come. The file gets its name at the end, so that no half file ever has it."""

    def __init__(self, path: Path, source: Source) -> None:
        """Raises ConfigError where `path` exists or cannot be written."""
        if path.exists():
            raise ConfigError(f"{path}: exists; give the predictions another name")
        self._waiting: dict[str, list[Any]] = {name: [] for name in ("image_id", *_COLUMNS)}
        self._num_waiting = 0
        try:
            with contextlib.ExitStack() as opening:
                self._file = opening.enter_context(h5py.File(opening.enter_context(replaced(path)), "w"))
                self._ending = opening.pop_all()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error})") from error
        self._file.attrs.update(_attributes(source))
        self._file.create_dataset("image_id", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(_CHUNK,))
        for name, (kind, columns) in _COLUMNS.items():
            shape = _row_shape(columns, len(source.vocabulary.predicates))
            dtype = "int32" if kind == "i" else "float32"
            options = {"chunks": (_CHUNK, *shape), "compression": "gzip", "compression_opts": 1, "shuffle": True}
            self._file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), **options)

    def add(self, image_id: str, size_hw: tuple[int, int], prediction: ScenePrediction) -> None:
        """Takes an image, each once; `size_hw` is that of the photo."""
        counts = (len(prediction.boxes_xyxy), len(prediction.pairs))
        rows = {"image_id": [image_id], "sizes_hw": [size_hw], "num_boxes": [counts[0]], "num_triplets": [counts[1]]}
        for name, values in {**rows, **vars(prediction)}.items():
            self._waiting[name].append(values)
        self._num_waiting += sum(counts)
        if self._num_waiting >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        for name, parts in self._waiting.items():
            if parts:
                values = np.concatenate(parts, dtype=object if name == "image_id" else None)
                dataset = self._file[name]
                start = len(dataset)
                dataset.resize(start + len(values), axis=0)
                dataset[start:] = values
                parts.clear()
        self._num_waiting = 0

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._ending:
            if error is None:
                self._flush()
            else:
                raise error  # which keeps the file from its name


def _row_shape(columns: int, num_predicates: int) -> tuple[int, ...]:
    return () if columns == 0 else (num_predicates + 1 if columns == -1 else columns,)


def _attributes(source: Source) -> dict[str, Any]:
    texts = h5py.string_dtype()
    values: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "split": source.split,
        "objects": np.array(source.vocabulary.objects, dtype=texts),
        "predicates": np.array(source.vocabulary.predicates, dtype=texts),
    }
    if source.data_digest is not None:
        values["data_digest"] = source.data_digest
    if source.data is not None:
        values["data"] = json.dumps({key: getattr(source.data, key) for key in (*SPLIT_KEYS, VAL_KEY)})
    if source.inference is not None:
        values["inference"] = json.dumps(source.inference)
    return values


def newest_predictions(run: Path, split: str) -> Path | None:
    """The newest file of predictions for a split in a run folder, under whatever name; None where there is none.

    Files whose names begin with a dot are left alone: they are being written, or were when a process was killed.

    Raises DataError where a file that ends in .h5 cannot be read.
    """
    found = [path for path in run.glob("[!.]*.h5") if _split_of(path) == split]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _split_of(path: Path) -> str | None:
    """The split of a file of predictions; None for another kind of file."""
    try:
        with foreign.open_h5(path) as file:
            return str(file.attrs.get("split")) if file.attrs.get("format") == FORMAT else None
    except (foreign.ForeignError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


class StoredPrediction(NamedTuple):
    """What a file holds of one image."""

    image_id: str
    size_hw: tuple[int, int]
    prediction: ScenePrediction


class PredictionFile:
    """Reads a file of predictions, a few images at a time, and judges every value on the way.

    All that raises DataError says in one line: file · image, where it applies · key · rule · value.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        """Opens the file and checks all but the columns of boxes and triplets. Raises DataError."""
        self._path, self._vocabulary = path, vocabulary
        self._places: dict[str, IntArray] = {}  # of the file's names, by their numbers, in the vocabulary
        with self._readable():
            self._file = foreign.open_h5(path)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._file.close)
            with self._readable():
                self._check_header()
                self.image_ids = self._read_ids()
                num = len(self.image_ids)
                self._images = {name: self._dataset(name, num)[()].astype(np.int64) for name in _PER_IMAGE}
                self._check_images()
                self._ends = {name: self._images[name].cumsum() for name in ("num_boxes", "num_triplets")}
            on_failure.pop_all()

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
            raise self._error("", "is a readable HDF5 file", str(error)) from error

    def _error(self, key: str, rule: str, value: object, image: str | None = None) -> DataError:
        parts = (self._path, "" if image is None else f"image {image}", key, rule, str(value)[:150])
        return DataError(" · ".join(" ".join(str(part).split()) for part in parts if part != ""))

    def _check_header(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT:
            raise self._error("format", f"is {FORMAT!r}", attributes.get("format", "missing"))
        if attributes.get("version") != VERSION:
            raise self._error("version", f"is {VERSION}", attributes.get("version", "missing"))
        for name in ("objects", "predicates"):
            ours, theirs = getattr(self._vocabulary, name), _texts(attributes.get(name))
            if (differs := difference(theirs, ours)) is not None:
                value = f"{differs} ({len(theirs)} and {len(ours)})" if name in attributes else "missing"
                raise self._error(name, "are the names of the data set", value)
            if theirs != ours:
                log.warning("%s: has its %s in another order than the data set; they meet by name", self._path, name)
            self._places[name] = places(ours, theirs)
        self.split = self._text("split") or "missing"
        if self.split not in ("train", "val", "test"):
            raise self._error("split", "is train, val or test", self.split)
        self.data_digest = self._text("data_digest")
        self.data = self._data_config(self._text("data"))

    def _text(self, name: str) -> str | None:
        """An attribute; None where there is no such one."""
        value = self._file.attrs.get(name)
        if value is not None and not isinstance(value, str):
            raise self._error(name, "is text", value)
        return value

    def _data_config(self, text: str | None) -> DataConfig | None:
        try:
            values = None if text is None else foreign.parse_json(text)
            if values is None:
                return None
            return DataConfig(val=values.get(VAL_KEY, "first_rows"), **{key: values[key] for key in SPLIT_KEYS})
        except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._error("data", f"is a JSON object with {', '.join(SPLIT_KEYS)}", text) from error

    def _read_ids(self) -> list[str]:
        dataset = foreign.h5_dataset(self._file, "image_id")
        if dataset is None:
            raise self._error("image_id", "is in the file", "missing")
        if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
            raise self._error("image_id", "holds one text for each image", f"{dataset.dtype} {list(dataset.shape)}")
        ids: list[str] = dataset.asstr()[()].tolist()
        known: set[str] = set()
        for image_id in ids:
            if image_id in known:
                raise self._error("image_id", "is given once", "twice", image_id)
            known.add(image_id)
        return ids

    def _dataset(self, name: str, num_rows: int) -> h5py.Dataset:
        kind, columns = _COLUMNS[name]
        dataset = foreign.h5_dataset(self._file, name)
        if dataset is None:
            raise self._error(name, "is in the file", "missing")
        if dataset.dtype.kind not in ("iu" if kind == "i" else "f"):
            raise self._error(name, "holds integers" if kind == "i" else "holds floats", dataset.dtype)
        shape = (num_rows, *_row_shape(columns, len(self._vocabulary.predicates)))
        if dataset.shape != shape:
            raise self._error(name, f"has shape {list(shape)}", list(dataset.shape))
        return dataset

    def _check_images(self) -> None:
        sizes, counts = self._images["sizes_hw"], ("num_boxes", "num_triplets")
        self._refuse("sizes_hw", (sizes < 1).any(axis=1), "is above 0", sizes, self.image_ids)
        for name in counts:
            self._refuse(name, self._images[name] < 0, "is at least 0", self._images[name], self.image_ids)
        for columns, count in zip((_PER_BOX, _PER_TRIPLET), counts, strict=True):
            for name in columns:
                self._dataset(name, int(self._images[count].sum()))

    def _refuse(self, key: str, bad: Array, rule: str, values: Array, images: list[str] | Array) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            raise self._error(key, rule, values[rows[0]].tolist(), images[rows[0]])

    def __iter__(self) -> Iterator[StoredPrediction]:
        """The images in the order of the file. Raises DataError at the first value that breaks a rule."""
        if not self.image_ids:
            return
        block = (self._ends["num_boxes"] + self._ends["num_triplets"]) // _BLOCK
        bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
        for first, last in itertools.pairwise(bounds):
            yield from self._read(slice(first, last))

    def read(self, place: int) -> StoredPrediction:
        """The image at a place of `image_ids` alone. Raises DataError at a value that breaks a rule."""
        return next(self._read(slice(place, place + 1)))

    def _read(self, images: slice) -> Iterator[StoredPrediction]:
        columns: dict[str, Array] = {}
        splits: dict[str, IntArray] = {}
        with self._readable():
            for names, count in ((_PER_BOX, "num_boxes"), (_PER_TRIPLET, "num_triplets")):
                num, end = self._images[count][images], self._ends[count][images]
                for name, (kind, _) in names.items():
                    rows = self._file[name][int(end[0] - num[0]) : int(end[-1])]
                    columns[name] = rows.astype(np.int64 if kind == "i" else np.float32)
                    splits[name] = num.cumsum()[:-1]
        self._check_block(columns, images)
        self._rename(columns)
        parts = [np.split(columns[name], splits[name]) for name in (*_PER_BOX, *_PER_TRIPLET)]
        sizes = self._images["sizes_hw"][images].tolist()
        for image_id, (height, width), *fields in zip(self.image_ids[images], sizes, *parts, strict=True):
            yield StoredPrediction(image_id, (height, width), ScenePrediction(*fields))

    def _rename(self, columns: dict[str, Array]) -> None:
        """Numbers of the file's classes and predicates become those of the vocabulary."""
        predicates = self._places["predicates"]
        columns["classes"] = self._places["objects"][columns["classes"]]
        columns["predicates"] = predicates[columns["predicates"]]
        columns["predicate_scores"] = columns["predicate_scores"][:, [*predicates.argsort(), -1]]

    def _check_block(self, columns: Mapping[str, Array], images: slice) -> None:
        ids = np.array(self.image_ids[images], dtype=object)
        num_boxes, num_triplets = (self._images[name][images] for name in ("num_boxes", "num_triplets"))
        image = np.repeat(np.arange(len(ids)), num_triplets)
        owners = {**dict.fromkeys(_PER_BOX, ids.repeat(num_boxes)), **dict.fromkeys(_PER_TRIPLET, ids[image])}
        for key, rule, bad in _rules(columns, num_boxes[image], image, self._vocabulary):
            rows = bad if bad.ndim == 1 else np.asarray(bad.any(axis=1))
            self._refuse(key, rows, rule, columns[key], owners[key])


def _texts(value: Any) -> tuple[str, ...]:
    """The names that an attribute holds, as text or as bytes; empty where it holds anything else."""
    if not isinstance(value, np.ndarray) or value.ndim != 1:
        return ()
    return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in value.tolist())


def _rules(
    columns: Mapping[str, Array], num_boxes: IntArray, image: IntArray, vocabulary: Vocabulary
) -> Iterator[tuple[str, str, Array]]:
    """(key, rule, where it is broken) for columns of some images; `num_boxes` and `image` [T] are those of triplets."""
    boxes, pairs, ranked = columns["boxes_xyxy"], columns["pairs"], columns["triplet_scores"]
    yield "boxes_xyxy", "is finite", ~np.isfinite(boxes)
    yield "boxes_xyxy", "has x1 <= x2 and y1 <= y2", boxes[:, :2] > boxes[:, 2:]
    for key, names in (("classes", vocabulary.objects), ("predicates", vocabulary.predicates)):
        yield key, f"is 0 to {len(names) - 1}", (columns[key] < 0) | (columns[key] >= len(names))
    for key in ("scores", "predicate_scores"):
        yield key, "is a probability", ~((columns[key] >= 0) & (columns[key] <= 1 + _ROUNDING))
    yield "pairs", "are boxes of the image", (pairs < 0) | (pairs >= num_boxes[:, None])
    yield "triplet_scores", "is finite", ~np.isfinite(ranked)
    rises = np.diff(ranked, prepend=ranked[:1]) > 0
    yield "triplet_scores", "descends within an image", rises & (np.diff(image, prepend=image[:1]) == 0)
    yield "query_index", "is at least 0", columns["query_index"] < 0
    named = np.column_stack((image, pairs, columns["predicates"]))
    again = np.ones(len(named), dtype=np.bool_)
    again[np.unique(named, axis=0, return_index=True)[1]] = False
    yield "pairs", "with its predicate is given once in an image", again
