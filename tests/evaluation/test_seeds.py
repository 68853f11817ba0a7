"""Intervals over seeds and images: known answers, coverage, pairing; the race that is built on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from launch.jobs.race import Setting, leader, race
from speaq.config import ConfigError
from speaq.evaluation.bootstrap import (
    ImageRecord,
    Measured,
    difference_over_seeds,
    load_record,
    mean_over_seeds,
    measure,
    paired_difference,
    save_record,
    spread_over_seeds,
)
from tests.helpers.evaluators import evaluators

IMAGES, B = 200, 300


class World:
    """Settings whose recall of an image is the image's difficulty, the setting's height, the seed and noise."""

    def __init__(self, seed: int, seed_noise: float = 0.02) -> None:
        self.generator = np.random.default_rng(seed)
        self.difficulty = self.generator.normal(0.0, 0.3, IMAGES)
        self.weights = self.generator.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), B) / IMAGES
        self.seed_noise = seed_noise

    def run(self, height: float) -> Measured:
        noise = self.generator.normal(0.0, 0.05, IMAGES) + self.generator.normal(0.0, self.seed_noise)
        images = height + self.difficulty + noise
        return Measured(float(images.mean()), self.weights @ images)

    def runs(self, height: float, seeds: int) -> list[Measured]:
        return [self.run(height) for _ in range(seeds)]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_what_was_planted(seeds: int) -> None:
    means = differences = 0
    for number in range(300):
        world = World(number)
        a, b = world.runs(0.55, seeds), world.runs(0.5, seeds)
        mean, difference = mean_over_seeds(a), difference_over_seeds(a, b)
        means += mean.low <= 0.55 <= mean.high
        differences += difference.low <= 0.05 <= difference.high
    assert means >= 273  # 285 expected of 95 %; four standard errors below
    assert differences >= 273


def test_images_are_paired_and_more_seeds_tell_more() -> None:
    world = World(0)
    a, b = world.runs(0.55, 5), world.runs(0.5, 5)
    paired = difference_over_seeds(a, b)
    shuffled = [Measured(r.value, world.generator.permutation(r.resampled)) for r in a]
    apart = difference_over_seeds(shuffled, b)
    assert paired.value == pytest.approx(np.mean([r.value for r in a]) - np.mean([r.value for r in b]))
    assert paired.high - paired.low < 0.8 * (apart.high - apart.low)
    few = difference_over_seeds(a[:2], b[:2])
    assert paired.high - paired.low < few.high - few.low


def test_one_seed_knows_the_images_alone() -> None:
    first, second = (ImageRecord.of(e, "d") for e in evaluators(0, 150, (0.7, 0.5), "strict"))
    ours = difference_over_seeds([measure(first, ["R@50"])], [measure(second, ["R@50"])])
    known = paired_difference(first, second, "R@50")
    assert ours.value == pytest.approx(known.value, abs=1e-12)
    assert ours.low == pytest.approx(known.low, abs=0.005)
    assert ours.high == pytest.approx(known.high, abs=0.005)
    assert spread_over_seeds([0.4])[1] is None
    mean, interval = spread_over_seeds([0.4, 0.6])
    assert mean == pytest.approx(0.5)
    assert interval is not None
    assert interval.high - mean == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree of freedom


def test_two_objectives_are_their_harmonic_mean() -> None:
    evaluator = evaluators(0, 60, (0.7, 0.5), "strict")[0]
    both = measure(ImageRecord.of(evaluator, "d"), ["R@50", "mR@50"])
    assert both.value == pytest.approx(evaluator.result().metrics["F@50"])


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = ImageRecord.of(evaluators(0, 60, (0.7, 0.5), "published")[0], "d")
    save_record(record, tmp_path / "images.npz")
    again = load_record(tmp_path / "images.npz")
    for name in ("R@20", "mR@50", "head@50"):
        assert measure(again, [name]).value == measure(record, [name]).value
    assert paired_difference(record, again, "mR@50").high == 0
    (tmp_path / "images.npz").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="is not a table of recalls by image"):
        load_record(tmp_path / "images.npz")


def run_race(heights: dict[str, float], seeds: int) -> list[Setting]:
    world = World(1, seed_noise=0.005)
    settings = [Setting(name, None, height) for name, height in heights.items()]

    def train(racing: Sequence[Setting], seed: int) -> None:
        for setting in racing:
            setting.runs[seed] = world.run(heights[setting.trial])

    race(settings, list(range(seeds)), train)
    return settings


def test_a_setting_far_behind_gets_no_further_seed_and_equal_ones_get_all() -> None:
    first, second, behind = run_race({"a": 0.5, "b": 0.5, "c": 0.2}, 6)
    assert behind.left_after is not None
    assert len(behind.runs) == behind.left_after + 1 < 6
    assert behind.left_after >= 1  # one seed says nothing of the others
    assert len(first.runs) == len(second.runs) == 6
    assert leader([first, second, behind]) in (first, second)


def test_the_race_ends_when_one_is_left_but_one_alone_gets_all_seeds() -> None:
    first, behind = run_race({"a": 0.5, "c": 0.1}, 8)
    assert len(first.runs) == len(behind.runs) < 8
    assert len(run_race({"a": 0.5}, 3)[0].runs) == 3
