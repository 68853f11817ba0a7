"""What the loop works on: what stays the same of a run while it trains, and what changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speaq.config import Config
from speaq.data.visual_genome import Split, VisualGenome
from speaq.training import distributed
from speaq.training.callbacks import Callbacks, Sink, never
from speaq.training.endings import Interrupted
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
