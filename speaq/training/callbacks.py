"""What a training run tells and asks whoever started it, and the metrics that it tells. Light to import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard

Metrics = Mapping[str, float | None]
Report = Callable[[int, Metrics, Path], None]  # step, metrics, last checkpoint
Progress = Callable[[int, int, str], None]  # done, total, text
Progresses = Callable[[str], AbstractContextManager[Progress]]  # title → how far it is


class Sink(Protocol):
    """A place where metrics go."""

    def write(self, step: int, values: Metrics) -> None:
        """Takes the scalars of a step by name; None is a value that is undefined or not finite."""

    def close(self) -> None:
        """Ends the sink; what was written is kept."""


def no_progress(done: int, total: int, text: str) -> None:
    """Shows nothing."""


def no_progresses(title: str) -> AbstractContextManager[Progress]:
    """Shows nothing of anything."""
    return nullcontext(no_progress)


def nothing() -> None:
    """Does nothing after a checkpoint."""


def never() -> bool:
    """Interrupts no run."""
    return False


@dataclass(frozen=True)
class Callbacks:
    """What a training run tells and asks whoever started it. The fields are arguments of a training function."""

    report: Report | None = None  # on every worker after each evaluation; may raise StopTraining
    saved: Callable[[], None] = nothing  # on the first worker after each checkpoint, before `report`: can be resumed
    progress: Progress = no_progress  # now and then: steps done, steps in all, text
    sinks: Sequence[Sink] = ()  # get the metrics too, beside the sinks that the config asks for
    interrupted: Callable[[], bool] = never  # after each step; true acts as a signal, which the main thread alone gets


def plain(metrics: Metrics) -> dict[str, float | None]:
    """Metrics that JSON can hold: what is not a number is None."""
    return {name: value if is_number(value) else None for name, value in metrics.items()}


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a metric is defined and finite."""
    return value is not None and math.isfinite(value)
