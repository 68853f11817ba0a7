"""Searches on the table: what each reaches at a cost, over many seeds, judged by trainings that it has not seen.

A simulation sees the curves of one training seed and is judged by another. Regret is the best full training of the
table by the judging seed, less that of the setting which the search would hand over; for two objectives the
hypervolume of the settings on its front takes its place. Costs are in full trainings, the references included; a
training from stored features costs a share of one, whatever they cost to make.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna  # noqa: TID251

from speaq import config as configs
from speaq.config import BASELINE, PUBLISHED, Config
from speaq.evaluation.bootstrap import Interval, spread_over_seeds
from speaq.space import Space, from_dict, to_dict
from speaq.study.plan import Plan
from speaq.study.results import fronts
from tests.bench.table import neps
from tests.bench.table.others import OptunaStock, RayStock
from tests.bench.table.ours import Ours
from tests.bench.table.play import Game, Player, View, Way, incumbent, play
from tests.bench.table.table import FloatArray, Nearest, Table, load
from tests.bench.table.tau import RATE
from tests.bench.table.world import TABLE, space
from tests.helpers.shared import ROOT

COSTS = (1, 2, 3, 4, 6, 8, 12)  # full trainings
NEAR = 0.01  # regret that counts as reached
TRIALS = 400  # more than any cost allows
ONE, TWO = ("F@50",), ("R@50", "mR@50")
KEPT_BY = "F@50"

PRIORS: Mapping[str, Any] = {  # a bad one: what learns least, and repeats most
    "published": "published",
    "bad": {"training.learning_rate": 8.0e-3, "matching.max_repeats": 8, "matching.num_groups": 8},
}

LATER: Mapping[str, Mapping[str, Any]] = {  # than the default's rungs, a ninth and a third
    "at a quarter and half": {"reduction_factor": 2},
    "at half": {"reduction_factor": 2, "grace_steps": TABLE.steps // 2},
}

LADDERS: Mapping[str, Sequence[tuple[str, float]]] = {
    "features 1/3, 1, full": [("features", 1 / 3), ("features", 1), ("full", 1)],
    "features 1/3, 1, full 1/3, 1": [("features", 1 / 3), ("features", 1), ("full", 1 / 3), ("full", 1)],
    "features 1/10, 1/3, 1, full": [("features", 0.1), ("features", 1 / 3), ("features", 1), ("full", 1)],
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """A search that is simulated."""

    name: str
    search: Mapping[str, Any] = field(default_factory=dict)  # ours: keys of the space's `search`
    objective: Sequence[str] = ONE
    other: str = ""  # whose search it is, if not ours
    features: bool = False  # it looks at trainings from stored features alone
    without: Sequence[str] = ()  # parameters that it leaves as the config has them

    def way(self, base: Config, cost: float) -> Way:
        """What its trials train; `cost` is that of a training from features."""
        evaluations, every = base.training.max_steps // base.training.eval_every, base.training.eval_every
        if self.features:
            return Way(0, evaluations, cost)
        if (ladder := _searched(self).search.on_ladder(base.training.max_steps, every)) is None:
            return Way(evaluations)
        return Way(evaluations, ladder.from_features // every, cost)


def _searched(rule: Rule, seed: int = 0) -> Space:
    """The table's space with the settings of the search."""
    search = {**rule.search, "objective": list(rule.objective), "trials": TRIALS, "seed": seed}
    asked = to_dict(space())
    parameters = {key: value for key, value in asked["parameters"].items() if key not in rule.without}
    return from_dict({**asked, "parameters": parameters, "search": search})


