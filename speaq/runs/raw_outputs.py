"""What decoding needs of every query of a split, in an HDF5 file: searched again and again without the network.

Letters: I images, R relation queries, P predicates. Everything in float32, so that metrics are the same as at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from speaq.data import DataError
from speaq.files import foreign
from speaq.files.atomic import replaced
from speaq.inference import QueryOutputs
from speaq.structures import IntArray

FORMAT = "speaq-raw-outputs/1"
AT_ONCE = 64  # images read together
# Key → (kind of number, dimensions).
_COLUMNS = {
    "rows": ("i", 1),
    "sizes_hw": ("i", 2),
    "scores": ("f", 2),
    "classes": ("i", 2),
    "boxes": ("f", 3),
    "predicate_logits": ("f", 3),
}


class RawOutputs:
    """A file of raw outputs, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read as one."""
        self.path = path
        with self._readable():
            self._file = foreign.open_h5(path)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._file.close)
            with self._readable():
                kind, header = self._file.attrs.get("format"), self._file.attrs.get("header")
                if not isinstance(kind, str) or kind != FORMAT:
                    raise DataError(f"{path} · format · is {FORMAT} · {' '.join(repr(kind).split())[:150]}")
                self.header: dict[str, str] = foreign.parse_json(str(header))
                self._columns = self._checked_columns()
            on_failure.pop_all()

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{self.path} · cannot be read ({' '.join(str(error).split())[:150]})") from error

    def _checked_columns(self) -> dict[str, h5py.Dataset]:
        """The datasets. Raises DataError where one is missing, or does not fit to the others."""
        columns: dict[str, h5py.Dataset] = {}
        for name, (kind, dimensions) in _COLUMNS.items():
            column = foreign.h5_dataset(self._file, name)
            if column is None or column.dtype.kind != kind or len(column.shape or ()) != dimensions:
                raise DataError(f"{self.path} · {name} · has {dimensions} dimensions, of kind {kind} · {column}")
            columns[name] = column
        shapes = {name: column.shape for name, column in columns.items()}
        images, queries, _ = shapes["predicate_logits"]
        wanted = {"rows": (images,), "sizes_hw": (images, 2), "boxes": (images, 2 * queries, 4)}
        wanted |= dict.fromkeys(("scores", "classes"), (images, 2 * queries))
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise DataError(f"{self.path} · {name} · has shape {list(shape)} · {list(shapes[name])}")
        return columns

    def close(self) -> None:
        """Closes the file; nothing can be read afterwards."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._columns["rows"])

    def batches(self) -> Iterator[tuple[IntArray, IntArray, QueryOutputs]]:
        """Rows of the split [n], heights and widths of the photos [n, 2], outputs of n images."""
        for begin in range(0, len(self), AT_ONCE):
            with self._readable():
                some = {name: column[begin : begin + AT_ONCE] for name, column in self._columns.items()}
            scores, boxes, logits = (torch.from_numpy(some[name]) for name in ("scores", "boxes", "predicate_logits"))
            classes = torch.from_numpy(some["classes"].astype(np.int64))
            yield some["rows"], some["sizes_hw"], QueryOutputs(scores, classes, boxes, logits)


@contextlib.contextmanager
def writer(path: Path, header: dict[str, str]) -> Iterator[Callable[[IntArray, IntArray, QueryOutputs], None]]:
    """Calls of what is yielded append images; the file has its name only after the block has ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["header"] = FORMAT, json.dumps(header)
        yield lambda rows, sizes_hw, queries: _append(file, rows, sizes_hw, queries)


def _append(file: h5py.File, rows: IntArray, sizes_hw: IntArray, queries: QueryOutputs) -> None:
    columns = {
        "rows": np.asarray(rows, np.int64),
        "sizes_hw": np.asarray(sizes_hw, np.int64),
        "scores": queries.scores.cpu().numpy(),
        "classes": queries.classes.cpu().numpy().astype(np.int32),
        "boxes": queries.boxes.cpu().numpy(),
        "predicate_logits": queries.predicate_logits.cpu().numpy(),
    }
    for name, values in columns.items():
        if name not in file:
            file.create_dataset(name, (0, *values.shape[1:]), values.dtype, maxshape=(None, *values.shape[1:]))
        dataset = file[name]
        dataset.resize(len(dataset) + len(values), axis=0)
        dataset[-len(values) :] = values
