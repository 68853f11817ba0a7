"""A training function for tests of faults: the library's own loop with a model of a few numbers, so that a run costs
next to nothing and every file in its folder is written as a real run writes it. Same arguments as
`speaq.training.loop.train`.

Its model is a vector that every step moves, by the photos of the step's batch: a checkpoint of the wrong step, a step
left out or a batch drawn twice ends in other weights and other metrics. The metrics jump up and down, so that the best
step is any of them. Every step is written down in steps.txt, so that repeated ones can be counted. How long a step
takes, and where the disk gets full, says `tests.soak.study.Control`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from speaq.config import Config, LossConfig
from speaq.data.visual_genome import Split, VisualGenome
from speaq.evaluation.protocol import protocol_name
from speaq.structures import Targets
from speaq.training import loop
from speaq.training.callbacks import Progress
from speaq.training.endings import DivergedError
from speaq.training.evaluate import Evaluation
from speaq.training.tasks import Criterion, Task, TaskName
from tests.soak.study import END, REPORT, Control

Report = Callable[[int, Mapping[str, float | None], Path], None]
POISON = {0.5: "raises", 0.25: "kills itself", 0.125: "diverges", 0.0625: "exits"}  # by training.weight_decay
WAVES = torch.arange(1.0, 17.0, dtype=torch.float64)


def train(
    config: Config,
    data: Path,
    output: Path,
    *,
    report: Report,
    progress: Progress = lambda done, total, text: None,
    **options: Any,
) -> dict[str, Any]:
    """`speaq.training.loop.train` with a model of a vector."""
    control = Control.given()
    _watch(control)
    steps = _Steps(config, output, control, progress)

    def reported(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
        control.reached(REPORT)
        report(step, metrics, checkpoint)

    with mock.patch.object(loop, "make_task", make_task):  # the model alone is ours
        result = loop.train(config, data, output, report=reported, progress=steps, **options)
    control.reached(END)
    return result


class _Steps:
    """Writes down what the loop does, and misbehaves where the config says so."""

    def __init__(self, config: Config, output: Path, control: Control, progress: Progress) -> None:
        self._config, self._output, self._control, self._progress = config, output, control, progress
        self._done: int | None = None

    def __call__(self, done: int, total: int, text: str) -> None:
        """`done` is told again while the loop evaluates, or before its first step."""
        self._progress(done, total, text)
        if done == self._done or not done:
            return
        if self._done is None:
            self._note(f"from {done - 1} {os.getpid()} {time.time():.3f}")
        self._done = done
        self._note(f"step {done} {time.time():.3f}")
        _misbehave(self._config, done)
        time.sleep(self._control.seconds)

    def _note(self, line: str) -> None:
        with (self._output / "steps.txt").open("a") as file:
            file.write(f"\n{line} .")  # what a full disk tears is known by its end


def make_task(task: TaskName, config: Config, vg: VisualGenome, train_split: Split) -> Task:
    """As `speaq.training.tasks.make_task`, with a model of a vector."""
    model = _Vector(config.seed, config.matching.num_groups)

    def evaluate(module: nn.Module, split: Split, device: torch.device, progress: Progress) -> Evaluation:
        assert isinstance(module, _Vector)
        return Evaluation(_metrics(config, module.vector), latency_ms=1.0)

    metric = config.training.best_metric
    return Task(task, model, _criterion, metric, protocol_name(config.evaluation), evaluate)


class _Vector(nn.Module):
    def __init__(self, seed: int, groups: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vector = nn.Parameter(torch.randn(16, dtype=torch.float64, generator=generator))
        self._groups = groups

    def forward(self, images: Tensor, sizes_hw: Tensor) -> Tensor:
        light = images.double().mean() + self._groups
        return torch.sin(self.vector * light * 1.7)


def _criterion(losses: LossConfig) -> Criterion:
    def criterion(outputs: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (outputs * WAVES).sum()
        return loss, {"loss_vector": loss.detach()}

    return criterion


def _metrics(config: Config, vector: Tensor) -> dict[str, float | None]:
    """Every bit of the vector shows in them."""
    value = float((vector.detach() * WAVES * 40).sin().abs().mean())
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


_watched = threading.Lock()  # taken for good by who watches


def _watch(control: Control) -> None:
    """Lets the disk get full in the moment in which a file is opened for writing, where that is asked for."""
    if not control.on or not _watched.acquire(blocking=False):  # a hook stays for the life of the process
        return
    busy = threading.local()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or getattr(busy, "now", False):
            return
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR) or any(letter in (mode or "") for letter in "wax+")
        if writes and isinstance(path, str | os.PathLike):
            busy.now = True
            try:
                control.reached(os.path.basename(os.fspath(path)))
            finally:
                busy.now = False

    sys.addaudithook(hook)
