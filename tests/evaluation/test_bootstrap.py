"""The paired bootstrap: equal to the evaluator without resampling, covers a known difference, refuses other pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from speaq.config import ConfigError
from speaq.evaluation.bootstrap import METRICS, ImageRecord, paired_difference
from speaq.evaluation.protocol import Protocol
from tests.helpers.evaluators import evaluators


@pytest.mark.parametrize("protocol", ["published", "strict"])
@pytest.mark.parametrize("name", METRICS)
def test_without_resampling_the_difference_is_the_evaluators(protocol: Protocol, name: str) -> None:
    first, second = evaluators(0, 80, (0.7, 0.4), protocol)
    a, b = ImageRecord.of(first, "d"), ImageRecord.of(second, "d")
    for k in first.result().recall_at:
        metric = f"{name}@{k}"
        expected = first.result().metrics[metric] - second.result().metrics[metric]
        interval = paired_difference(a, b, metric, resamples=200)
        assert interval.value == pytest.approx(expected, abs=1e-12)
        assert interval.low < interval.value < interval.high


def test_intervals_cover_a_known_difference() -> None:
    covered = zero = 0
    for seed in range(60):
        a, b = (ImageRecord.of(e, "d") for e in evaluators(seed, 150, (0.6, 0.45), "strict"))
        interval = paired_difference(a, b, "R@100", resamples=400, level=0.9, seed=seed)
        covered += interval.low <= 0.15 <= interval.high
        zero += interval.low <= 0 <= interval.high
    assert 46 <= covered <= 60  # 54 expected
    assert zero < 10


def test_other_data_protocols_and_images_are_refused() -> None:
    a, b = (ImageRecord.of(e, "d") for e in evaluators(0, 20, (0.6, 0.5), "published"))
    fewer = replace(b, table=b.table.select(np.arange(20) < 19))
    others = (
        (replace(b, data_digest="e"), "data"),
        (replace(b, protocol="sgdet strict"), "protocol"),
        (fewer, "images"),
    )
    for other, word in others:
        with pytest.raises(ConfigError, match=word):
            paired_difference(a, other, "R@50")
    with pytest.raises(ConfigError, match="zR@50 cannot be resampled"):
        paired_difference(a, b, "zR@50")
