"""Where the names of boxes go, so that they hide each other little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from speaq.plain_text import room

SIZE, ROW, MARGIN = 13.0, 17.0, 8.0  # of a name: the font's, its height, what is left around, in units
LETTER = 0.6  # width of a letter, in font sizes


class Spot(NamedTuple):
    """A label by its upper left corner, in pixels of the photo."""

    x: float
    y: float
    width: float
    height: float

    def shared(self, other: Spot) -> float:
        """Area that two labels have in common."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(width, 0.0) * max(height, 0.0)


def place_labels(
    boxes: Sequence[Sequence[float]], names: Sequence[str], size_hw: tuple[int, int], unit: float
) -> list[Spot]:
    """For each box (x1 y1 x2 y2) the first of its corners, outside then inside, that shares least with earlier labels.

    Args:
        unit: pixels of the photo for a pixel of the label.
    """
    taken: list[Spot] = []
    for (x1, y1, x2, y2), name in zip(boxes, names, strict=True):
        width, height = (SIZE * room(name, LETTER) + MARGIN) * unit, ROW * unit
        rows = (y1 - height, y1, y2 - height, y2, *(y1 + step * height for step in range(1, 6)))
        spots = [
            Spot(
                min(max(x, 0.0), max(size_hw[1] - width, 0.0)),
                min(max(y, 0.0), max(size_hw[0] - height, 0.0)),
                width,
                height,
            )
            for y in rows
            for x in (x1, x2 - width)
        ]
        taken.append(min(spots, key=lambda spot: sum(map(spot.shared, taken))))
    return taken
