"""Pixel values of any type → 0 to 255. One rule for training, evaluation and prediction.

The range of a picture is the narrowest of 0 to 1 (of floats alone), 0 to 255, 0 to 4095 and 0 to 65535 that holds all
of its values, since no format says it: a TIFF of 16 bits may hold what a camera of 8 or 12 bits saw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError

RANGES = (255, 4095, 65535)  # of 8, 12 and 16 bits
DARKEST = 1 / 16  # floats whose largest value is below this share of their range: of which range is unclear
_ROWS = 256  # converted at once


def to_8_bits(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scales pixels by the rule above and rounds; uint8 stays as it is.

    Args:
        values: [h, ...] numbers or booleans.
        name: of the picture, for the error.

    Raises:
        DataError: NaN or infinity, negative numbers, more than 65535, floats that are little more than 1, or no
            numbers at all.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "buif":
        raise DataError(f"{name}: pixels are numbers, not {values.dtype}")
    if not values.size:
        raise DataError(f"{name}: has no pixels")
    top = _range(float(values.min()), float(values.max()), values.dtype, name)
    result = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):  # in parts, as floats take four times the memory
        part = values[row : row + _ROWS].astype(np.float64) * (255 / top)
        result[row : row + _ROWS] = np.rint(part)
    return result


def _range(low: float, high: float, kind: np.dtype[Any], name: str) -> float:
    """The value that becomes 255."""
    where = f"{name}: {kind} pixels from {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name}: some pixels are NaN or infinite; replace them, then save it as 8 bits")
    if kind.kind == "b":
        return 1
    ranges = (1, *RANGES) if kind.kind == "f" else RANGES
    half = 0.5 / 255 if kind.kind == "f" else 0  # of a grey level: it is rounded away
    top = next((top for top in ranges if high <= top * (1 + half)), 0)
    if low < -half * top or not top:
        raise DataError(f"{where}, which lie in none of 0 to 1, 0 to 255, 0 to 4095, 0 to 65535; save it as 8 bits")
    if kind.kind == "f" and top > 1 and high < DARKEST * top:
        raise DataError(f"{where}: neither a range of 0 to 1 nor one of 0 to {top}; scale it, or save it as 8 bits")
    return top