def _ours(objective: Sequence[str]) -> Iterator[Rule]:
    single = objective == ONE
    end = "" if single else ", two objectives"
    yield Rule("random, to the end" + end, {"sampler": "random", "scheduler": "none"}, objective)
    for sampler in ("random", "tpe", "gp", "nsga2", *(["cmaes"] if single else [])):
        yield Rule(f"{sampler}, asha{end}", {"sampler": sampler, "scheduler": "asha"}, objective)
    for name, prior in PRIORS.items():
        yield Rule(f"tpe, asha, {name} prior{end}", {"sampler": "tpe", "scheduler": "asha", "prior": prior}, objective)
    for name, judged in LATER.items():
        for prior in ("none", "published"):
            search = {"sampler": "tpe", "scheduler": "asha", "prior": prior, **judged}
            yield Rule(f"tpe, asha {name}{'' if prior == 'none' else ', published prior'}{end}", search, objective)
    for scheduler in ("none", "hyperband", "median"):
        yield Rule(f"tpe, {scheduler}{end}", {"sampler": "tpe", "scheduler": scheduler}, objective)
    asha = {"sampler": "tpe", "scheduler": "asha"}
    for name, rungs in LADDERS.items():
        ladder = [{"features": kind == "features", "share": share} for kind, share in rungs]
        yield Rule(f"tpe, ladder {name}{end}", {**asha, "ladder": ladder}, objective)
    yield Rule(f"tpe, asha, features alone{end}", asha, objective, features=True)
    alone = {**asha, "references": []}
    yield Rule(f"tpe, asha, features alone, no references{end}", alone, objective, features=True)
    yield Rule(f"tpe, asha, no references{end}", alone, objective)
    yield Rule(f"tpe, asha, without the learning rate{end}", asha, objective, without=[RATE])
    economical = configs.read_yaml(ROOT / "search_spaces" / "economy.yaml")["search"]
    yield Rule(f"economy.yaml{end}", economical, objective, features=True, without=[RATE])
    unprimed = {**economical, "prior": "none"}
    yield Rule(f"economy.yaml without its prior{end}", unprimed, objective, features=True, without=[RATE])
    yield Rule(f"economy.yaml with the learning rate{end}", economical, objective, features=True)


OTHERS = ("Ray Tune: ASHA + OptunaSearch", "Optuna: TPE + Hyperband", "Optuna: TPE + median")
NEPS = "NePS: PriorBand on ASHA"
RULES = (
    *_ours(ONE),
    *(Rule(name, other=name) for name in (*OTHERS, *([NEPS] if neps.is_installed() else []))),
    *_ours(TWO),
)


def simulate(
    rules: Sequence[Rule],
    seeds: int,
    workers: int,
    table: Path,
    *,
    features_cost: float | None = None,
    processes: int | None = None,
) -> Iterator[Row]:
    """Plays every rule with seeds 0 … `seeds` - 1 and sums up, rule after rule.

    Args:
        workers: trials at once.
        features_cost: of a training from features, where a full one costs 1; None: as the table measured.
        processes: that play, 0: this one; None: as many as there are cores.
    """
    with contextlib.ExitStack() as stack:
        pool = None if processes == 0 else ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        each = map if pool is None else stack.enter_context(pool).map
        for rule in rules:
            played = list(each(partial(_reached, rule, workers, table, features_cost), range(seeds)))
            yield from _summed(rule, np.array(played), workers)


def _reached(rule: Rule, workers: int, path: Path, features_cost: float | None, seed: int) -> list[float]:
    """Regret (hypervolume) at each of COSTS, then the cost at which the regret is NEAR; nan where there is none."""
    table = _table(path)
    sees, judges = (table.seeds[0], table.seeds[1])[:: 1 if seed % 2 == 0 else -1]
    base, training = table.world.base(), table.world.evaluations
    way = rule.way(base, table.features_cost if features_cost is None else features_cost)
    view = View(table, way, sees, KEPT_BY)
    player, close = _player(rule, base, way.length, seed)
    try:
        nearest, left = Nearest(space(), table.settings), _left(rule, base)
        game = play(player, view, lambda v: nearest({**left, **v}), workers=workers, cost=max(COSTS) * training)
    finally:
        close()
    measure = _Regret(view, judges) if len(rule.objective) == 1 else _Front(view, judges, rule.objective)
    values = [measure(game, cost * training) for cost in COSTS]
    if len(rule.objective) == 2:
        return [*values, math.nan]
    reached = (spent for spent, _, _ in game.history if measure(game, spent) <= NEAR)
    return [*values, next(reached, math.nan) / training]


def _left(rule: Rule, base: Config) -> dict[str, Any]:
    """What the config has where a rule leaves parameters alone."""
    values = configs.flatten(configs.to_dict(base))
    return {key: values[key] for key in rule.without}


