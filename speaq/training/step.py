"""What the loop works on, and one optimizer step of it, over as many micro-batches as the effective batch needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config
from speaq.data.dataset import RawBatch
from speaq.data.visual_genome import Split, VisualGenome
from speaq.matching.match import NonFiniteOutputError
from speaq.structures import Batch
from speaq.training import distributed
from speaq.training.callbacks import Callbacks, Sink, never
from speaq.training.endings import DivergedError, Interrupted, OutOfMemory
from speaq.training.health import Health
from speaq.training.optimizer import clip_gradients, set_learning_rate
from speaq.training.tasks import Criterion, Task


@dataclass
class State:
    """What changes while training."""

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds, for data, since this process began
    trained: float = 0.0  # seconds in steps, since this process began
    latency_ms: float | None = None  # see `Evaluation`
    best: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    evaluated: int | None = 0  # step of `metrics`; None: not known, of a checkpoint of an earlier version
    kept: int | None = None  # step of last.pt
    told: bool = True  # False: `metrics` are reported once more before anything else, that report may have been lost


@dataclass
class Run:
    """What stays the same while training, but for the criterion, which follows the schedule of loss weights."""

    config: Config
    output: Path
    task: Task
    criterion: Criterion
    model: nn.Module  # wrapped for several workers
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    vg: VisualGenome
    train_split: Split
    val_split: Split
    device: torch.device
    health: Health
    calls: Callbacks
    interrupted: Callable[[], bool] = never  # by a signal, or as `calls` say
    sinks: list[Sink] = field(default_factory=list)  # on the first worker alone

    @property
    def main(self) -> bool:
        """Whether this is the first worker, which writes all files."""
        return distributed.world()[0] == 0

    def wait(self) -> None:
        """Called about once a second wherever training waits. Raises Interrupted.

        With several workers all have to agree, which they do between steps alone.
        """
        if distributed.world()[1] == 1 and self.interrupted():
            raise Interrupted


@dataclass
class Meter:
    """Throughput and losses since the last line."""

    since: int  # step
    begin: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds for data since `begin`
    waited_in_all: float = 0.0
    text: str = ""

    def wait(self, seconds: float) -> None:
        """Counts seconds in which there was no batch."""
        self.waited += seconds
        self.waited_in_all += seconds

    def reset(self, step: int) -> None:
        """Begins to count anew after a step."""
        self.since, self.begin, self.waited = step, time.perf_counter(), 0.0


def criterion_after(config: Config, task: Task, steps: int, device: torch.device) -> Criterion:
    """The loss of the next step when `steps` are done."""
    criterion = task.criterion_for(config.losses.after(steps))
    return criterion.to(device) if isinstance(criterion, nn.Module) else criterion


def take_step(run: Run, step: int, batches: Iterator[Batch | RawBatch], meter: Meter) -> None:
    """Makes the step after `step` steps. Raises DivergedError, OutOfMemory, which say why it cannot be made."""
    try:
        _step(run, step, batches, meter)
    except NonFiniteOutputError as error:
        raise DivergedError(run.health.explain(step + 1, str(error))) from error
    except torch.OutOfMemoryError as error:
        config = run.config.training
        share = config.micro_batch_size or config.batch_size // distributed.world()[1]
        raise OutOfMemory(
            f"training.micro_batch_size: {share} images at once do not fit into the device's memory at step "
            f"{step}; set a smaller one"
        ) from error


def _step(run: Run, step: int, batches: Iterator[Batch | RawBatch], meter: Meter) -> None:
    """One optimizer step, over as many micro-batches as the effective batch needs."""
    config = run.config.training
    rank, size = distributed.world()
    share = config.batch_size // size
    micro_batches = share // (config.micro_batch_size or share)
    # Dropout is seeded by step and worker, so that a resumed run needs no stored random state.
    torch.manual_seed(hash((run.config.seed, step, rank)) % 2**63)
    set_learning_rate(run.optimizer, step, config)
    run.optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for index in range(micro_batches):
        begin = time.perf_counter()
        batch = next(batches).to(run.device)
        meter.wait(time.perf_counter() - begin)
        for name, value in _backward(run, batch, 1 / micro_batches, last=index == micro_batches - 1).items():
            total[name] = total[name] + value / micro_batches if name in total else value / micro_batches
    run.scaler.unscale_(run.optimizer)
    total["gradient_norm"], norms = clip_gradients(run.task.model, config)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.health.add(step + 1, total, norms)


def _backward(run: Run, batch: Batch, scale: float, *, last: bool) -> dict[str, Tensor]:
    """Adds a micro-batch's gradients, times `scale`; returns its losses and their parts by name, 0-d each."""
    precision = run.config.training.precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    hold = (
        run.model.no_sync() if isinstance(run.model, DistributedDataParallel) and not last else contextlib.nullcontext()
    )
    with hold:
        with torch.autocast(run.device.type, dtype, enabled=precision != "float32"):
            outputs = run.model(batch.images, batch.sizes_hw)
        total, parts = run.criterion(outputs.float(), batch.targets)
        run.scaler.scale(total * scale).backward()  # type: ignore[no-untyped-call]
    return {"loss": total.detach(), **parts}
