"""What whole searches cost, and what the settings that they hand over are worth.

Each seed searches four times: the default search; the economical one, from stored features; random search and Ray
Tune's ASHA with OptunaSearch as they come, which train in full and are cut off where they have cost as much as the
economical one. The setting that each hands over trains in full with a seed of its own, beside the published one, as
`speaq confirm` would train it, and is judged on the test pictures, which no search has seen.

Costs are in trainings of the published setting, by CPU seconds of everything: features, trials, evaluations, Ray. What
they would be on Visual Genome is modelled: by steps, where one from features counts as its share of the operations.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from launch.jobs import tune as studies
from speaq import config as configs
from speaq import space as spaces
from speaq.config import PUBLISHED, Config
from speaq.evaluation.bootstrap import Measured, difference_over_seeds, mean_over_seeds, measure
from speaq.space import Space
from speaq.study import creation
from speaq.study.creation import feasibility_on
from speaq.training.loop import train
from tests.bench.economy import rivals
from tests.bench.economy.processor import CpuSeconds
from tests.bench.economy.steps import Row, spread
from tests.bench.search import METRIC, reached
from tests.bench.world import NARROW, VIEWS, World, make_features
from tests.bench.worlds import record
from tests.helpers.shared import ROOT

METRICS = (METRIC, "R@50", "mR@50", "tail@50")
SPACES = ROOT / "search_spaces"
DEFAULT, ECONOMY, RANDOM, STOCK = "default", "economy", "random", "Ray Tune: ASHA + OptunaSearch"
RANDOMLY = {"references": ["published"], "sampler": "random", "scheduler": "none"}
TRIALS: Mapping[str, int] = {DEFAULT: 32, ECONOMY: 8, RANDOM: 6, STOCK: 12}
REFERENCE = "published"
JUDGING = 100  # plus the seed of a search: that of the training which judges it
STEP_ON_VG = 153 / 720  # a step from features, by operations, where a full one is 1 (600 x 1000, docs/features.md)
MADE_ON_VG = VIEWS * 57_723 / 3 / (150_000 * 20)  # features of its training pictures: forward passes, in trainings


@dataclass(frozen=True)
class Bench:
    """Where everything is, and how large."""

    folder: Path
    world: World = NARROW
    trials: Mapping[str, int] = field(default_factory=lambda: TRIALS)  # of each search that takes part

    @property
    def arms(self) -> list[str]:
        """The searches that take part."""
        return list(self.trials)

    @property
    def data(self) -> Path:
        """The pictures."""
        return self.folder / "data"

    @property
    def base(self) -> Config:
        """The config that searches change."""
        return self.world.base(self.folder / "detector")

    @property
    def features(self) -> Path:
        """What backbone and encoder make of the pictures."""
        return self.folder / "features"

    def search(self, arm: str, seed: int) -> Path:
        """The folder of a search."""
        return self.folder / f"{arm.partition(':')[0].replace(' ', '-').lower()}-{seed}"

    def judged(self, arm: str, seed: int) -> Path:
        """The run that judges what a search handed over."""
        return self.folder / "judged" / self.search(arm, seed).name


@dataclass(frozen=True)
class Handed:
    """What a search hands over, and what it had cost by then."""

    values: Mapping[str, Any]
    steps: int  # of training
    cost: float  # CPU seconds


def run(bench: Bench, seeds: Sequence[int]) -> Iterator[str]:
    """Trains everything that is not there yet, seed after seed; says what has been done."""
    bench.world.make(bench.data, bench.folder / "detector")
    detector = bench.folder / "detector"
    _counted(bench.features, partial(make_features, bench.features, bench.base, detector, bench.data))
    for seed in seeds:
        for arm in bench.arms:
            _counted(bench.search(arm, seed), partial(_search, bench, arm, seed))
            yield f"seed {seed}: {arm} searched"
        for arm in (REFERENCE, *bench.arms):
            _judge(bench, arm, seed)
            yield f"seed {seed}: {arm} judged"


def _counted(folder: Path, work: Callable[[], object]) -> None:
    """Does work whose CPU seconds are kept beside its folder; one that was cut off begins again."""
    path = _cpu(folder)
    if path.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with CpuSeconds() as cpu:
        work()
    path.write_text(json.dumps(cpu.seconds))


def _cpu(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cpu.json")


def _seconds(folder: Path) -> float:
    return float(json.loads(_cpu(folder).read_text()))


def _space(bench: Bench, arm: str, seed: int) -> Space:
    space = spaces.load(SPACES / ("economy.yaml" if arm == ECONOMY else "speaq.yaml")).resolved(bench.base)
    asked = {"objective": [METRIC], "trials": bench.trials[arm], "seed": seed}
    return space.with_search({**asked, **(RANDOMLY if arm == RANDOM else {})})


def _search(bench: Bench, arm: str, seed: int) -> None:
    config, space = configs.apply(bench.base, {"seed": seed}), _space(bench, arm, seed)
    if arm == STOCK:
        space = feasibility_on(bench.data).narrowed(space)
        trials = bench.trials[arm]
        rivals.search(bench.search(arm, seed), config, space, bench.data, metric=METRIC, trials=trials, seed=seed)
        return
    if arm == ECONOMY:
        config = configs.apply(config, {"training.features": str(bench.features)})
    studies.start(creation.create(config, space, bench.data), bench.search(arm, seed))


def handed_over(bench: Bench, arm: str, seed: int) -> Handed:
    """The setting of a search's best trial; of random search and the rival at the cost of the economical search."""
    folder = bench.search(arm, seed)
    own = _seconds(folder)
    whole = reached(folder, math.inf)
    if arm in (DEFAULT, ECONOMY):
        return Handed(whole.setting, whole.steps, own + (_seconds(bench.features) if arm == ECONOMY else 0.0))
    a_step = own / whole.steps
    cut = reached(folder, handed_over(bench, ECONOMY, seed).cost / a_step)
    return Handed(cut.setting, cut.steps, cut.steps * a_step)


