"""A training function that costs nothing, for tests and benchmarks of the search itself: same arguments, same files.

Its metrics are a function of the config; it saves its step and goes on from there.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speaq.config import Config, dump
from speaq.training.endings import OutOfMemory, StopTraining

Report = Callable[[int, Mapping[str, float | None], Path], None]


def train(
    config: Config, data: Path, output: Path, *, report: Report | None = None, resume: bool = False, **options: Any
) -> dict[str, Any]:
    """Recall grows with the steps towards a height that the config decides; SLEEP seconds a step."""
    last = output / "checkpoints" / "last.pt"
    step, main = int(last.read_text()) if resume and last.exists() else 0, True
    if config.resources.num_workers > 1:
        from speaq.training import distributed  # and with it torch, which takes seconds

        step, main = distributed.broadcast(step), distributed.world()[0] == 0
    if main:
        last.parent.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump(config))
        with (output / "steps.txt").open("a") as log:
            log.write(f"{os.getpid()} from {step}\n")
    status, metrics = "finished", evaluate(config, step)
    while step < config.training.max_steps:
        time.sleep(float(os.environ.get("CHEAP_TRAINING_SLEEP", "0")))
        step += 1
        _misbehave(config, step)
        if step % config.training.eval_every and step < config.training.max_steps:
            continue
        metrics = evaluate(config, step)
        if main:
            last.with_suffix(".tmp").write_text(str(step))
            last.with_suffix(".tmp").replace(last)
        if report is not None:
            try:
                report(step, metrics, last)
            except StopTraining:
                status = "stopped"
                break
    best = {"metric": config.training.best_metric, "value": 0.0, "step": step, "metrics": metrics}
    latency = 10.0 * config.matching.num_groups
    cost = {"seconds": step * 0.01, "steps": step, "workers": 1, "peak_memory_mib": 100.0, "latency_ms": latency}
    cost["data_wait_share"] = 0.25
    result = {"status": status, "step": step, "seconds": step * 0.01, "metrics": metrics, "best": best, "cost": cost}
    if main:
        (output / "result.json").write_text(json.dumps(result))
    return result


def evaluate(config: Config, step: int) -> dict[str, float | None]:
    height = 1 / (1 + abs(math.log10(config.training.learning_rate) + 3))
    height *= 1 - 0.02 * abs(config.matching.num_groups - 3)
    recall = height * (1 - math.exp(-3 * step / config.training.max_steps))
    tail = 0.5 * recall + 0.1 * (config.matching.num_groups > 1)
    metrics: dict[str, float | None] = {"zR@20": None}
    for k in config.evaluation.recall_at:
        metrics |= {f"R@{k}": recall, f"mR@{k}": tail, f"F@{k}": 2 * recall * tail / (recall + tail + 1e-9)}
        metrics |= {f"head@{k}": recall, f"body@{k}": tail, f"tail@{k}": tail / 2}
    return metrics


def _misbehave(config: Config, step: int) -> None:
    """Weight decay is not used: special values of it make trouble."""
    match config.training.weight_decay:
        case 0.5:
            raise RuntimeError("made to fail")
        case 0.0625:
            raise OutOfMemory("training.micro_batch_size: made to be too much, always")
        case 0.125 if (config.training.micro_batch_size or config.training.batch_size) > 2:
            raise OutOfMemory("training.micro_batch_size: made to be too much")
        case 0.25 if step == config.training.max_steps:
            os._exit(1)
