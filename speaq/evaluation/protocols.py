"""All protocols over stored predictions, of this model or any other: what `speaq metrics` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speaq.config import DataConfig, EvaluationConfig
from speaq.data import DataError
from speaq.data.records import Split, SplitName, VisualGenome
from speaq.data.statistics import predicate_count, zero_shot_triplets
from speaq.evaluation.bootstrap import METRICS, ImageRecord, paired_difference
from speaq.evaluation.detection import DetectionEvaluator
from speaq.evaluation.predictions import PredictionFile
from speaq.evaluation.protocol import PROTOCOLS, Mode
from speaq.evaluation.recall import RecallEvaluator, RecallResult
from speaq.evaluation.report import AVERAGES, format_report, protocol_rows, to_json
from speaq.structures import IntArray, SceneGraph, ScenePrediction

Progress = Callable[[int, int, str], None]  # done, total, text
# In sgcls and predcls: corners of a box may be this share of the image's longest side off its ground-truth box.
BOX_TOLERANCE = 0.02


@dataclass(frozen=True)
class FileMetrics:
    """Recalls of a file of predictions under every protocol, and box AP where the boxes are the model's own."""

    results: tuple[RecallResult, ...]  # one for each of PROTOCOLS: published, strict, per-query
    detection: dict[str, float]  # empty but in sgdet
    predicate_count: IntArray  # [P+1] relations of the train split
    split: SplitName
    images: int  # of the split
    images_absent: int  # not in the file: they count as images without predictions
    record: ImageRecord  # of the published protocol, image by image

    def to_json(self, predicates: Sequence[str]) -> dict[str, Any]:
        """Every protocol's recalls, and the whole report of the published one; `predicates` [P] names."""
        return {
            "split": self.split,
            "images": self.images,
            "images_absent_from_file": self.images_absent,
            "protocols": protocol_rows(self.results),
            "report": to_json(self.results[0], predicates, self.predicate_count, self.detection),
        }

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows: a protocol and a K each."""
        header = ("protocol", "images", "without predictions", "K", "R", "R data set", "mR", "mR present")
        rows = [
            (*head, str(k), *(f"{row[f'{name}@{k}']:.4f}" for name in AVERAGES))
            for row in protocol_rows(self.results)
            for head in [[str(row[name]) for name in ("protocol", "images", "images_without_predictions")]]
            for k in self.results[0].recall_at
        ]
        return header, rows

    def text(self, predicates: Sequence[str]) -> str:
        """What the table does not say: images that the file lacks, and the report of the published protocol."""
        absent = f"{self.images} images of split {self.split}"
        if self.images_absent:
            absent += f"; {self.images_absent} are not in the file and count as images without predictions"
        boxes = [" · ".join(f"{name} {value:.4f}" for name, value in self.detection.items())] * bool(self.detection)
        return "\n".join([absent, format_report(self.results[0], predicates), *boxes])


def evaluate_file(
    path: Path,
    vg: VisualGenome,
    split_name: SplitName,
    mode: Mode,
    config: EvaluationConfig,
    progress: Progress = lambda done, total, text: None,
) -> FileMetrics:
    """Recalls of the predictions in `path` on a split under all protocols (`config.protocol` is not looked at).

    An image of the split that the file does not have counts as one without predictions. Which images are val and
    train is read from the file; where it does not say, the h5 does: all its train rows count as training.

    Raises:
        DataError: the file or the data cannot be used, or do not belong together.
    """
    with PredictionFile(path, vg.vocabulary) as file:
        check_source(path, file, vg, split_name)
        data = file.data or DataConfig(val="split", num_val=0)
        split = vg.split(split_name, data)
        rows = rows_of(path, file, split, split_name)
        counts = predicate_count(vg.split("train", data), vg.num_predicates)
        zero_shot = zero_shot_triplets(vg, split, data, config.zero_shot)
        evaluators = [
            RecallEvaluator(vg.num_predicates, config.model_copy(update={"protocol": p}), zero_shot, counts, mode)
            for p in PROTOCOLS
        ]
        boxes = DetectionEvaluator()
        for done, (row, graph, prediction) in enumerate(images_of(path, file, split, rows, mode), start=1):
            for evaluator in evaluators:
                evaluator.add(row, graph, prediction)
            if mode == "sgdet":
                boxes.add(row, graph, prediction.boxes_xyxy, prediction.classes, prediction.scores)
            progress(done, len(split), "evaluating")
    return FileMetrics(
        results=tuple(evaluator.result() for evaluator in evaluators),
        detection=boxes.result() if mode == "sgdet" else {},
        predicate_count=counts,
        split=split_name,
        images=len(split),
        images_absent=len(split) - len(rows),
        record=ImageRecord.of(evaluators[0], vg.digest),
    )


class Comparison(NamedTuple):
    """A metric of two models, and the 95 % interval of its difference over the images."""

    metric: str
    this: float
    other: float
    difference: float
    low: float
    high: float

    def cells(self) -> tuple[str, ...]:
        """A row of the table: the metric, and the numbers with four decimals."""
        values = (f"{self.this:.4f}", f"{self.other:.4f}", f"{self.difference:+.4f}")
        return self.metric, *values, f"[{self.low:+.4f}, {self.high:+.4f}]"


def compare_files(ours: FileMetrics, theirs: FileMetrics) -> list[Comparison]:
    """Recalls of the published protocol, side by side.

    Raises ConfigError where the two did not see the same images under the same protocol.
    """
    first, second = ours.results[0], theirs.results[0]
    found = []
    for metric in (f"{name}@{k}" for name in METRICS for k in first.recall_at):
        if metric not in first.metrics:  # of few predicates, the head has none
            continue
        interval = paired_difference(ours.record, theirs.record, metric)
        this, other = (float(result.metrics[metric]) for result in (first, second))
        found.append(Comparison(metric, this, other, interval.value, interval.low, interval.high))
    return found


def check_source(path: Path, file: PredictionFile, vg: VisualGenome, split_name: SplitName) -> None:
    """Raises DataError where predictions are of another split or data set."""
    if file.split != split_name:
        raise DataError(f"{path} · split · is that asked for, {split_name} · {file.split}")
    if file.data_digest not in (None, vg.digest):
        raise DataError(f"{path} · data_digest · is that of {vg.directory}, {vg.digest[:12]} · {file.data_digest}")
    if split_name != "test" and file.data is None:
        raise DataError(f"{path} · data · says which images are {split_name} · missing")


def rows_of(path: Path, file: PredictionFile, split: Split, split_name: SplitName) -> dict[str, int]:
    """Row in the split of every image of the file. Raises DataError for one that the split lacks."""
    known = {split.image_id(row): row for row in range(len(split))}
    for image_id in file.image_ids:
        if image_id not in known:
            raise DataError(f"{path} · image_id · is an image of split {split_name} · {image_id!r}")
    return {image_id: known[image_id] for image_id in file.image_ids}


def images_of(
    path: Path, file: PredictionFile, split: Split, rows: dict[str, int], mode: Mode
) -> Iterator[tuple[int, SceneGraph, ScenePrediction]]:
    """Row, ground truth and prediction of every image of the split; those that the file lacks come last."""
    for image_id, size_hw, prediction in file:
        graph = split.scene_graph(rows[image_id], size_hw)
        if mode in ("sgcls", "predcls"):
            _check_boxes(path, graph, prediction, mode)
        yield rows[image_id], graph, prediction
    for row in sorted(set(range(len(split))) - set(rows.values())):
        graph = split.scene_graph(row)
        yield row, graph, _nothing(graph, split.num_predicates, mode)


def _check_boxes(path: Path, graph: SceneGraph, prediction: ScenePrediction, mode: Mode) -> None:
    """Pairs index the ground-truth boxes in these modes, so the file's boxes must be those, in their order."""
    ours, theirs = graph.boxes_xyxy, prediction.boxes_xyxy
    where = f"{path} · image {graph.image_id} · boxes_xyxy · are the {len(ours)} ground-truth boxes in {mode}"
    if len(theirs) != len(ours):
        raise DataError(f"{where} · {len(theirs)}")
    far = (np.abs(theirs - ours) > BOX_TOLERANCE * max(graph.size_hw)).any(axis=1)
    if far.any():
        box = int(np.argmax(far))
        raise DataError(f"{where} · box {box} is {theirs[box].tolist()}, not {ours[box].tolist()}")


def _nothing(graph: SceneGraph, num_predicates: int, mode: Mode) -> ScenePrediction:
    """A prediction without triplets; in sgcls and predcls it has the ground-truth boxes."""
    given = mode in ("sgcls", "predcls")
    boxes, classes = (graph.boxes_xyxy, graph.classes) if given else (graph.boxes_xyxy[:0], graph.classes[:0])
    none = np.zeros(0, dtype=np.int64)
    return ScenePrediction(
        boxes_xyxy=boxes,
        classes=classes,
        scores=np.ones(len(boxes), dtype=np.float32),
        pairs=np.zeros((0, 2), dtype=np.int64),
        predicates=none,
        triplet_scores=np.zeros(0, dtype=np.float32),
        predicate_scores=np.zeros((0, num_predicates + 1), dtype=np.float32),
        query_index=none,
    )
