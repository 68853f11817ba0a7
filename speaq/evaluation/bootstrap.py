"""Intervals: how far recalls, and differences of them, may come from the images and the training seeds drawn.

Letters: I images, P predicates, B resamples, S training seeds of a setting. Compared are the same resamples of the same
images (paired bootstrap).

The variance of the mean over a setting's seeds is the sum of two parts. Images: that of the mean under the bootstrap.
Seeds: s²/S between the runs of a setting. The quantile is Student's t with the degrees of freedom of Satterthwaite
(1946) and Welch (1947), the images' taken as infinite: a percentile bootstrap over 2 to 5 seeds (hierarchical
bootstrap) would be far too narrow. What a seed does to single images is in both parts, so that intervals are rather
too wide than too narrow.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from speaq.config import ConfigError
from speaq.evaluation.recall import THIRDS, RecallEvaluator, RecallResult, harmonic_mean
from speaq.evaluation.table import Float64Array, RecallTable, Rows
from speaq.files.atomic import replaced
from speaq.files.foreign import whole_number
from speaq.structures import IntArray

CHUNK = 100  # resamples at once: 4 MB of weights for 5,000 images
RESAMPLES, LEVEL = 2000, 0.95
METRICS = ("R", "mR", "F", *THIRDS)


@dataclass(frozen=True)
class ImageRecord:
    """What an evaluation saw, image by image, and how it is counted."""

    table: RecallTable
    protocol: str
    data_digest: str
    num_predicates: int
    thirds: tuple[IntArray, IntArray, IntArray] | None

    @staticmethod
    def of(evaluator: RecallEvaluator, data_digest: str) -> ImageRecord:
        """The images of an evaluator; `data_digest` is that of the data set."""
        return ImageRecord.made(evaluator.table(), evaluator.result(), data_digest)

    @staticmethod
    def made(table: RecallTable, result: RecallResult, data_digest: str) -> ImageRecord:
        """The images that a result was counted from; `data_digest` as for `of`."""
        return ImageRecord(table, result.protocol, data_digest, len(result.predicate_images), result.thirds)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def paired_difference(
    a: ImageRecord, b: ImageRecord, metric: str, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """`metric` (R@50, mR@20, …) of `a` minus that of `b`, with its percentile interval over the images.

    Raises ConfigError where images, ground truth, protocol or data differ, or the metric cannot be resampled.
    """
    check_pair(a, b)
    first, second = Statistic(a, metric), Statistic(b, metric)
    weights = _weights(len(a.table.index), resamples, seed)
    values = np.concatenate([first.values(some) - second.values(some) for some in weights])
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high))


def _weights(images: int, resamples: int, seed: int) -> Iterator[Float64Array]:
    """[·, I] how often each image counts: once each, then in every resample, `CHUNK` of them at a time."""
    if not images:
        raise ConfigError("bootstrap: no image has a relation")
    yield np.ones((1, images))
    generator = np.random.default_rng(seed)
    for begin in range(0, resamples, CHUNK):
        weights = generator.multinomial(images, np.full(images, 1 / images), min(CHUNK, resamples - begin))
        yield weights.astype(np.float64)


def check_pair(a: ImageRecord, b: ImageRecord) -> None:
    """Raises ConfigError where images, ground truth, protocol or data of two evaluations differ."""
    for name, ours, theirs in (("protocol", a.protocol, b.protocol), ("data", a.data_digest, b.data_digest)):
        if ours != theirs:
            raise ConfigError(f"bootstrap: {name} differs: {ours!r} and {theirs!r}")
    same_images = np.array_equal(a.table.index, b.table.index) and np.array_equal(a.table.num_rows, b.table.num_rows)
    if not same_images or not np.array_equal(a.table.rows.predicate, b.table.rows.predicate):
        raise ConfigError(
            f"bootstrap: the evaluations saw other images ({len(a.table.index)} and {len(b.table.index)})"
        )


class Statistic:
    """A metric as a function of how often each image counts."""

    def __init__(self, record: ImageRecord, metric: str) -> None:
        name, _, k = metric.partition("@")
        if name not in METRICS or not whole_number(k) or (name in THIRDS and record.thirds is None):
            raise ConfigError(f"bootstrap: {metric} cannot be resampled; use one of {', '.join(METRICS)} with @K")
        table = record.table
        cells = table.cells(int(k))
        shape = (len(table.index), record.num_predicates)
        self._name, self._thirds = name, record.thirds
        strict = record.protocol.split()[1] == "strict"  # the other protocols skip images without predictions
        self._counted = np.ones(shape[0]) if strict else table.predicted.astype(np.float64)  # [I]
        self._recall = table.recall_per_image(table.rows.rank, int(k))  # [I]
        self._present, self._shares = np.zeros(shape), np.zeros(shape)
        self._present[cells.image, cells.predicate] = 1.0
        self._shares[cells.image, cells.predicate] = cells.hits / cells.rows

    def values(self, weights: Float64Array) -> Float64Array:
        """[B, I] weights → [B]."""
        weights = weights * self._counted
        if self._name == "R":
            return self._mean_over_images(weights)
        images = weights @ self._present  # [B, P]
        per_predicate = (weights @ self._shares) / np.maximum(images, 1.0)
        if self._name in THIRDS and self._thirds is not None:
            mean: Float64Array = per_predicate[:, self._thirds[THIRDS.index(self._name)]].mean(axis=1)
            return mean
        mean = per_predicate.mean(axis=1)
        if self._name == "mR":
            return mean
        pairs = zip(self._mean_over_images(weights).tolist(), mean.tolist(), strict=True)
        return np.array([harmonic_mean(recall, mean_recall) for recall, mean_recall in pairs])

    def _mean_over_images(self, weights: Float64Array) -> Float64Array:
        mean: Float64Array = (weights @ self._recall) / np.maximum(weights.sum(axis=1), 1.0)
        return mean


ROWS = ("predicate", "zero_shot", "rank", "unconstrained_rank", "pair_rank")


@dataclass(frozen=True)
class Measured:
    """A metric of one run, on the images and on resamples of them."""

    value: float
    resampled: Float64Array  # [B] two runs on the same images have the same resamples


def measure(record: ImageRecord, objective: Sequence[str]) -> Measured:
    """The metric that `objective` names; of two, their harmonic mean.

    Raises ConfigError where a metric cannot be resampled, or no image has a relation.
    """
    statistics = [Statistic(record, name) for name in objective]
    mean = np.vectorize(harmonic_mean, otypes=[float])
    weights = _weights(len(record.table.index), RESAMPLES, 0)
    values = np.concatenate([reduce(mean, [one.values(some) for one in statistics]) for some in weights])
    return Measured(float(values[0]), values[1:])


def mean_over_seeds(runs: Sequence[Measured]) -> Interval:
    """Mean over a setting's runs with its interval; of one run the interval is over the images alone."""
    return _interval([runs], [1.0])


def difference_over_seeds(a: Sequence[Measured], b: Sequence[Measured]) -> Interval:
    """Mean of `a` minus that of `b`, paired by image; a setting of one run adds no noise of the seed."""
    return _interval([a, b], [1.0, -1.0])


def spread_over_seeds(values: Sequence[float]) -> tuple[float, Interval | None]:
    """(mean, its interval over seeds alone) of plain numbers; None for one number, which has no spread."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = float(_quantile(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, Interval(mean, mean - half, mean + half)


def _interval(settings: Sequence[Sequence[Measured]], signs: Sequence[float]) -> Interval:
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
    half = float(_quantile(freedom)) * float(np.sqrt(total))
    return Interval(value, value - half, value + half)


def _quantile(freedom: float) -> Any:
    from scipy.stats import t as student  # slow to import

    return student.ppf((1 + LEVEL) / 2, freedom)


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
