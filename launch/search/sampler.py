"""Optuna's samplers behind a few calls: ask for values, tell what became of them. No Ray, no files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from speaq.space import SearchConfig, Values
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain
from speaq.study.plan import Plan, grid

from .optuna_study import bring_up

_NO_PRUNER = optuna.pruners.NopPruner()  # Ray's scheduler stops trials
_EVOLVING = ("cmaes", "nsga2", "nsga3")  # samplers that note with a trial, when it is asked for, its generation


class Sampler:
    """A study in memory. Objectives are maximised; parameters are asked for in the space's order, active ones only."""

    def __init__(self, plan: Plan, asked: int = 0) -> None:
        """
        Args:
            asked: trials asked for by earlier drivers, so that a resumed search does not draw the same ones again.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan = plan
        self._sampler = _sampler(plan.settings, plan.settings.seed + 1009 * asked)
        self.study = self._new_study()
        self._study_id = self._storage.get_study_id_from_name(self.study.study_name)  # the same in each of ours
        is_grid = plan.settings.sampler == "grid"
        self._left = grid(plan.space, plan.base, plan.settings.seed) if is_grid else None

    def _new_study(self) -> optuna.Study:
        self._storage = optuna.storages.InMemoryStorage()
        directions = [StudyDirection.MAXIMIZE] * len(self._plan.objective)
        return optuna.create_study(
            storage=self._storage, directions=directions, sampler=self._sampler, pruner=_NO_PRUNER
        )

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
        return trial.number, self._plan.space.walk(self._plan.base, partial(suggest, trial)).values

    def add(self, trial: FrozenTrial) -> int:
        """Takes in a trial of an earlier driver, running or ended; returns its number."""
        if self._plan.settings.sampler in _EVOLVING:
            number, _ = self.adopt(trial.params)
            self.tell(number, trial)
            return number
        self.study.add_trial(trial)
        return len(self.study.get_trials(deepcopy=False)) - 1

    def tell(self, number: int, trial: FrozenTrial) -> None:
        """Says what became of a trial that was running."""
        told = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        bring_up(self._storage, told, self._storage.get_trial(told), trial)

    def reject(self, number: int) -> None:
        """Ends a trial that is not run."""
        self.study.tell(number, state=TrialState.FAIL)

    def tell_again(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Replaces what the sampler knows of trials, by number, also of those that had ended."""
        old, self.study = self.study.get_trials(deepcopy=False), self._new_study()
        for before in old:
            now = trials.get(before.number, before)
            noted = {key: value for key, value in before.system_attrs.items() if not key.startswith("constraints")}
            now.system_attrs = {**noted, **now.system_attrs}
            self.study.add_trial(now)


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


def suggest(trial: optuna.Trial, key: str, parameter: FloatRange | IntRange | Choice) -> Plain:
    """Asks a running trial of Optuna's for the value of a parameter."""
    match parameter:
        case FloatRange():
            return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntRange():
            return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
        case Choice():
            value: Plain = trial.suggest_categorical(key, parameter.choices)
            return value
