"""Ray's schedulers on our step counter, with a memory that survives the driver: they are replayed from the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from launch.search import population
from launch.search.messages import is_final
from speaq.space import SearchConfig
from speaq.study.ledger import Entry
from speaq.study.plan import MAX_STEPS


@dataclass(frozen=True)
class Named:
    """All that Ray's rules ask of a trial."""

    trial_id: str


class Stopping(TrialScheduler):
    """Trials are known by our ids, not by Tune's, which change on resume. References are recorded, never stopped.

    A trial that reaches its own last step ends by itself, so that it writes its result. Where trials differ in their
    length, they are judged at equal shares of it: a trial of half of `max_steps` is at step 10 where others are at 20.
    """

    max_steps: int  # of the study's config, in which rungs are counted
    _seen: set[tuple[Named, int]]  # a trial that goes on from an older checkpoint reports a step again

    def judge(self, trial: Named, step: float, value: float) -> str:
        """Takes a finite value into account and says CONTINUE or STOP."""
        raise NotImplementedError

    def replay(self, entries: Iterable[Entry], metric: str) -> None:
        """Takes in what earlier drivers saw."""
        for entry in entries:
            length = entry.overrides.get(MAX_STEPS, self.max_steps)
            for step in sorted(entry.reports):
                value = entry.reports[step].get(metric)
                if value is not None and math.isfinite(value):
                    self._judge_once(Named(entry.id), step, length, value)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """CONTINUE or STOP for an evaluation that Tune has received."""
        if is_final(result) or not math.isfinite(result["value"]):
            return TrialScheduler.CONTINUE
        length = trial.config.get("max_steps", self.max_steps)
        action = self._judge_once(Named(trial.config["trial"]), result["step"], length, result["value"])
        last = result["step"] >= length
        return TrialScheduler.CONTINUE if last or trial.config["protected"] else action

    def _judge_once(self, trial: Named, step: int, length: int, value: float) -> str:
        if (trial, step) in self._seen:
            return TrialScheduler.CONTINUE
        self._seen.add((trial, step))
        return self.judge(trial, step if length == self.max_steps else step * self.max_steps / length, value)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is known from its first evaluation on."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """The evaluations of a trial that has ended go on counting."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """So do those of a trial that Tune forgets."""


class Halving(Stopping, AsyncHyperBandScheduler):
    """Asynchronous successive halving; with several brackets asynchronous HyperBand, trials taking turns in them."""

    def __init__(self, max_steps: int, grace_steps: int, reduction_factor: float, brackets: int = 1) -> None:
        AsyncHyperBandScheduler.__init__(
            self,
            time_attr="step",
            metric="value",
            mode="max",
            max_t=max_steps,
            grace_period=grace_steps,
            reduction_factor=reduction_factor,
            brackets=brackets,
            stop_last_trials=False,
        )
        self.max_steps, self._seen = max_steps, set()

    def judge(self, trial: Named, step: float, value: float) -> str:
        """By the rungs of its bracket: the best `1 / reduction_factor` of those that came to a rung go on."""
        bracket = self._brackets[int(trial.trial_id) % len(self._brackets)]  # Ray draws it, which resuming would lose
        action: str = bracket.on_result(cast(Any, trial), cast(Any, step), value)
        return action


class Median(Stopping, MedianStoppingRule):
    """Stops a trial whose best value is below the median of the others' means up to the same step."""

    def __init__(self, max_steps: int, grace_steps: int, min_trials: int) -> None:
        MedianStoppingRule.__init__(
            self,
            time_attr="step",
            metric="value",
            mode="max",
            grace_period=grace_steps,
            min_samples_required=min_trials,
        )
        self.max_steps, self._seen = max_steps, set()

    def judge(self, trial: Named, step: float, value: float) -> str:
        """By the median of the others, from `grace_steps` on, once there are `min_trials` of them."""
        rule: Any = super(Stopping, self)  # Ray's, which asks nothing of Tune here
        action: str = rule.on_trial_result(None, trial, {"step": step, "value": value})
        self._stopped_trials.clear()  # a reference goes on, and is judged again
        return action

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return TrialScheduler.CONTINUE  # Ray's would pause it, in favour of trials that wait


class Population(Stopping, FIFOScheduler):
    """Stops a trial that is among the worst so far at its rung, and keeps the checkpoint of one among the best.

    Who takes its place: `launch.search.population`.
    """

    def __init__(self, max_steps: int, rungs: Sequence[int], share: float, trials: Path) -> None:
        FIFOScheduler.__init__(self)  # type: ignore[no-untyped-call]
        self.max_steps, self._seen = max_steps, set()
        self._share, self._trials = share, trials
        self._values: dict[float, dict[Named, float]] = {step: {} for step in rungs}

    def judge(self, trial: Named, step: float, value: float) -> str:
        """At a rung: by whether it is among the worst that have come there so far."""
        if step not in self._values:
            return TrialScheduler.CONTINUE
        self._values[step][trial] = value
        worst = self._best_first(step)[::-1][: population.num_worst(len(self._values[step]), self._share)]
        return TrialScheduler.STOP if trial in worst else TrialScheduler.CONTINUE

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """As any scheduler; keeps the checkpoint of a trial that is among the best at its rung."""
        action = super().on_trial_result(tune_controller, trial, result)
        name, step = trial.config["trial"], result["step"]
        if not is_final(result) and step in self._values:  # a trial that has ended may have gone on after its rung
            best = self._best_first(step)[: population.num_best(len(self._values[step]), self._share)]
            if Named(name) in best:
                population.keep(self._trials / name, step)  # the trial waits for our answer: its files are of this step
        return action

    def _best_first(self, step: float) -> list[Named]:
        return sorted(self._values[step], key=lambda trial: -self._values[step][trial])


def make_scheduler(settings: SearchConfig, max_steps: int, eval_every: int, trials: Path) -> TrialScheduler:
    """The scheduler that `settings` names; without a rung below `max_steps` every trial runs to its end.

    Args:
        trials: folder of the trials' folders.
    """
    rungs = settings.rungs(max_steps, eval_every)
    if not rungs:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    match settings.scheduler:
        case "median":
            return Median(max_steps, rungs[0], settings.min_trials)
        case "pbt":
            return Population(max_steps, rungs, settings.quantile, trials)
        case "hyperband":
            return Halving(max_steps, rungs[0], settings.reduction_factor, settings.brackets or len(rungs))
        case _:
            return Halving(max_steps, rungs[0], settings.reduction_factor)
