"""Other searches as players, as they come: Ray Tune's ASHA with OptunaSearch, Optuna with pruners of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna  # noqa: TID251
from optuna.pruners import BasePruner  # noqa: TID251
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler  # noqa: TID251
from ray.tune.search.optuna import OptunaSearch  # noqa: TID251

from launch.search.sampler import suggest
from speaq.config import Config
from speaq.space import Space
from speaq.space.parameters import Plain
from tests.bench.table.play import Job, Metrics


def _values(space: Space, base: Config, trial: optuna.Trial) -> Mapping[str, Plain]:
    return space.walk(base, partial(suggest, trial)).values


class RayStock:
    """Ray Tune with its ASHA and its OptunaSearch, every setting of theirs at its default."""

    def __init__(self, space: Space, base: Config, metric: str, *, length: int, trials: int, seed: int) -> None:
        """
        Args:
            metric: that is maximised.
            length: evaluations of a full training.
            trials: to be asked for.
        """
        self._define = partial(_values, space, base)
        self._search = OptunaSearch(self._asked, metric=metric, mode="max", seed=seed)
        self._scheduler = AsyncHyperBandScheduler(metric=metric, mode="max", max_t=length)
        self._ids = map(str, range(trials))
        self._last: Mapping[str, Plain] = {}

    def _asked(self, trial: optuna.Trial) -> None:
        self._last = self._define(trial)

    def next(self) -> Job | None:
        """The next setting of OptunaSearch."""
        key = next(self._ids, None)
        if key is None:
            return None
        self._search.suggest(key)
        self._scheduler.on_trial_add(None, self._trial(key))
        return Job(key, key, self._last)

    def _trial(self, key: str) -> Any:
        return SimpleNamespace(trial_id=key)

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        """ASHA judges."""
        result = {**metrics, "training_iteration": evaluation}
        if self._scheduler.on_trial_result(None, self._trial(job.key), result) == TrialScheduler.CONTINUE:
            self._search.on_trial_result(job.key, result)
            return True
        self._search.on_trial_complete(job.key, result)
        return False

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        """OptunaSearch learns the final value."""
        result = {**metrics, "training_iteration": evaluation}
        self._scheduler.on_trial_complete(None, self._trial(job.key), result)
        self._search.on_trial_complete(job.key, result)


class OptunaStock:
    """Optuna's ask and tell with its default sampler and one of its pruners."""

    def __init__(self, space: Space, base: Config, metric: str, pruner: BasePruner, *, trials: int, seed: int) -> None:
        """`metric` is maximised; `trials` are asked for."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self._define, self._metric = partial(_values, space, base), metric
        self._trials: dict[str, optuna.Trial] = {}
        self._ids = map(str, range(trials))

    def next(self) -> Job | None:
        """The next setting of the study."""
        key = next(self._ids, None)
        if key is None:
            return None
        self._trials[key] = self._study.ask()
        return Job(key, key, self._define(self._trials[key]))

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        """The pruner judges."""
        trial = self._trials[job.key]
        trial.report(metrics[self._metric], evaluation)
        if not trial.should_prune():
            return True
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return False

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        """The study learns the final value."""
        self._study.tell(self._trials[job.key], metrics[self._metric])
