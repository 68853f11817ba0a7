"""What a chart shows, however it is drawn.

A `kind` says what something is: published, baseline, best, front, other, or c1 to c8, colours without a meaning.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
KINDS = 8  # colours without a meaning
COLOURS = {  # on white; a page has those of chart.css, which on white are the same
    **{"published": "#c2410c", "baseline": "#1d4ed8", "best": "#a16207", "front": "#374151", "other": "#7b838e"},
    **{"c1": "#0072b2", "c2": "#d55e00", "c3": "#007a5a", "c4": "#b0508a"},
    **{"c5": "#8a6d00", "c6": "#332288", "c7": "#2a93c9", "c8": "#a65628"},
}
MOST = 400  # points of a line: more than a chart has pixels


@dataclass(frozen=True)
class Line:
    """Points that are joined; where y is no number, the line is broken."""

    name: str
    points: tuple[Point, ...]
    kind: str
    link: str = ""  # where a click on it leads; "": nowhere
    stairs: bool = False  # a value holds until the next one
    dots: bool = False  # each point is marked
    listed: bool = True  # in the chart's legend

    @property
    def runs(self) -> Iterator[list[Point]]:
        """Its unbroken parts."""
        for known, some in itertools.groupby(self.points, lambda point: math.isfinite(point[1])):
            if known:
                yield list(some)


@dataclass(frozen=True)
class Mark:
    """A point by itself. `about` is what is said of it, `label` is written beside it."""

    x: float
    y: float
    about: str
    kind: str = "other"
    label: str = ""
    link: str = ""
    cross: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines and marks over two axes."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    about: str = ""
    from_zero: bool = False  # the axis of y begins at 0

    @property
    def points(self) -> list[Point]:
        """All that is drawn."""
        found = [point for line in self.lines for run in line.runs for point in run]
        return found + [(mark.x, mark.y) for mark in self.marks]


@dataclass(frozen=True)
class Bar:
    """A length, with the ends of its interval where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bars:
    """Lengths from 0 on, below each other."""

    title: str
    x: str
    bars: tuple[Bar, ...]
    about: str = ""


def kind(number: int) -> str:
    """The colour of the thing of this number, from 0, where colours have no meaning."""
    return f"c{number % KINDS + 1}"


def thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """At most `MOST` points: means of as many neighbours as it takes. Unknown ones are left out."""
    known = [(x, y) for x, y in points if math.isfinite(y)]
    size = -(-len(known) // MOST)
    if size <= 1:
        return tuple(known)
    parts = [known[begin : begin + size] for begin in range(0, len(known), size)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)
