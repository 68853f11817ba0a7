"""Ray's asynchronous successive halving on our step counter, with rungs that survive the driver."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from launch.ledger import Entry
from speaq.space import SearchConfig


class Halving(AsyncHyperBandScheduler):
    """Trials are known by our ids, not by Tune's, which change on resume. References are recorded, never stopped.

    A trial that reaches `max_steps` ends by itself, so that it writes its result.
    """

    def __init__(self, max_steps: int, rungs: list[int], reduction_factor: float) -> None:
        super().__init__(
            time_attr="step",
            metric="value",
            mode="max",
            max_t=max_steps,
            grace_period=rungs[0],
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        self._max_steps = max_steps

    def replay(self, entries: Iterable[Entry], metric: str) -> None:
        """Fills the rungs with what earlier drivers saw."""
        for entry in entries:
            for step in sorted(entry.reports):
                value = entry.reports[step].get(metric)
                if value is not None and math.isfinite(value):
                    self._brackets[0].on_result(_named(entry.id), step, value)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        pass

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if "outcome" in result or not math.isfinite(result["value"]):
            return TrialScheduler.CONTINUE
        action = self._brackets[0].on_result(_named(trial.config["trial"]), result["step"], result["value"])
        last = result["step"] >= self._max_steps
        return TrialScheduler.CONTINUE if last or trial.config["protected"] else action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        pass

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        pass


def _named(trial: str) -> Any:
    """All that a bracket asks of a trial."""
    return SimpleNamespace(trial_id=trial)


def make_scheduler(settings: SearchConfig, max_steps: int, eval_every: int) -> TrialScheduler:
    """The scheduler that `settings` names; without a rung below `max_steps` every trial runs to its end."""
    rungs = settings.rungs(max_steps, eval_every)
    return Halving(max_steps, rungs, settings.reduction_factor) if rungs else FIFOScheduler()  # type: ignore[no-untyped-call]
