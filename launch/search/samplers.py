"""Optuna's parts by name: distributions of our parameters, samplers, the grid. No Ray, no files."""

from __future__ import annotations

import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from speaq.space import SearchConfig
from speaq.space.parameters import Choice, FloatRange, IntRange


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


def make_sampler(settings: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
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
