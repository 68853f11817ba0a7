"""Intervals of a metric over training seeds and images together, for settings that are trained several times.

Letters: S training seeds of a setting, B bootstrap resamples of the images.

The variance of a setting's mean is the sum of two parts. Images: that of the mean over seeds under the bootstrap, each
resample the same for all settings, so that differences are paired. Seeds: s²/S between the runs of a setting. The
quantile is Student's t with the degrees of freedom of Satterthwaite (1946) and Welch (1947), the images' taken as
infinite: a percentile bootstrap over 2 to 5 seeds (hierarchical bootstrap) would be far too narrow. What a seed does to
single images is in both parts, so that intervals are rather too wide than too narrow.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from speaq.config import ConfigError
from speaq.evaluation.bootstrap import CHUNK, ImageRecord, Interval, Statistic
from speaq.evaluation.recall import THIRDS, harmonic_mean
from speaq.evaluation.table import Float64Array, RecallTable, Rows
from speaq.files.atomic import replaced
from speaq.structures import IntArray

ROWS = ("predicate", "zero_shot", "rank", "unconstrained_rank", "pair_rank")


@dataclass(frozen=True)
class Measured:
    """A metric of one run, on the images and on resamples of them."""

    value: float
    resampled: Float64Array  # [B] two runs on the same images have the same resamples


def measure(record: ImageRecord, objective: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Measured:
    """The metric that `objective` names; of two, their harmonic mean.

    Raises ConfigError where a metric cannot be resampled, or no image has a relation.
    """
    images = len(record.table.index)
    if not images:
        raise ConfigError("bootstrap: no image has a relation")
    statistics = [Statistic(record, name) for name in objective]

    def values(weights: Float64Array) -> Float64Array:
        return reduce(np.vectorize(harmonic_mean, otypes=[float]), [s.values(weights) for s in statistics])

    generator = np.random.default_rng(seed)
    parts = []
    for begin in range(0, resamples, CHUNK):
        weights = generator.multinomial(images, np.full(images, 1 / images), min(CHUNK, resamples - begin))
        parts.append(values(weights.astype(np.float64)))
    return Measured(float(values(np.ones((1, images)))[0]), np.concatenate(parts))


def mean_over_seeds(runs: Sequence[Measured], level: float = 0.95) -> Interval:
    """Mean over a setting's runs with its interval; of one run the interval is over the images alone."""
    return _interval([runs], [1.0], level)


def difference_over_seeds(a: Sequence[Measured], b: Sequence[Measured], level: float = 0.95) -> Interval:
    """Mean of `a` minus that of `b`, paired by image; a setting of one run adds no noise of the seed."""
    return _interval([a, b], [1.0, -1.0], level)


def spread_over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """(mean, its interval over seeds alone) of plain numbers; None for one number, which has no spread."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = float(student.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, Interval(mean, mean - half, mean + half)


def _interval(settings: Sequence[Sequence[Measured]], signs: Sequence[float], level: float) -> Interval:
    value, over_images, seed_variances, weights = 0.0, np.zeros(1), [], 0.0
    for runs, sign in zip(settings, signs, strict=True):
        values = np.array([run.value for run in runs])
        value += sign * float(values.mean())
        over_images = over_images + sign * np.mean([run.resampled for run in runs], axis=0)
        if len(runs) > 1:
            part = float(values.var(ddof=1)) / len(runs)
            seed_variances.append(part)
            weights += part**2 / (len(runs) - 1)
    total = float(over_images.var(ddof=1)) + sum(seed_variances)
    freedom = total**2 / weights if weights > 0 else np.inf
    half = float(student.ppf((1 + level) / 2, freedom)) * float(np.sqrt(total))
    return Interval(value, value - half, value + half)


def save_record(record: ImageRecord, path: Path) -> None:
    """Writes a compressed npz in one step: a file that is there is whole."""
    table = record.table
    columns: dict[str, Any] = {name: getattr(table.rows, name) for name in ROWS}
    if record.thirds is not None:
        columns |= zip(THIRDS, record.thirds, strict=True)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            protocol=np.array(record.protocol),
            data_digest=np.array(record.data_digest),
            num_predicates=np.array(record.num_predicates),
            index=table.index,
            predicted=table.predicted,
            num_rows=table.num_rows,
            **columns,
        )


def load_record(path: Path) -> ImageRecord:
    """What `save_record` wrote. Raises ConfigError where the file cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as content:
            rows = Rows(**{name: content[name] for name in ROWS})
            table = RecallTable(content["index"], content["predicted"], content["num_rows"], rows)
            thirds: tuple[IntArray, IntArray, IntArray] | None = None
            if "head" in content:
                thirds = (content["head"], content["body"], content["tail"])
            protocol, digest = str(content["protocol"]), str(content["data_digest"])
            return ImageRecord(table, protocol, digest, int(content["num_predicates"]), thirds)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: is not a table of recalls by image; delete it, it is made again") from error
