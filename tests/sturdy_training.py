"""A training function for tests of faults: cheap, but with state that a lost or a repeated step would change, and with
the library's own checkpoints. Same arguments and files as `speaq.training.loop.train`.

Its model is a vector that every step mixes with the step's number: a checkpoint of the wrong step, or a step left out,
ends in other metrics. Every step is written down in steps.txt, so that repeated ones can be counted. STURDY_STEP
seconds a step.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from speaq.config import Config, dump, to_dict
from speaq.training import checkpoint
from speaq.training.endings import DivergedError, Interrupted, StopTraining

Report = Callable[[int, Mapping[str, float | None], Path], None]
POISON = {0.5: "raises", 0.25: "kills itself", 0.125: "diverges", 0.0625: "exits"}  # by training.weight_decay


def train(
    config: Config,
    data: Path,
    output: Path,
    *,
    report: Report,
    resume: bool,
    interrupted: Callable[[], bool] = lambda: False,
    **options: Any,
) -> dict[str, Any]:
    """Goes on with what it finds in `output`."""
    folder = output / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(folder)
    before = checkpoint.load_latest(folder)
    step, vector = (before["step"], before["model"]["vector"]) if before else (0, _start(config))
    (output / "config.yaml").write_text(dump(config))
    metrics: dict[str, float | None] = {}
    _note(output, f"from {step} {os.getpid()} {time.time():.3f}")
    training = config.training
    while step < training.max_steps:
        time.sleep(float(os.environ.get("STURDY_STEP", "0")))
        step += 1
        _note(output, f"step {step} {time.time():.3f}")
        vector = torch.sin(vector * 1.7 + step * training.weight_decay + config.matching.num_groups)
        _misbehave(config, step)
        evaluates = step % training.eval_every == 0 or step == training.max_steps
        stop = interrupted()
        if evaluates or stop or step % (training.checkpoint_every or training.max_steps) == 0:
            content = {"task": "speaq", "step": step, "model": {"vector": vector}, "config": to_dict(config)}
            content |= {"objects": [], "predicates": [], "data_digest": ""}
            checkpoint.save(folder / checkpoint.LAST, content, keep_previous=True)
        if stop and step < training.max_steps:
            raise Interrupted
        if evaluates:
            metrics = _evaluate(config, vector)
            try:
                report(step, metrics, folder / checkpoint.LAST)
            except StopTraining:
                break
    metrics = metrics or _evaluate(config, vector)
    best = {"metric": training.best_metric, "value": 0.0, "step": step, "metrics": metrics}
    cost = {"seconds": float(step), "steps": step, "workers": 1, "latency_ms": 1.0, "peak_memory_mib": 1.0}
    result = {"status": "finished", "step": step, "seconds": float(step), "best": best, "cost": cost}
    (output / "result.json").write_text(json.dumps(result))
    return result


def _start(config: Config) -> torch.Tensor:
    return torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(config.seed))


def _note(output: Path, line: str) -> None:
    with (output / "steps.txt").open("a") as file:
        file.write(f"\n{line} .")  # what a full disk tears is known by its end


def _evaluate(config: Config, vector: torch.Tensor) -> dict[str, float | None]:
    """Every bit of the vector shows in them."""
    value = float(vector.abs().mean())
    names = ("R", "mR", "F", "head", "body", "tail")
    return {f"{name}@{k}": value / (1 + index) for index, name in enumerate(names) for k in config.evaluation.recall_at}


def _misbehave(config: Config, step: int) -> None:
    match POISON.get(config.training.weight_decay):
        case "raises":
            raise RuntimeError("made to fail")
        case "kills itself" if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        case "diverges" if step == 3:
            raise DivergedError("the loss is nan at step 3")
        case "exits":
            raise SystemExit(3)
