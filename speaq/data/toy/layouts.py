"""Where the things of a toy event lie: an area → integer boxes of subject, object and sometimes a third thing."""

from __future__ import annotations

import random
from collections.abc import Sequence

from speaq.data.toy.drawing import Box

CLOSE = (4, 8)  # smallest and largest gap of things that are near, above or under each other, pixels
FAR = (13, 24)  # gap of things that are only tied by what is drawn between them, pixels
APART = 13  # distance of two areas, pixels: wider than CLOSE, so that no relation crosses
SIZES = (16, 44)  # smallest and largest side of a thing, pixels


def area_of(box: Box) -> int:
    """Width times height, pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def random_side(rng: random.Random, limit: int) -> int:
    """A side in pixels, at most `limit`, and not much smaller."""
    return rng.randint(max(SIZES[0], min(limit, SIZES[1]) // 2), min(limit, SIZES[1]))


def _transposed(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


def _row(rng: random.Random, area: Box, gaps: Sequence[int], *, widening: bool = False) -> list[Box]:
    """Boxes from left to right with the given gaps, each overlapping the tallest one vertically by at least 70 %."""
    x0, y0, x1, y1 = area
    count = len(gaps) + 1
    widths = [random_side(rng, (x1 - x0 - sum(gaps)) // count) for _ in range(count)]
    heights = [random_side(rng, min(y1 - y0, 2 * width)) for width in widths]
    heights = sorted(heights) if widening else heights
    tallest = max(heights)
    top = rng.randint(y0, y1 - tallest)
    x = rng.randint(x0, x1 - sum(widths) - sum(gaps))
    boxes = []
    for width, height, gap in zip(widths, heights, (*gaps, 0), strict=True):
        slack = 0 if widening else int(0.3 * height)
        y = rng.randint(max(y0, top - slack), min(y1 - height, top + tallest - height + slack))
        boxes.append((x, y, x + width, y + height))
        x += width + gap
    return boxes


def _column(rng: random.Random, area: Box, gap: int, *, widening: bool = False) -> list[Box]:
    """Boxes of two things, the first above the other."""
    return [_transposed(box) for box in _row(rng, _transposed(area), [gap], widening=widening)]


def _shuffled(rng: random.Random, boxes: list[Box]) -> list[Box]:
    rng.shuffle(boxes)
    return boxes


def beside(rng: random.Random, area: Box) -> list[Box]:
    """Two or three things side by side, near each other."""
    three = area[2] - area[0] >= 80 and rng.random() < 0.25
    return _shuffled(rng, _row(rng, area, [rng.randint(*CLOSE) for _ in range(2 if three else 1)]))


def in_contact(rng: random.Random, area: Box) -> list[Box]:
    """Two things side by side, without a gap."""
    return _shuffled(rng, _row(rng, area, [0]))


def stacked(rng: random.Random, area: Box) -> list[Box]:
    """Two things, the first a little above the other."""
    return _column(rng, area, rng.randint(*CLOSE))


def resting(rng: random.Random, area: Box) -> list[Box]:
    """Two things, the first upon the other, which is wider."""
    return _column(rng, area, 0, widening=True)


def hanging(rng: random.Random, area: Box) -> list[Box]:
    """Two things, the first below the other, with a gap."""
    return _column(rng, area, CLOSE[1])[::-1]


def linked(rng: random.Random, area: Box) -> list[Box]:
    """Two things with a wide gap along the longer side of the area, or now and then near each other."""
    width, height = area[2] - area[0], area[3] - area[1]
    if rng.random() < 0.2:
        return _shuffled(rng, _row(rng, area, [CLOSE[1]]))
    gap = rng.randint(FAR[0], min(FAR[1], max(width, height) - 2 * SIZES[0] - 8))
    return _shuffled(rng, _row(rng, area, [gap]) if width >= height else _column(rng, area, gap))


def big_and_small(rng: random.Random, area: Box) -> list[Box]:
    """Two things as `linked` puts them, the larger one first."""
    return sorted(linked(rng, area), key=area_of, reverse=True)


def contained(rng: random.Random, area: Box) -> list[Box]:
    """Two things, the first inside the other."""
    width, height = (rng.randint(34, min(48, area[i + 2] - area[i])) for i in (0, 1))
    x, y = rng.randint(area[0], area[2] - width), rng.randint(area[1], area[3] - height)
    w, h = (rng.randint(SIZES[0], max(SIZES[0], int(0.55 * side))) for side in (width, height))
    left, top = x + (width - w) // 2 + rng.randint(-1, 1), y + (height - h) // 2 + rng.randint(-1, 1)
    return [(left, top, left + w, top + h), (x, y, x + width, y + height)]


def overlapping(rng: random.Random, area: Box) -> list[Box]:
    """The second box hides a corner of the first one, about a quarter of it."""
    sizes = [[rng.randint(22, min(34, int(0.58 * (area[axis + 2] - area[axis])))) for _ in "ab"] for axis in (0, 1)]
    spans = []
    for axis, (a, b) in enumerate(sizes):
        shared = int(rng.uniform(0.42, 0.58) * min(a, b))
        start = rng.randint(area[axis], area[axis + 2] - (a + b - shared))
        first = (start, start + a, start + a - shared, start + a - shared + b)
        second = (start + b - shared, start + b - shared + a, start, start + b)
        spans.append(rng.choice((first, second)))
    (ax0, ax1, bx0, bx1), (ay0, ay1, by0, by1) = spans
    return [(ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1)]


def split_areas(rng: random.Random, size_hw: tuple[int, int], parts: int) -> list[Box]:
    """One or two areas; two halve the longer side and lie `APART` pixels from each other."""
    height, width = size_hw
    if parts == 1:
        return [(1, 1, width - 1, height - 1)]
    columns = width > height or (width == height and rng.random() < 0.5)
    length, across = (width, height) if columns else (height, width)
    middle = length // 2
    halves = [(1, 1, middle - APART // 2, across - 1), (middle + (APART + 1) // 2, 1, length - 1, across - 1)]
    return halves if columns else [_transposed(box) for box in halves]
