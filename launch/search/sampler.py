"""Optuna behind three calls: ask for values, report on them, tell how it ended. No Ray, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from launch.search.samplers import distribution, make_sampler
from speaq import config as configs
from speaq.config import Config
from speaq.space import SearchConfig, Space, Values
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain
from speaq.study.plan import grid

_STATES = {
    "finished": TrialState.COMPLETE,
    "infeasible": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


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
            directions=["maximize"] * num_objectives, sampler=make_sampler(settings, seed), pruner=_NO_PRUNER
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

    def replay(
        self,
        values: Values,
        state: str,
        objective: Sequence[float] | None,
        steps: Mapping[int, float],
        constraints: Mapping[str, float],
    ) -> None:
        """An ended trial of an earlier driver."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=_STATES[state] if state != "infeasible" or objective else TrialState.FAIL,
                values=self._told(state, objective, steps),
                params=dict(values),
                distributions={key: distribution(self._space.parameters[key]) for key in values},
                intermediate_values=dict(steps) if self._single else None,
                constraints=dict(constraints) or None,
            )
        )

    def report(self, number: int, step: int, value: float) -> None:
        """An intermediate value: what TPE knows of a trial that is stopped early (one objective only)."""
        if self._single:
            self._running[number].report(value, step)

    def tell(
        self,
        number: int,
        state: str,
        objective: Sequence[float] | None,
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
            self._study.tell(trial, list(objective))
        else:
            self._study.tell(trial, state=TrialState.FAIL if state == "infeasible" else _STATES[state])

    def _told(
        self, state: str, objective: Sequence[float] | None, steps: Mapping[int, float]
    ) -> Sequence[float] | None:
        if state == "pruned" and self._single and steps:
            return [steps[max(steps)]]  # as Optuna's tell does
        return list(objective) if state in ("finished", "infeasible") and objective else None


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
