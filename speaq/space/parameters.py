"""One parameter of a search space: a range or a choice, and when it is active."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field

from speaq.config import Section

Plain = bool | int | float | str | None


class _Parameter(Section):
    when: dict[str, list[Plain]] = Field(
        default={}, description="active where each of these keys has one of the values"
    )
    otherwise: Plain = Field(None, description="value where it is not active (default: the config's own)")

    @property
    def has_otherwise(self) -> bool:
        """Whether the space says what it is where it is not active; None may be what it says."""
        return "otherwise" in self.model_fields_set

    def is_active(self, assigned: Mapping[str, Any]) -> bool:
        """Whether it is searched, given the config values assigned so far, by dotted key."""
        return all(
            any(identity(assigned[parent]) == identity(value) for value in values)
            for parent, values in self.when.items()
        )


class _Range(_Parameter):
    log: bool = Field(False, description="sample the logarithm uniformly")

    def _broken_range(self, low: float, high: float, step: float | None) -> Iterator[str]:
        if low >= high:
            yield f"the range is empty: low {low} is not below high {high}"
        if self.log and low <= 0:
            yield f"log needs low above 0, not {low}"
        if self.log and step is not None:
            yield "log and step exclude each other"
        elif low < high and step is not None and not _is_whole((high - low) / step):
            yield f"high {high} is not low {low} plus a multiple of step {step}"


class FloatRange(_Range):
    """A number in [low, high], on a grid where `step` is given."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(None, gt=0)
    relative: bool = Field(False, description="low and high are multiples of the config's own value")

    def _broken(self) -> Iterator[str]:
        yield from self._broken_range(self.low, self.high, self.step)
        if self.relative and (self.low <= 0 or self.step is not None):
            yield "relative takes a low above 0 and no step"

    def around(self, value: float) -> FloatRange:
        """The range of a relative one where the config has `value`."""
        given = self.model_dump(exclude_unset=True, exclude={"relative"})
        ends = {name: float(f"{given[name] * value:.12g}") for name in ("low", "high")}
        return FloatRange.model_validate({**given, **ends})

    def allows(self, value: Plain) -> bool:
        """Whether the value is a number of the range, on its grid."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def near(self, value: Plain) -> list[Plain]:
        """The number of the range, on its grid, that is nearest to a number; empty for what is no number."""
        if not _is_number(value):
            return []
        inside = min(max(float(value), self.low), self.high)
        if self.step is None:
            return [inside]
        return [min(self.low + round((inside - self.low) / self.step) * self.step, self.high)]

    def extremes(self) -> list[Plain]:
        """Its two ends."""
        return [self.low, self.high]

    def count(self) -> int | None:
        """How many values it can have; None where they cannot be counted."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def values(self) -> Sequence[Plain] | None:
        """All values that it can have, lowest first; None where they cannot be counted."""
        if self.step is None:
            return None
        return [min(self.low + i * self.step, self.high) for i in range(self.count() or 0)]


class IntRange(_Range):
    """A whole number in [low, high], every `step`-th."""

    type: Literal["int"]
    low: int
    high: int
    step: int | None = Field(None, ge=1)

    def _broken(self) -> Iterator[str]:
        yield from self._broken_range(self.low, self.high, self.step)

    def allows(self, value: Plain) -> bool:
        """Whether the value is a whole number of the range, on its grid."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def near(self, value: Plain) -> list[Plain]:
        """The whole number of the range, on its grid, that is nearest to a number; empty for what is no number."""
        if not _is_number(value):
            return []
        step, inside = self.step or 1, min(max(value, self.low), self.high)
        return [self.low + round((inside - self.low) / step) * step]

    def extremes(self) -> list[Plain]:
        """Its two ends."""
        return [self.low, self.high]

    def count(self) -> int:
        """How many values it can have."""
        return (self.high - self.low) // (self.step or 1) + 1

    def values(self) -> Sequence[Plain]:
        """All values that it can have, lowest first."""
        return range(self.low, self.high + 1, self.step or 1)


class Choice(_Parameter):
    """One of a few values."""

    type: Literal["categorical"]
    choices: list[Plain] = Field(min_length=2)

    def _broken(self) -> Iterator[str]:
        if len({identity(choice) for choice in self.choices}) < len(self.choices):
            yield "choices are given twice"

    def allows(self, value: Plain) -> bool:
        """Whether the value is one of the choices."""
        return any(identity(value) == identity(choice) for choice in self.choices)

    def near(self, value: Plain) -> list[Plain]:
        """The choice that is the value, else of numbers the nearest, the earlier of two; empty where there is none."""
        same = [choice for choice in self.choices if identity(choice) == identity(value)]
        if same or not _is_number(value):
            return same
        numbers = [choice for choice in self.choices if _is_number(choice)]
        return [*sorted(numbers, key=lambda number: abs(number - value))[:1]]

    def extremes(self) -> list[Plain]:
        """All choices: none lies between others."""
        return list(self.choices)

    def count(self) -> int:
        """How many values it can have."""
        return len(self.choices)

    def values(self) -> Sequence[Plain]:
        """All values that it can have, in the order of the file."""
        return self.choices


Parameter = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


def identity(value: Plain) -> tuple[str, Plain]:
    """What tells a value from others: 1 and 1.0 are one value, True is another."""
    return "bool" if isinstance(value, bool) else "", value


def _is_whole(steps: float) -> bool:
    return math.isfinite(steps) and math.isclose(steps, round(steps), abs_tol=1e-9)


def _is_number(value: Plain) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
