"""Evaluation of a model on a split: scene graph recall with box AP, or box AP alone for the detector."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from speaq.config import Config
from speaq.data.loading import eval_loader
from speaq.data.visual_genome import Split
from speaq.evaluation.detection import BOX_AP, DetectionEvaluator
from speaq.evaluation.recall import RecallEvaluator, RecallResult
from speaq.evaluation.table import RecallTable
from speaq.inference import decode, decode_detections
from speaq.structures import Batch, IntArray, ScenePrediction
from speaq.training import distributed
from speaq.training.callbacks import Progress, no_progress

Store = Callable[[str, tuple[int, int], ScenePrediction], None]  # image id, height and width of the photo, prediction


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name (None where undefined) and, for scene graphs, the whole recall result."""

    metrics: dict[str, float | None]
    recall: RecallResult | None = None
    latency_ms: float | None = None  # of forward pass and decoding, an image: median over batches
    table: RecallTable | None = None  # what `recall` was counted from, image by image

    @property
    def protocol(self) -> str:
        """Short name of how the metrics were counted: numbers of different protocols are not comparable."""
        return BOX_AP if self.recall is None else self.recall.protocol


def raw_outputs(
    model: nn.Module, split: Split, config: Config, device: torch.device, progress: Progress
) -> Iterator[tuple[Batch, Any, float]]:
    """This worker's batches with their raw outputs, and when (performance counter) the model was called for them.

    The model is in evaluation mode meanwhile.
    """
    rank, size = distributed.world()
    was_training = model.training
    model.eval()
    done, total = 0, -(-len(split) // size)

    def waiting() -> None:
        progress(done, total, "evaluating")

    for read in eval_loader(split, config, rank, size, waiting=waiting):
        begin = time.perf_counter()
        batch = read.to(device)
        yield batch, model(batch.images, batch.sizes_hw, batch.encoded), begin
        done += len(batch.indices)
        progress(done, total, "evaluating")
    model.train(was_training)


@torch.inference_mode()
def evaluate_scene_graphs(
    model: nn.Module,
    split: Split,
    config: Config,
    device: torch.device,
    *,
    zero_shot: IntArray | None,
    predicate_count: IntArray,
    progress: Progress = no_progress,
    store: Store | None = None,
) -> Evaluation:
    """R, ng-R, zR, mR, F, head / body / tail and box AP of `model` on `split`; every image is counted once.

    With several workers each decodes its share; the result is the same on every worker. `predicate_count` [P+1] is
    that of the train split and decides head, body and tail. `store` is given every image that this worker decodes.
    """
    recall = RecallEvaluator(len(predicate_count) - 1, config.evaluation, zero_shot, predicate_count)
    boxes = DetectionEvaluator()
    latencies: list[float] = []
    for batch, outputs, begin in raw_outputs(model, split, config, device, progress):
        predictions = decode(outputs, batch.original_hw, config.inference, predicate_count)
        latencies.append((time.perf_counter() - begin) / len(predictions) * 1000)  # decoding waits for the device
        for index, hw, prediction in zip(batch.indices, batch.original_hw, predictions, strict=True):
            graph = split.scene_graph(index, hw)
            if store is not None:
                store(graph.image_id, hw, prediction)
            recall.add(index, graph, prediction)
            boxes.add(index, graph, prediction.boxes_xyxy, prediction.classes, prediction.scores)
    recall = RecallEvaluator.merge(distributed.gather(recall))
    boxes = DetectionEvaluator.merge(distributed.gather(boxes))
    result = recall.result()
    latency = statistics.median(latencies) if latencies else None
    return Evaluation({**result.metrics, **boxes.result()}, result, latency, recall.table())


@torch.inference_mode()
def evaluate_detector(
    model: nn.Module, split: Split, config: Config, device: torch.device, *, progress: Progress = no_progress
) -> Evaluation:
    """COCO box AP of a detector on `split`."""
    boxes = DetectionEvaluator()
    for batch, outputs, _ in raw_outputs(model, split, config, device, progress):
        detections = decode_detections(outputs.logits[-1], outputs.boxes[-1], batch.original_hw)
        for index, hw, (xyxy, classes, scores) in zip(batch.indices, batch.original_hw, detections, strict=True):
            boxes.add(index, split.scene_graph(index, hw), xyxy, classes, scores)
    return Evaluation(dict(DetectionEvaluator.merge(distributed.gather(boxes)).result()))
