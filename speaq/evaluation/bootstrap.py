"""Paired bootstrap over images: how far a difference of recalls may come from the images that were drawn.

Letters: I images, P predicates, B resamples. Both models get the same resamples of the same images. Noise of the
training seed is not in it: that takes more seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speaq.config import ConfigError
from speaq.evaluation.recall import THIRDS, RecallEvaluator, harmonic_mean
from speaq.evaluation.table import Float64Array, RecallTable
from speaq.files.foreign import whole_number
from speaq.structures import IntArray

CHUNK = 100  # resamples at once: 4 MB of weights for 5,000 images
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
        result = evaluator.result()
        num_predicates = len(result.predicate_images)
        return ImageRecord(evaluator.table(), result.protocol, data_digest, num_predicates, result.thirds)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether both signs are possible."""
        return self.low <= 0 <= self.high


def paired_difference(
    a: ImageRecord, b: ImageRecord, metric: str, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """`metric` (R@50, mR@20, …) of `a` minus that of `b`, with its percentile interval over the images.

    Raises ConfigError where images, ground truth, protocol or data differ, or the metric cannot be resampled.
    """
    check_pair(a, b)
    first, second = Statistic(a, metric), Statistic(b, metric)
    images = len(a.table.index)
    if not images:
        raise ConfigError("bootstrap: no image has a relation")
    value = float((first.values(np.ones((1, images))) - second.values(np.ones((1, images))))[0])
    generator = np.random.default_rng(seed)
    differences = []
    for begin in range(0, resamples, CHUNK):
        weights = generator.multinomial(images, np.full(images, 1 / images), min(CHUNK, resamples - begin))
        differences.append(first.values(weights.astype(np.float64)) - second.values(weights.astype(np.float64)))
    low, high = np.quantile(np.concatenate(differences), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


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
