"""How long networks take on the same photos, in PyTorch and exported."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speaq.prediction.export import ExampleBatch, example_batches
from speaq.prediction.predictor import Predictor
from speaq.training.callbacks import Progress


@dataclass(frozen=True)
class Latency:
    """Of one network, from images in memory to outputs in memory; decoding of files and outputs is not in it."""

    model: str
    device: str
    threads: int
    images: int  # in all calls together
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_second: float


def benchmark(
    models: Sequence[Path],
    photos: Sequence[Path] = (),
    *,
    batch_size: int = 1,
    rounds: int = 10,
    warmup: int = 3,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = lambda done, total, text: None,
) -> list[Latency]:
    """Latency of every run or exported file on the same photos (the first 32; without any: on a generated picture).

    Args:
        models: run folders, checkpoints, .onnx files.
        rounds: times that all photos are looked at.
        warmup: calls before that, which do not count.
        threads: of PyTorch and onnxruntime; default: PyTorch's own choice.

    Raises:
        ConfigError, CheckpointError, DataError: a model or photo that cannot be used.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)  # before a session of onnxruntime is made, which takes it over
        loaded = [(path, Predictor.load(path, device=device)) for path in models]  # a wrong one is refused at once
        return [
            _measure(str(path), one, example_batches(one, photos, batch_size), rounds, warmup, progress)
            for path, one in loaded
        ]
    finally:
        torch.set_num_threads(before)


def _measure(
    model: str, predictor: Predictor, batches: Sequence[ExampleBatch], rounds: int, warmup: int, progress: Progress
) -> Latency:
    calls = warmup + rounds * len(batches)
    seconds = []
    for number in range(calls):
        begin = time.perf_counter()
        _call(predictor, batches[number % len(batches)])
        seconds.append(time.perf_counter() - begin)
        progress(number + 1, calls, model)
    del seconds[:warmup]
    images = rounds * sum(len(images) for images, _ in batches)
    p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(seconds, (50, 90, 99)))
    return Latency(
        model=model,
        device=str(predictor.device),
        threads=torch.get_num_threads(),
        images=images,
        calls=len(seconds),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(np.mean(seconds)) * 1e3,
        images_per_second=images / sum(seconds),
    )


@torch.inference_mode()
def _call(predictor: Predictor, batch: ExampleBatch) -> None:
    images, sizes_hw = batch
    outputs = predictor.model(images.to(predictor.device), sizes_hw.to(predictor.device))
    outputs.predicate_logits.cpu()  # waits for a GPU