def _judge(bench: Bench, arm: str, seed: int) -> None:
    config = configs.apply(bench.base, {"seed": JUDGING + seed})
    if arm == REFERENCE:
        config = configs.apply(config, PUBLISHED)
    else:
        config = _space(bench, arm, seed).apply(config, handed_over(bench, arm, seed).values)
    run = bench.judged(arm, seed)
    _counted(run, partial(train, config, bench.data, run))
    record(run)


def rows(bench: Bench, seeds: Sequence[int]) -> Iterator[Row]:
    """For each search: its cost, and what the settings that it handed over are worth on the test pictures."""
    training = sum(_seconds(bench.judged(REFERENCE, seed)) for seed in seeds) / len(seeds)
    found = {arm: [handed_over(bench, arm, seed) for seed in seeds] for arm in bench.arms}
    for arm, handed in found.items():
        yield spread("cost in trainings", arm, [one.cost / training for one in handed])
        yield spread("cost on Visual Genome, modelled", arm, [_modelled(bench, arm, one) for one in handed])
    for metric in METRICS:
        judged = {arm: _measured(bench, arm, metric, seeds) for arm in (REFERENCE, *bench.arms)}
        for arm, runs in judged.items():
            yield {"kind": arm, "what": metric, **vars(mean_over_seeds(runs))}
            for other in (REFERENCE, DEFAULT):
                if other in judged and other != arm:
                    difference = vars(difference_over_seeds(runs, judged[other]))
                    yield {"kind": arm, "what": f"{metric} less that of {other}", **difference}
    for arm in (REFERENCE, *bench.arms):
        recalls = [_measured(bench, arm, metric, seeds) for metric in ("R@50", "mR@50")]
        areas = [one.value * other.value for one, other in zip(*recalls, strict=True)]
        yield spread("hypervolume: R@50 times mR@50", arm, areas)


def _modelled(bench: Bench, arm: str, handed: Handed) -> float:
    trainings = handed.steps / bench.world.steps
    return trainings * STEP_ON_VG + MADE_ON_VG if arm == ECONOMY else trainings


def _measured(bench: Bench, arm: str, metric: str, seeds: Sequence[int]) -> list[Measured]:
    return [measure(record(bench.judged(arm, seed)), [metric]) for seed in seeds]
