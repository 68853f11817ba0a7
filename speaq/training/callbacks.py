"""Between the library and Ray: the training function, and what a trial sends to Tune. Light to import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeGuard

Metrics = Mapping[str, float | None]
Report = Callable[[int, Metrics, Path], None]  # step, metrics, last checkpoint
Progress = Callable[[int, int, str], None]  # done, total, text
Progresses = Callable[[str], AbstractContextManager[Progress]]  # title → how far it is


def plain(metrics: Metrics) -> dict[str, float | None]:
    """Metrics that JSON can hold: what is not a number is None."""
    return {name: value if is_number(value) else None for name, value in metrics.items()}


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
