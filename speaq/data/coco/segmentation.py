"""The box around a COCO segmentation: polygons, or runs of a mask (RLE) as numbers or in pycocotools' text."""

from __future__ import annotations

from typing import Any

import numpy as np

Box = tuple[float, float, float, float]


def box_of(segmentation: Any) -> Box | None:
    """left, top, width, height in pixels; None where the segmentation is empty or not understood."""
    try:
        if isinstance(segmentation, dict):
            return _box_of_runs(segmentation["counts"], *segmentation["size"])
        points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation if polygon]
        corners = np.concatenate(points)
        if not np.isfinite(corners).all():
            return None
    except (TypeError, ValueError, KeyError, OverflowError):  # whatever else stands there is no segmentation
        return None
    return _box(*corners.min(0).tolist(), *corners.max(0).tolist())


def _box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return x1, y1, x2 - x1, y2 - y1


def _box_of_runs(counts: list[int] | str, height: int, width: int) -> Box | None:
    """Runs of 0 and 1 in turn, column by column. Raises ValueError where they do not fill the mask."""
    runs = np.array(_decoded(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    ends = np.cumsum(runs)
    if not len(runs) or (runs < 0).any() or ends[-1] != height * width:
        raise ValueError("the runs do not fill the mask")
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]  # runs may be empty
    if not len(first):
        return None
    crosses = first // height != last // height  # from the foot of one column to the head of the next
    top = 0 if crosses.any() else int((first % height).min())
    bottom = height if crosses.any() else int((last % height).max()) + 1
    return _box(float((first // height).min()), float(top), float((last // height).max()) + 1, float(bottom))


def _decoded(text: str) -> list[int]:
    """pycocotools' text of runs: 5 bits a letter, lowest first, signed; from the third run on, the change by two."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError("not a run-length text")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
