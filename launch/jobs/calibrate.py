"""`speaq calibrate`: how early a short training tells what the full one will, and when trials may be stopped.

A few settings at random all train to the end; each evaluation on the way is a smaller budget. The ranks at a budget are
held against the final ones (Kendall's tau), and successive halving is replayed over the same trials, in many orders.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError
from speaq.files import atomic
from speaq.study import creation, ranks, results, snapshot
from speaq.study.file import Study, has_begun
from speaq.study.plan import MAX_STEPS, compared, max_steps

from ..search.rungs import Rungs
from ..store.workspace import Workspace
from . import proxy
from . import tune as studies
from .display import Display, silent
from .proxy import FEWEST, Proxy, Rung

FILE = "calibration.json"
ORDERS = 100  # in which the trials may arrive
FACTORS = (2.0, 3.0, 4.0)
KEPT = 0.9  # share of the orders in which the best trial must survive
SEED = 0

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """Successive halving from `grace_steps` on, replayed."""

    grace_steps: int
    reduction_factor: float
    steps: float  # share of the full trials' steps that it takes
    kept: float  # share of the orders in which the best trial is not stopped
    lost: (
        float  # of the objective's value between the best trial and the best that is not stopped, mean over the orders
    )


@dataclass(frozen=True)
class Calibration:
    """What the full trials of a search tell about shorter ones."""

    metric: str
    trials: int
    left_out: int  # failed, or stopped early: nobody knows what they would have reached
    budgets: list[Rung]
    schedules: list[Schedule]
    recommended: Schedule | None
    features: Proxy | None = None  # the same settings from stored features


def calibrate(
    output: Path,
    *,
    config: Path | None = None,
    space: Path | None = None,
    data: Path | None = None,
    trials: int | None = None,
    assignments: Sequence[str] = (),
    features: Path | None = None,
    display: Display = silent,
    here: Workspace = Workspace(),
) -> Calibration:
    """Judges the search in `output`, after running it where there is none; writes calibration.json.

    Args:
        config, space, data, assignments: as `speaq tune` takes them; only where `output` is new.
        trials: settings to train in full, drawn at random behind the published one and the baseline.
        features: folder of `speaq cache`, from which the same settings are trained once more.

    Raises:
        ConfigError, DataError: too few trials went to their end, or they had different budgets.
    """
    spaces.check_trials(trials)
    given = {"--config": config, "--space": space, "--data": data}
    if has_begun(output):
        if used := [name for name, value in (given | {"--trials": trials, "--set": assignments}).items() if value]:
            raise ConfigError(f"{output}: holds a search already; {', '.join(used)} would have no effect on it")
    else:
        if missing := [name for name, value in given.items() if value is None]:
            raise ConfigError(f"{output}: holds no search to judge; to run one, give {', '.join(missing)}")
        assert config is not None
        assert space is not None
        assert data is not None
        study = _study(config, space, data, trials, assignments)
        if features is not None:
            proxy.check(study, features)
        studies.start(study, output, display=display, here=here)
    found = judge(output)
    if features is not None:
        proxy.train(output, features, display=display, here=here)
    found = dataclasses.replace(found, features=proxy.judge(output))
    content = dataclasses.asdict(found)
    atomic.write_text(output / FILE, json.dumps(content, indent=1).replace("NaN", "null") + "\n")
    return found


def _study(config: Path, space: Path, data: Path, trials: int | None, assignments: Sequence[str]) -> Study:
    asked = spaces.load(space)
    number = 8 if trials is None else trials
    if number < FEWEST:
        raise ConfigError(f"--trials {number}: ranks of fewer than {FEWEST} trials say nothing")
    if MAX_STEPS in asked.parameters:
        raise ConfigError(
            f"space: {MAX_STEPS}: a budget must mean the same to all trials; --set {MAX_STEPS}=N fixes it"
        )
    settings = proxy.to_the_end(asked.search, number)
    return creation.create(
        configs.load(config, assignments),
        asked.model_copy(update={"search": settings}),
        data,
        overrides=list(configs.parse_overrides(assignments)),
    )


def judge(folder: Path) -> Calibration:
    """What the full trials of a search tell about its budgets; nothing of features. Raises ConfigError."""
    now = snapshot.read(folder)
    plan = now.plan
    if plan.settings.ladder:
        raise ConfigError(f"{folder}: climbs a ladder; what its rungs tell of each other is in speaq report {folder}")
    full = [entry for entry in now.entries if entry.state in ("finished", "infeasible")]
    if len({max_steps(entry, plan) for entry in full}) > 1:
        raise ConfigError(f"{folder}: its trials differ in training.max_steps; a budget must mean the same to all")
    last = plan.base.training.max_steps if not full else max_steps(full[0], plan)
    metric = compared(plan)
    steps = sorted({step for entry in full for step in entry.reports if step < last})
    curves = np.array([[_number(entry.reports.get(step, {}).get(metric)) for step in steps] for entry in full])
    known = ~np.isnan(curves).any(1) if len(full) else np.zeros(0, dtype=bool)
    if known.sum() < FEWEST or not steps:
        raise ConfigError(
            f"{folder}: {known.sum()} trials with evaluations on the way went to their end; ranks of fewer than "
            f"{FEWEST} say nothing: speaq tune --resume {folder} --trials N, with search.scheduler: none"
        )
    curves = curves[known]
    final = np.array([results.score(e.metrics, plan.objective) for e, k in zip(full, known, strict=True) if k])
    budgets = [_budget(step, last, curves[:, i], final) for i, step in enumerate(steps)]
    schedules = [
        replay(np.array(steps), curves, final, last, grace, factor) for grace in _rungs(budgets) for factor in FACTORS
    ]
    safe = [schedule for schedule in schedules if schedule.kept >= KEPT]
    return Calibration(
        metric=metric,
        trials=len(final),
        left_out=len(now.entries) - len(final),
        budgets=budgets,
        schedules=schedules,
        recommended=min(safe, key=lambda schedule: (schedule.steps, schedule.grace_steps), default=None),
    )


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _rungs(budgets: Sequence[Rung]) -> list[int]:
    """Budgets from which on all ranks say more than chance does."""
    telling = list(takewhile(lambda budget: budget.low > 0, reversed(budgets)))
    return [budget.step for budget in reversed(telling)]


def _budget(step: int, last: int, values: FloatArray, final: FloatArray) -> Rung:
    """Kendall's tau-b and its interval."""
    return Rung(step, step / last, *ranks.tau(values, final))


