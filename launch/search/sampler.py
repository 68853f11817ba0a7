"""Optuna's samplers behind a few calls: ask for values, report on them, tell how it ended. No Ray, no files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from launch.search.optuna_study import optuna_trial
from speaq.space import SearchConfig, Values
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain
from speaq.study.ledger import Entry
from speaq.study.plan import Plan, grid

_NO_PRUNER = optuna.pruners.NopPruner()  # Ray's scheduler stops trials


class Sampler:
    """A study in memory. Objectives are maximised; parameters are asked for in the space's order, active ones only."""

    def __init__(self, plan: Plan, asked: int = 0) -> None:
        """
        Args:
            asked: trials asked for by earlier drivers, so that a resumed search does not draw the same ones again.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._single = len(plan.objective) == 1
        sampler = _sampler(plan.settings, plan.settings.seed + 1009 * asked)
        directions = [StudyDirection.MAXIMIZE] * len(plan.objective)
        self.study = optuna.create_study(directions=directions, sampler=sampler, pruner=_NO_PRUNER)
        self._running: dict[int, optuna.Trial] = {}
        is_grid = plan.settings.sampler == "grid"
        self._left = grid(plan.space, plan.base, plan.settings.seed) if is_grid else None

    def ask(self) -> tuple[int, dict[str, Plain]] | None:
        """(number of the Optuna trial, values); None where a grid has no point left."""
        if self._left is not None:
            return self.adopt(self._left.pop()) if self._left else None
        return self._ask()

    def adopt(self, values: Values) -> tuple[int, dict[str, Plain]]:
        """A trial with given values, as if they had been asked for."""
        self.study.enqueue_trial(dict(values))
        return self._ask()

    def _ask(self) -> tuple[int, dict[str, Plain]]:
        trial = self.study.ask()
        self._running[trial.number] = trial
        return trial.number, self._plan.space.walk(self._plan.base, partial(_suggest, trial)).values

    def replay(self, entry: Entry) -> None:
        """Takes in a trial of the space that ended under an earlier driver."""
        trial = optuna_trial(entry, self._plan)
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            trial.values = [trial.intermediate_values[max(trial.intermediate_values)]]  # as Optuna's tell does
        self.study.add_trial(trial)

    def report(self, number: int, step: int, value: float) -> None:
        """An intermediate value: what TPE knows of a trial that is stopped early (one objective only)."""
        if self._single:
            self._running[number].report(value, step)

    def tell(
        self,
        number: int,
        state: str,
        objective: Sequence[float] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """Ends a trial as finished or infeasible (with its objective), pruned or failed.

        Args:
            constraints: how far a value lies above its limit, by name; all at or below 0 is feasible.
        """
        trial = self._running.pop(number)
        for name, excess in (constraints or {}).items():
            trial.set_constraint(name, excess)
        if state in ("finished", "infeasible") and objective:
            self.study.tell(trial, list(objective))
        else:
            self.study.tell(trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)


def _sampler(settings: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match settings.sampler:
            case "tpe":  # conditional parameters make groups of their own; running trials count as bad ones
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=seed)


def _suggest(trial: optuna.Trial, key: str, parameter: FloatRange | IntRange | Choice) -> Plain:
    match parameter:
        case FloatRange():
            return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntRange():
            return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
        case Choice():
            value: Plain = trial.suggest_categorical(key, parameter.choices)
            return value
