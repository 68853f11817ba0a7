"""What decoding needs of every query of a split, in an HDF5 file: searched again and again without the network.

Letters: I images, R relation queries, P predicates. Everything in float32, so that metrics are the same as at once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from speaq.data import DataError
from speaq.inference import QueryOutputs
from speaq.structures import IntArray

FORMAT = "speaq-raw-outputs/1"
AT_ONCE = 64  # images read together


class RawOutputs:
    """A file of raw outputs, open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file cannot be read as one."""
        self.path = path
        try:
            self._file = h5py.File(path, "r")
            kind, header = self._file.attrs.get("format"), json.loads(self._file.attrs.get("header", "null"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} · cannot be read ({' '.join(str(error).split())[:150]})") from error
        if kind != FORMAT or not isinstance(header, dict):
            raise DataError(f"{path} · format · is {FORMAT} · {kind!r}")
        self.header: dict[str, str] = header

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._file["rows"])

    def batches(self) -> Iterator[tuple[IntArray, IntArray, QueryOutputs]]:
        """Rows of the split [n], heights and widths of the photos [n, 2], outputs of n images."""
        for begin in range(0, len(self), AT_ONCE):
            some = slice(begin, begin + AT_ONCE)
            columns = (torch.from_numpy(self._file[name][some]) for name in ("scores", "boxes", "predicate_logits"))
            scores, boxes, logits = columns
            classes = torch.from_numpy(self._file["classes"][some].astype(np.int64))
            yield self._file["rows"][some], self._file["sizes_hw"][some], QueryOutputs(scores, classes, boxes, logits)


@contextlib.contextmanager
def writer(path: Path, header: dict[str, str]) -> Iterator[Callable[[IntArray, IntArray, QueryOutputs], None]]:
    """Calls of what is yielded append images; the file has its name only after the block has ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"], file.attrs["header"] = FORMAT, json.dumps(header)
            yield lambda rows, sizes_hw, queries: _append(file, rows, sizes_hw, queries)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
