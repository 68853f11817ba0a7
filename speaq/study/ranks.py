"""How far two ways to measure trials agree on which are better: Kendall's tau, with an interval over the trials."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000  # of the trials, for the intervals
SEED = 0

FloatArray = NDArray[np.float64]


class Tau(NamedTuple):
    """Kendall's tau-b and the ends of its interval; nan where all trials are equal."""

    value: float
    low: float
    high: float


def tau(values: FloatArray, final: FloatArray) -> Tau:
    """Kendall's tau-b of two values a trial [T] and its 95 % percentile interval, trials drawn with replacement."""
    trials = len(final)
    draws = np.random.default_rng(SEED).multinomial(trials, np.full(trials, 1 / trials), size=RESAMPLES)
    taus = kendall(values, final, draws)
    taus = taus[~np.isnan(taus)]
    low, high = np.quantile(taus, [0.025, 0.975]) if len(taus) else (np.nan, np.nan)
    (found,) = kendall(values, final, np.ones((1, trials)))
    return Tau(float(found), float(low), float(high))


def kendall(x: FloatArray, y: FloatArray, counts: NDArray[Any]) -> FloatArray:
    """Kendall's tau-b of x [T] and y [T] in samples that hold each trial `counts` [R, T] times: [R].

    NaN for a sample in which either is constant.
    """
    signs = [np.sign(values[:, None] - values[None, :]) for values in (x, y)]
    both, of_x, of_y = (
        np.einsum("rt,ts,rs->r", counts, pairs, counts, optimize=True)
        for pairs in (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    )
    with np.errstate(invalid="ignore"):
        found: FloatArray = both / np.sqrt(of_x * of_y)
    return found
