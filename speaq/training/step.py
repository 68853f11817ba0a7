"""What the loop works on, and one optimizer step of it, over as many micro-batches as the effective batch needs."""

from __future__ import annotations

import contextlib
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speaq.config import Config, TrainingConfig
from speaq.data.dataset import RawBatch
from speaq.data.stored import StoredBatch
from speaq.data.visual_genome import Split, VisualGenome
from speaq.losses import SpeaQLoss
from speaq.matching.match import NonFiniteOutputError
from speaq.structures import Batch, IntArray
from speaq.training import distributed
from speaq.training.callbacks import Callbacks, Sink, never
from speaq.training.endings import DivergedError, Interrupted, OutOfMemory
from speaq.training.health import Health
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


def take_step(run: Run, step: int, batches: Iterator[Batch | RawBatch | StoredBatch], meter: Meter) -> None:
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


def _step(run: Run, step: int, batches: Iterator[Batch | RawBatch | StoredBatch], meter: Meter) -> None:
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
            outputs = run.model(batch.images, batch.sizes_hw, batch.encoded)
        if isinstance(run.criterion, SpeaQLoss):
            total, parts, by_group = run.criterion.by_group(outputs.float(), batch.targets)
        else:
            (total, parts), by_group = run.criterion(outputs.float(), batch.targets), None
        run.scaler.scale(total * scale).backward()  # type: ignore[no-untyped-call]
    return {"loss": total.detach(), **parts}, by_group


Part = Literal["rest", "relation", "entity", "backbone"]
# What the factors of method section 8 apply to, by names; a detector's queries become the subject queries.
RELATION = re.compile(
    r"transformer\.(predicate_head\.|relation_queries$|decoder\.(relation_norm\.|layers\.\d+\.(refinements\.)?relation"
    r"(_conditioning)?\.))"
)
ENTITY = re.compile(r"transformer\.(encoder\.(layers|norm)\.|(subject_)?queries$)")


def part_of(name: str) -> Part:
    """Which part of the network a parameter belongs to, by its name; `rest` is trained at the base learning rate."""
    if name.startswith("backbone."):
        return "backbone"
    if RELATION.match(name):
        return "relation"
    return "entity" if ENTITY.match(name) else "rest"


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, object]]:
    """Trainable parameters in groups of one learning rate each, parts of the same rate together.

    Weight decay applies to every parameter, norms and biases included, as in the reference (golden G10).
    """
    factors: dict[Part, float] = {
        "rest": 1.0,
        "relation": config.relation_multiplier,
        "entity": config.entity_multiplier,
        "backbone": config.backbone_multiplier * config.entity_multiplier,
    }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((part == "backbone", factors[part]), []).append(parameter)
    in_order = sorted(groups, key=lambda key: (key[0], key[1] != 1, key[1]))  # first what learns at the base rate
    rates = [config.learning_rate * factor for _, factor in in_order]
    return [
        {"params": groups[key], "lr": rate, "base_lr": rate, "weight_decay": config.weight_decay}
        for key, rate in zip(in_order, rates, strict=True)
    ]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.999), eps 1e-8, in its fused form."""
    return torch.optim.AdamW(parameter_groups(model, config), fused=True)


def lr_multiplier(step: int, config: TrainingConfig) -> float:
    """Factor of the learning rate at the 0-based `step`: linear warm-up, then a multi-step decay (golden G10)."""
    factor = config.decay_factor ** bisect_right(config.decay_steps, step)
    if step < config.warmup_steps:
        done = step / config.warmup_steps
        factor *= config.warmup_factor * (1 - done) + done
    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainingConfig) -> None:
    """Sets every group's learning rate for the 0-based `step`."""
    factor = lr_multiplier(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(model: nn.Module, config: TrainingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales the gradients of the whole model to at most `clip_norm`.

    Returns:
        The norm before, a 0-d tensor, and [N] the norm of every parameter that has a gradient, in the model's order.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(norms)
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, norm, foreach=True)
    return norm, norms