def replay(
    steps: NDArray[np.int64], curves: FloatArray, final: FloatArray, last: int, grace: int, factor: float
) -> Schedule:
    """Successive halving over trials that arrive one after the other, in `ORDERS` orders, none of them protected.

    A trial that is paused goes on as soon as it deserves to, before another one arrives.

    Args:
        steps: [S] of the evaluations before the end.
        curves: [T, S] what the scheduler would have seen.
        final: [T] what the trials reached in `last` steps.
    """
    random = np.random.default_rng(SEED)
    taken, kept, lost = [], [], []
    for _ in range(ORDERS):
        spent = _spent(random.permutation(len(final)), steps, curves, last, Rungs(last, grace, factor))
        survivors = final[spent == last]
        taken.append(spent.mean() / last)
        lost.append(final.max() - survivors.max())
        kept.append(lost[-1] == 0)
    return Schedule(grace, factor, float(np.mean(taken)), float(np.mean(kept)), float(np.mean(lost)))


def _spent(
    order: NDArray[np.int64], steps: NDArray[np.int64], curves: FloatArray, last: int, rungs: Rungs
) -> NDArray[np.int64]:
    """[T] steps that each trial makes when they arrive in this order."""
    spent = np.zeros(len(order), dtype=np.int64)
    paused: set[str] = set()

    def go_on(trial: int) -> None:
        for place in np.flatnonzero(steps > spent[trial]):
            spent[trial] = steps[place]
            if not rungs.judge(str(trial), float(steps[place]), (float(curves[trial, place]),)):
                paused.add(str(trial))
                return
        spent[trial] = last

    for trial in order.tolist():
        go_on(trial)
        while due := rungs.promotable(paused):
            paused.remove(due[0])
            go_on(int(due[0]))
    return spent