@cache
def _table(path: Path) -> Table:
    return load(path)


def _player(rule: Rule, base: Config, length: int, seed: int) -> tuple[Player, Callable[[], None]]:
    """The search at its beginning, and what ends it."""
    searched = _searched(rule, seed)
    if rule.other:
        return _other(rule, searched, base, length=length, seed=seed), lambda: None
    both = {"published": PUBLISHED, "baseline": BASELINE}
    references = {label: configs.apply(base, both[label]) for label in searched.search.references}
    ours = Ours(Plan(base, searched, references), lambda config: None)
    return ours, ours.close


def _other(rule: Rule, searched: Space, base: Config, *, length: int, seed: int) -> Player:
    (metric,) = rule.objective
    if rule.other == NEPS:
        published = searched.extract(base, configs.apply(base, PUBLISHED)) or {}
        return neps.PriorBand(searched, base, metric, published, length=length, trials=TRIALS, seed=seed)
    if rule.other == OTHERS[0]:
        return RayStock(searched, base, metric, length=length, trials=TRIALS, seed=seed)
    pruner = optuna.pruners.HyperbandPruner() if rule.other == OTHERS[1] else optuna.pruners.MedianPruner()
    return OptunaStock(searched, base, metric, pruner, trials=TRIALS, seed=seed)


class _Regret:
    """How far the setting that a search hands over lies behind the best of the table, by trainings it has not seen."""

    def __init__(self, view: View, judges: int) -> None:
        (self._metric,) = ONE
        self._view = view
        self._judged = view.table.finals(self._metric, KEPT_BY, judges)

    def __call__(self, game: Game, cost: float) -> float:
        """At a cost in evaluations."""
        chosen = incumbent(game.at(cost), self._value)
        return math.nan if chosen is None else float(self._judged.max() - self._judged[chosen])

    def _value(self, setting: int, evaluation: int) -> float:
        return self._view.metrics(setting, evaluation)[self._metric]


class _Front:
    """The hypervolume, by trainings that a search has not seen, of the settings on its front."""

    def __init__(self, view: View, judges: int, objective: Sequence[str]) -> None:
        self._view, self._objective = view, objective
        self._judged = np.stack([view.table.finals(name, KEPT_BY, judges) for name in objective], axis=1)

    def __call__(self, game: Game, cost: float) -> float:
        """At a cost in evaluations."""
        end = self._view.way.length
        ended = sorted({setting for setting, evaluations in game.at(cost) if evaluations == end})
        seen = [[self._view.metrics(setting, end)[name] for name in self._objective] for setting in ended]
        best = fronts(seen)[:1]
        return hypervolume(self._judged[[ended[place] for front in best for place in front]])


def hypervolume(points: FloatArray) -> float:
    """Area that points [n, 2] dominate above (0, 0)."""
    area, height = 0.0, 0.0
    for x, y in sorted(points.tolist(), reverse=True):
        area += x * max(0.0, y - height)
        height = max(height, y)
    return area


def _summed(rule: Rule, played: FloatArray, workers: int) -> list[Row]:
    """One row for each cost, with the mean over the seeds and its 95 % interval (Student's t), then the cost to reach
    NEAR as median and quartiles of the seeds that do."""
    name = {"name": rule.name, "workers": workers, "seeds": len(played)}
    what = "regret" if len(rule.objective) == 1 else "hypervolume"
    rows = [{**name, "what": what, "cost": cost, **_mean(played[:, n])} for n, cost in enumerate(COSTS)]
    if len(rule.objective) == 2:
        return rows
    reached = played[np.isfinite(played[:, -1]), -1]
    share = len(reached) / len(played)
    low, value, high = np.quantile(reached, (0.25, 0.5, 0.75)) if len(reached) else (math.nan,) * 3
    near = {"value": float(value), "low": float(low), "high": float(high), "share": share}
    return [*rows, {**name, "what": f"cost to a regret of {NEAR}", "cost": max(COSTS), **near}]


def _mean(values: FloatArray) -> dict[str, float]:
    values = values[np.isfinite(values)]
    mean, interval = spread_over_seeds(values.tolist()) if len(values) else (math.nan, None)
    return vars(interval or Interval(mean, math.nan, math.nan))
