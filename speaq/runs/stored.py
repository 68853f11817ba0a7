"""A trained run's raw outputs, made once, and evaluations from them: what searching the inference section needs.

An HDF5 file holds what decoding needs of every query of a split, so that it is searched again and again without the
network. Everything is in float32, so that metrics are the same as at once.

Letters: I images, R relation queries, P predicates.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from speaq.config import Config, ConfigError, InferenceConfig
from speaq.data import DataError
from speaq.data.statistics import zero_shot_triplets
from speaq.data.visual_genome import Split
from speaq.evaluation.detection import DetectionEvaluator
from speaq.evaluation.recall import RecallEvaluator
from speaq.files import foreign
from speaq.files.atomic import replaced
from speaq.files.regular import sha256
from speaq.inference import QueryOutputs, decode_queries, query_outputs
from speaq.runs.run import OpenedRun, open_run
from speaq.structures import IntArray
from speaq.training.callbacks import Progress, no_progress
from speaq.training.evaluate import Evaluation, raw_outputs

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


@dataclass(frozen=True)
class StoredRun:
    """Raw outputs of a run's best checkpoint on a split, with all that evaluating them takes."""

    raw: Path
    config: Config  # the run's
    data: Path
    data_digest: str
    step: int
    split: Split
    counts: IntArray  # [P+1] of the train split
    zero_shot: IntArray | None

    def evaluate(self, inference: InferenceConfig) -> Evaluation:
        """The same numbers as evaluating the network with this inference section; `layer` is that of the run.

        Raises ConfigError for another layer, DataError where the file cannot be read.
        """
        if inference.layer != self.config.inference.layer:
            raise ConfigError(f"inference.layer: {self.raw} holds layer {self.config.inference.layer} alone")
        recall = RecallEvaluator(len(self.counts) - 1, self.config.evaluation, self.zero_shot, self.counts)
        boxes = DetectionEvaluator()
        with contextlib.closing(RawOutputs(self.raw)) as raw:
            for rows, sizes, queries in raw.batches():
                sizes_hw = [(int(h), int(w)) for h, w in sizes]
                predictions = decode_queries(queries, sizes_hw, inference, self.counts)
                for row, hw, prediction in zip(rows.tolist(), sizes_hw, predictions, strict=True):
                    graph = self.split.scene_graph(row, hw)
                    recall.add(row, graph, prediction)
                    boxes.add(row, graph, prediction.boxes_xyxy, prediction.classes, prediction.scores)
        result = recall.result()
        return Evaluation({**result.metrics, **boxes.result()}, result)


def store(run: Path, data: Path | None = None, *, progress: Progress = no_progress) -> StoredRun:
    """Raw outputs of the run's best checkpoint on the validation split, from its folder where they are there already.

    Raises:
        ConfigError, CheckpointError, DataError: the run or the data cannot be used, or do not belong together.
    """
    opened = open_run(run, data)
    config, vg = opened.config, opened.vg
    split = opened.split("val")
    path, header = place(opened)
    if not is_there(path, header):
        with writer(path, header) as append:
            for rows, sizes, queries in network_outputs(opened, split, progress):
                append(rows, sizes, queries)
    zero_shot = zero_shot_triplets(vg, split, config.data, config.evaluation.zero_shot)
    return StoredRun(
        raw=path,
        config=config,
        data=vg.directory,
        data_digest=vg.digest,
        step=opened.step,
        split=split,
        counts=opened.counts,
        zero_shot=zero_shot,
    )


def place(opened: OpenedRun) -> tuple[Path, dict[str, str]]:
    """Where raw outputs of a checkpoint on val are kept in its run's folder, and the header that they then have."""
    digest, layer = sha256(opened.file), str(opened.config.inference.layer)
    header = {"checkpoint": digest, "data": opened.vg.digest, "split": "val", "layer": layer}
    return opened.folder / f"raw-val-{digest[:8]}.h5", header


def is_there(path: Path, header: dict[str, str]) -> bool:
    """Whether `path` holds the outputs that `header` describes. Raises DataError where it holds something else."""
    if not path.exists():
        return False
    with contextlib.closing(RawOutputs(path)) as raw:
        return raw.header == header


@torch.inference_mode()
def network_outputs(
    opened: OpenedRun, split: Split, progress: Progress
) -> Iterator[tuple[IntArray, IntArray, QueryOutputs]]:
    """Rows of the split [n], heights and widths of the photos [n, 2] and outputs, batch by batch, of a checkpoint."""
    config, model, device = opened.config, *opened.model()
    for batch, outputs, _ in raw_outputs(model, split, config, device, progress):
        yield np.array(batch.indices), np.array(batch.original_hw), query_outputs(outputs, config.inference.layer)
