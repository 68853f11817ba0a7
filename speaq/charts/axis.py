"""An axis: from where to where it goes, and the round numbers on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
SPACE = 0.05  # left free beyond the outermost values, of their distance
SMALLEST, LARGEST = 1e-100, 1e100  # beyond them nothing is told apart


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, with marks a `step` apart."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, values: Iterable[float], most: int, *, from_zero: bool = False, whole: bool = False) -> Axis:
        """An axis that has all values.

        Args:
            most: marks at most.
            from_zero: it begins at 0 where no value is below.
            whole: no mark is between whole numbers.
        """
        found = [min(max(value, -LARGEST), LARGEST) for value in values if math.isfinite(value)] or [0.0, 1.0]
        least, largest = min(found), max(found)
        size = max(abs(least), abs(largest), SMALLEST)
        if largest - least <= size * 1e-9:  # equal, as far as can be drawn
            around = 0.5 if size == SMALLEST else size / 2
            least, largest = least - around, largest + around
        space = SPACE * (largest - least)
        low, high = least - space, largest + space
        if from_zero and min(found) >= 0:
            low = 0.0
        step = _round_step((high - low) / max(most, 1))
        return cls(low, high, max(1.0, step) if whole else step)

    @property
    def marks(self) -> list[float]:
        """Round numbers in the axis, ascending."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]

    def text(self, value: float) -> str:
        """A mark as it is written: with as many digits as tell it from its neighbours."""
        if value and not 1e-4 <= abs(value) < 1e7:
            return f"{value:.3g}"
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if round(self.step * 10**digits, 9) % 1:  # 2.5 and the like
            digits += 1
        return f"{value + 0.0:,.{digits}f}"

    def place(self, value: float) -> float:
        """Where a value is, 0 at the axis' begin and 1 at its end."""
        return (value - self.low) / (self.high - self.low)


def _round_step(least: float) -> float:
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * number for number in ROUND if size * number >= least * (1 - 1e-9))
