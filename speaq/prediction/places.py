"""Where a label goes so that it hides no other: rectangles (left, bottom, right, top) in any unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

Box = tuple[float, float, float, float]
Point = tuple[float, float]


def free_place(places: Iterable[Box], taken: Sequence[Box]) -> Box:
    """The first place that hides nothing that is taken, or the one that hides least of it. Raises ValueError of none.

    Args:
        places: where it may go, the best first.
        taken: what is not to be hidden.
    """
    best: tuple[float, Box] | None = None
    for place in places:
        hidden = sum(shared(place, other) for other in taken)
        if best is None or hidden < best[0]:
            best = (hidden, place)
        if not hidden:
            break
    if best is None:
        raise ValueError("places: at least one is needed")
    return best[1]


def shared(one: Box, other: Box) -> float:
    """Area that two rectangles have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def inside(place: Box, bounds: Box) -> Box:
    """The place moved into the bounds; what is too large begins at their left and bottom."""
    width, height = place[2] - place[0], place[3] - place[1]
    left = max(min(place[0], bounds[2] - width), bounds[0])
    bottom = max(min(place[1], bounds[3] - height), bounds[1])
    return left, bottom, left + width, bottom + height


def everywhere(size: Point, bounds: Box, near: Point) -> Iterator[Box]:
    """Places on a grid over the bounds, half a label apart, those whose corner is near a point first."""
    width, height = size
    columns = _steps(bounds[0], bounds[2] - width, width / 2)
    rows = _steps(bounds[1], bounds[3] - height, height / 2)
    corners = sorted(
        ((x, y) for x in columns for y in rows),
        key=lambda corner: ((corner[0] - near[0]) ** 2 + (corner[1] - near[1]) ** 2, corner),
    )
    for x, y in corners:
        yield x, y, x + width, y + height


def _steps(first: float, last: float, step: float) -> list[float]:
    return [first + number * step for number in range(int(max(last - first, 0) / step) + 1)]
