"""Optuna behind three calls: ask for values, report on them, tell how it ended. No Ray, no files."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.parameters import Choice, FloatRange, IntRange, Plain
from speaq.space import SearchConfig, Space, Values

MAX_GRID = 10_000
_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def distribution(parameter: FloatRange | IntRange | Choice) -> BaseDistribution:
    """The parameter as Optuna writes it; `parameter_of` is its inverse (but for the condition)."""
    match parameter:
        case FloatRange():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntRange():
            return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
        case Choice():
            return CategoricalDistribution(parameter.choices)


def parameter_of(given: BaseDistribution) -> FloatRange | IntRange | Choice:
    """An Optuna distribution as a parameter of ours."""
    match given:
        case FloatDistribution():
            return FloatRange(type="float", low=given.low, high=given.high, log=given.log, step=given.step)
        case IntDistribution():
            step = None if given.step == 1 else given.step
            return IntRange(type="int", low=given.low, high=given.high, log=given.log, step=step)
        case CategoricalDistribution():
            return Choice(type="categorical", choices=list(given.choices))
        case _:
            raise TypeError(f"{type(given).__name__} is not one of our distributions")


def grid(space: Space, base: Config, seed: int) -> list[dict[str, Plain]]:
    """Every combination of a space without continuous ranges, shuffled. Raises ConfigError."""
    axes = [_axis(key, parameter) for key, parameter in space.parameters.items()]
    size = 1
    for axis in axes:
        size *= len(axis)
    if size > MAX_GRID:
        raise ConfigError(f"sampler: grid: {size} combinations, more than {MAX_GRID}; use tpe or fewer choices")
    points: dict[tuple[tuple[str, Plain], ...], dict[str, Plain]] = {}
    for combination in itertools.product(*axes):
        values = space.keep_active(base, dict(zip(space.parameters, combination, strict=True)))
        points.setdefault(tuple(values.items()), values)
    shuffled = list(points.values())
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _axis(key: str, parameter: FloatRange | IntRange | Choice) -> Sequence[Plain]:
    if isinstance(parameter, Choice):
        return parameter.choices
    if isinstance(parameter, IntRange) and not parameter.log:
        return range(parameter.low, parameter.high + 1, parameter.step or 1)
    if isinstance(parameter, FloatRange) and parameter.step is not None:
        count = round((parameter.high - parameter.low) / parameter.step)
        return [min(parameter.low + i * parameter.step, parameter.high) for i in range(count + 1)]
    raise ConfigError(f"sampler: grid: {key} is a continuous range; give it a step, or choices")


def _make_sampler(settings: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match settings.sampler:
            case "tpe":  # conditional parameters make groups of their own; running trials count as bad ones
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=seed)


class Sampler:
    """A study in memory. Objectives are maximised; parameters are asked for in the space's order, active ones only."""

    def __init__(self, space: Space, base: Config, settings: SearchConfig, num_objectives: int, asked: int = 0) -> None:
        """
        Args:
            asked: trials asked for by earlier drivers, so that a resumed search does not draw the same ones again.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._base = space, base
        self._flat = configs.flatten(configs.to_dict(base))
        self._single = num_objectives == 1
        seed = settings.seed + 1009 * asked
        self._study = optuna.create_study(
            directions=["maximize"] * num_objectives, sampler=_make_sampler(settings, seed), pruner=_NO_PRUNER
        )
        self._running: dict[int, optuna.Trial] = {}
        self._left: list[dict[str, Plain]] | None = None
        if settings.sampler == "grid":
            self._left = grid(space, base, settings.seed)

    @property
    def study(self) -> optuna.Study:
        return self._study

    def ask(self) -> tuple[int, dict[str, Plain]] | None:
        """(number of the Optuna trial, values); None where a grid has no point left."""
        if self._left is not None:
            return self.adopt(self._left.pop()) if self._left else None
        return self._ask()

    def adopt(self, values: Values) -> tuple[int, dict[str, Plain]]:
        """A trial with given values, as if they had been asked for."""
        self._study.enqueue_trial(dict(values))
        return self._ask()

    def _ask(self) -> tuple[int, dict[str, Plain]]:
        trial = self._study.ask()
        assigned: dict[str, Any] = dict(self._flat)
        values: dict[str, Plain] = {}
        for key, parameter in self._space.parameters.items():
            if self._space.active(key, assigned):
                values[key] = assigned[key] = _suggest(trial, key, parameter)
            elif parameter.has_otherwise:
                assigned[key] = parameter.otherwise
        self._running[trial.number] = trial
        return trial.number, values

    def replay(self, values: Values, state: str, objective: Sequence[float] | None, steps: Mapping[int, float]) -> None:
        """An ended trial of an earlier driver."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=_STATES[state],
                values=self._told(state, objective, steps),
                params=dict(values),
                distributions={key: distribution(self._space.parameters[key]) for key in values},
                intermediate_values=dict(steps) if self._single else None,
            )
        )

    def report(self, number: int, step: int, value: float) -> None:
        """An intermediate value: what TPE knows of a trial that is stopped early (one objective only)."""
        if self._single:
            self._running[number].report(value, step)

    def tell(self, number: int, state: str, objective: Sequence[float] | None) -> None:
        """Ends a trial as finished (with its objective), pruned or failed."""
        trial = self._running.pop(number)
        if state == "finished":
            self._study.tell(trial, list(objective or ()))
        else:
            self._study.tell(trial, state=_STATES[state])

    def _told(
        self, state: str, objective: Sequence[float] | None, steps: Mapping[int, float]
    ) -> Sequence[float] | None:
        if state == "pruned" and self._single and steps:
            return [steps[max(steps)]]  # as Optuna's tell does
        return list(objective) if state == "finished" and objective else None


_NO_PRUNER = optuna.pruners.NopPruner()  # Ray's scheduler stops trials


def _suggest(trial: optuna.Trial, key: str, parameter: FloatRange | IntRange | Choice) -> Plain:
    match parameter:
        case FloatRange():
            return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntRange():
            return trial.suggest_int(key, parameter.low, parameter.high, log=parameter.log, step=parameter.step or 1)
        case Choice():
            value: Plain = trial.suggest_categorical(key, parameter.choices)
            return value
