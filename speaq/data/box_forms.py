"""In which form boxes are given: what it looks like, judged by which reading lies in the photos.

Letters: N boxes. A form is a layout (the order and meaning of the four numbers) in pixels or in fractions of the photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Layout = Literal["xywh", "xyxy", "cxcywh", "yxhw", "yxyx"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
MEANING: Mapping[Layout, str] = {
    "xywh": "left, top, width, height",
    "xyxy": "corners x1, y1, x2, y2",
    "cxcywh": "centre x, centre y, width, height",
    "yxhw": "top, left, height, width",
    "yxyx": "corners y1, x1, y2, x2",
}
SLIGHT_PIXELS, SLIGHT_SHARE = 2.0, 0.05  # a box reaches slightly outside up to the larger of both, per side
NOTICED = 0.01  # pixels outside that are more than rounding
FITS = 0.98  # share of boxes that another form must fit
MISFITS, FEWEST = 0.05, 8  # share of boxes that the form given does not fit, among so many boxes, for a verdict


@dataclass(frozen=True)
class Form:
    """How to read four numbers."""

    layout: Layout = "xywh"
    fractions: bool = False

    def __str__(self) -> str:
        return MEANING[self.layout] + (", as fractions of the photo's sides" if self.fractions else "")

    def corners(self, values: Array, sizes_wh: Array) -> Array:
        """[N, 4] numbers, [N, 2] width and height of each box's photo → [N, 4] x1 y1 x2 y2 in pixels."""
        first, second = values[:, :2], values[:, 2:]
        if self.layout in ("xyxy", "yxyx"):
            result = np.concatenate((first, second), axis=1)
        elif self.layout == "cxcywh":
            result = np.concatenate((first - second / 2, first + second / 2), axis=1)
        else:
            result = np.concatenate((first, first + second), axis=1)
        if self.layout.startswith("y"):
            result = result[:, [1, 0, 3, 2]]
        return result * np.tile(sizes_wh, 2) if self.fractions else result


@dataclass(frozen=True)
class Fit:
    """How boxes lie in their photos, [N] each."""

    flat: NDArray[np.bool_]  # no width or no height
    absent: NDArray[np.bool_]  # nothing of it is in the photo
    far: NDArray[np.bool_]  # reaches outside by more than rounding and 1-based counting explain, or is absent
    outside: NDArray[np.bool_]  # reaches outside

    @staticmethod
    def of(corners_xyxy: Array, sizes_wh: Array) -> Fit:
        """Judges boxes [n, 4] as x1 y1 x2 y2 in pixels of photos of [n, 2] width and height."""
        low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
        flat = np.asarray((high <= low).any(axis=1))
        absent = np.asarray(~flat & ((high <= 0) | (low >= sizes_wh)).any(axis=1))
        beyond = np.maximum(-low, high - sizes_wh)
        far = ~flat & (absent | (beyond > np.maximum(SLIGHT_PIXELS, SLIGHT_SHARE * sizes_wh)).any(axis=1))
        return Fit(flat, absent, far, ~flat & (beyond > NOTICED).any(axis=1))

    @property
    def share(self) -> float:
        """Of the boxes that are sound."""
        return 1 - float((self.flat | self.far).mean()) if len(self.flat) else 1.0


def look_like_fractions(values: Array) -> bool:
    """[N, 4] → whether most boxes lie within 0 and 1 as no boxes in pixels do."""
    within = ((values >= 0) & (values <= 1 + 1e-6)).all(axis=1)
    few = int(within.sum()) < 3  # a single box of whole numbers proves nothing
    return bool(len(values)) and within.mean() >= 0.5 and not (few and (values[within] % 1 == 0).all())


def likely_form(values: Array, sizes_wh: Array, given: Form) -> tuple[Form, float] | None:
    """The form that boxes are in, with the share that fits it, where it is likely another than `given`.

    None where the given form fits, no other fits, or there are too few boxes to tell.
    """
    if not given.fractions and look_like_fractions(values):
        return _best(values, sizes_wh, [Form(layout, True) for layout in LAYOUTS])
    misfits = 1 - Fit.of(given.corners(values, sizes_wh), sizes_wh).share
    if len(values) < FEWEST or misfits < MISFITS:
        return None
    form, share = _best(values, sizes_wh, [Form(layout, given.fractions) for layout in LAYOUTS])
    return (form, share) if share >= FITS and form != given else None


def _best(values: Array, sizes_wh: Array, forms: list[Form]) -> tuple[Form, float]:
    """The first of the forms that fits most boxes, and their share."""
    fits = [(form, Fit.of(form.corners(values, sizes_wh), sizes_wh).share) for form in forms]
    return max(fits, key=lambda fit: fit[1])


ENOUGH = 20  # boxes of a data set that a verdict on all of them needs


def stored_form(boxes: Array, sizes_wh: Array, scale: int) -> tuple[str, NDArray[np.int64]] | None:
    """What the boxes of an h5 look like where they are no centres on its scale, and which ones show it.

    Args:
        boxes: [N, 4] as stored; centre x, centre y, width, height with the photo's longest side as `scale`.
        sizes_wh: [N, 2] pixels of the photo of each box.

    Returns:
        Words, and rows of the boxes that do not fit; None where all is well, or nothing can be told.
    """
    values, given = boxes.astype(np.float64), Form("cxcywh")
    if len(values) < ENOUGH:
        return None
    if look_like_fractions(values):
        return "fractions of the photo's sides", np.arange(len(values))
    longest = sizes_wh.max(axis=1, keepdims=True)
    on_scale = sizes_wh * scale / longest
    fit = Fit.of(given.corners(values, on_scale), on_scale)
    wrong = np.flatnonzero(fit.flat | fit.far)
    if len(wrong) >= MISFITS * len(values):
        # As they were before somebody took them for left, top, width, height and formed centres; or as they are.
        taken = np.concatenate((values[:, :2] - values[:, 2:] / 2, values[:, 2:]), axis=1)
        for numbers, how in ((values, ""), (taken, ", converted as if they were left, top, width, height")):
            form, share = _best(numbers, on_scale, [Form(layout) for layout in LAYOUTS])
            if share >= FITS and (form, how) != (given, ""):
                return f"{form}{how} ({share:.0%} fit so)", wrong
    elif _are_pixels(values[:, :2] / on_scale, values, sizes_wh, longest / scale):
        return "pixels of the photo (all lie within its pixels, in the upper left of the scale)", np.arange(len(values))
    return None


def _are_pixels(centres: Array, values: Array, sizes_wh: Array, ratio: Array) -> bool:
    """Whether boxes of photos smaller than the scale were never enlarged to it: they crowd into the upper left corner.

    Args:
        centres: [N, 2] fractions of the photo, if the boxes are on the scale.
        ratio: [N, 1] a pixel on the scale.
    """
    if ratio.mean() > 0.85 or Fit.of(Form("cxcywh").corners(values, sizes_wh), sizes_wh).share < FITS:
        return False
    middle, expected = centres.mean(axis=0), 0.5 * ratio.mean()
    return bool((np.abs(middle - expected) < np.abs(middle - 0.5)).all())
