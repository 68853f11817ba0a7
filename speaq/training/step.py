"""One optimizer step, over as many micro-batches as the effective batch needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config
from speaq.data.dataset import RawBatch
from speaq.losses import SpeaQLoss
from speaq.matching.match import NonFiniteOutputError
from speaq.structures import Batch, IntArray
from speaq.training import distributed
from speaq.training.endings import DivergedError, OutOfMemory
from speaq.training.optimizer import clip_gradients, set_learning_rate
from speaq.training.state import Run
from speaq.training.tasks import Criterion, Task


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
    by_group: IntArray | None = None
    for index in range(micro_batches):
        begin = time.perf_counter()
        batch = next(batches).to(run.device)
        meter.wait(time.perf_counter() - begin)
        parts, met = _backward(run, batch, 1 / micro_batches, last=index == micro_batches - 1)
        by_group = met if met is None or by_group is None else by_group + met
        for name, value in parts.items():
            total[name] = total[name] + value / micro_batches if name in total else value / micro_batches
    run.scaler.unscale_(run.optimizer)
    total["gradient_norm"], norms = clip_gradients(run.task.model, config)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.health.add(step + 1, total, norms, by_group)


def _backward(run: Run, batch: Batch, scale: float, *, last: bool) -> tuple[dict[str, Tensor], IntArray | None]:
    """Adds a micro-batch's gradients, times `scale`.

    Returns its losses and their parts by name, 0-d each, and of SpeaQ how targets met the groups' queries.
    """
    precision = run.config.training.precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    hold = (
        run.model.no_sync() if isinstance(run.model, DistributedDataParallel) and not last else contextlib.nullcontext()
    )
    with hold:
        with torch.autocast(run.device.type, dtype, enabled=precision != "float32"):
            outputs = run.model(batch.images, batch.sizes_hw)
        if isinstance(run.criterion, SpeaQLoss):
            total, parts, by_group = run.criterion.by_group(outputs.float(), batch.targets)
        else:
            (total, parts), by_group = run.criterion(outputs.float(), batch.targets), None
        run.scaler.scale(total * scale).backward()  # type: ignore[no-untyped-call]
    return {"loss": total.detach(), **parts}, by_group
