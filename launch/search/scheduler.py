"""Tune's schedulers on our step counter, with a memory that survives the driver: they are replayed from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from speaq.space import SearchConfig
from speaq.study import results
from speaq.study.ledger import Entry
from speaq.study.plan import MAX_STEPS
from speaq.study.results import Values, fronts

from ..store.remote import below
from . import messages, population
from .medians import Medians
from .rungs import Rungs, ranked, rungs_of


class Stopping(FIFOScheduler):
    """Trials are known by our ids, not by Tune's, which change on resume. References are recorded, never stopped.

    A trial that reaches its own last step ends by itself, so that it writes its result. Where trials differ in their
    length, they are judged at equal shares of it: a trial of half of `max_steps` is at step 10 where others are at 20.
    An evaluation whose objectives are not all finite counts nowhere, and stops no trial.
    """

    def __init__(self, objective: Sequence[str], max_steps: int) -> None:
        """
        Args:
            objective: the one or two metrics by which trials are judged.
            max_steps: of the study's config, in which rungs are counted; with a ladder those of its axis.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._objective, self.max_steps = objective, max_steps
        self._seen: set[tuple[str, int]] = set()  # a trial that goes on from an older checkpoint reports a step again

    def judge(self, trial: str, step: float, values: Values) -> bool:
        """Takes finite values into account and says whether the trial goes on."""
        raise NotImplementedError

    def replay(self, entries: Iterable[Entry]) -> None:
        """Takes in what earlier drivers saw."""
        for entry in entries:
            length = entry.overrides.get(MAX_STEPS, self.max_steps)
            for step in sorted(entry.reports):
                self._judge_once(entry.id, step, length, results.values(entry.reports[step], self._objective))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """CONTINUE or STOP for an evaluation that Tune has received."""
        report = messages.report_of(result)
        if report is None or messages.is_final(result):
            return TrialScheduler.CONTINUE
        length = trial.config.get("max_steps", self.max_steps)
        values = results.values(report.metrics, self._objective)
        goes_on = self._judge_once(trial.config["trial"], report.step, length, values)
        last = report.step >= length
        return TrialScheduler.CONTINUE if goes_on or last or trial.config["protected"] else TrialScheduler.STOP

    def _judge_once(self, trial: str, step: int, length: int, values: Values | None) -> bool:
        if values is None or (trial, step) in self._seen:
            return True
        self._seen.add((trial, step))
        return self.judge(trial, step if length == self.max_steps else step * self.max_steps / length, values)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is known from its first evaluation on."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """The evaluations of a trial that has ended go on counting."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """So do those of a trial that Tune forgets."""


class Halving(Stopping):
    """Asynchronous successive halving; with several brackets asynchronous HyperBand, trials taking turns in them.

    What it stops is paused: whether it goes on later is found by `launch.search.promotions`.
    """

    def __init__(self, objective: Sequence[str], max_steps: int, rungs: Rungs) -> None:
        super().__init__(objective, max_steps)
        self.rungs = rungs

    def judge(self, trial: str, step: float, values: Values) -> bool:
        """By the rungs of its bracket."""
        return self.rungs.judge(trial, step, values)


class Median(Stopping):
    """Stops a trial whose best values are below the median of the others' means up to the same step."""

    def __init__(self, objective: Sequence[str], max_steps: int, medians: Medians) -> None:
        super().__init__(objective, max_steps)
        self._medians = medians

    def judge(self, trial: str, step: float, values: Values) -> bool:
        """By the medians of the others."""
        return self._medians.judge(trial, step, values)


def _first_front(there: Mapping[str, Values]) -> set[str]:
    """The trials at a rung that no other one beats."""
    names = list(there)
    return {names[place] for place in fronts(list(there.values()))[0]}


class Population(Stopping):
    """Stops a trial that is among the worst so far at its rung, and keeps the checkpoint of one among the best.

    Who takes its place: `launch.search.population`. With two objectives, one that no other beats stays.
    """

    def __init__(
        self, settings: SearchConfig, max_steps: int, rungs: Sequence[int], trials: Path, url: str | None
    ) -> None:
        super().__init__(settings.objective, max_steps)
        self._share, self._trials, self._url = settings.quantile, trials, url
        self._values: dict[float, dict[str, Values]] = {step: {} for step in rungs}

    def judge(self, trial: str, step: float, values: Values) -> bool:
        """At a rung: by whether it is among the worst that have come there so far."""
        there = self._values.get(step)
        if there is None:
            return True
        there[trial] = values
        worst = ranked(there)[::-1][: population.num_worst(len(there), self._share)]
        return trial not in worst or (len(values) > 1 and trial in _first_front(there))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """As any scheduler; keeps the checkpoint of a trial that is among the best at its rung."""
        action = super().on_trial_result(tune_controller, trial, result)
        name, step = trial.config["trial"], result["step"]
        if not messages.is_final(result) and step in self._values:  # an ended trial may have gone on after its rung
            best = ranked(self._values[step])[: population.num_best(len(self._values[step]), self._share)]
            if name in best:
                # The trial waits for our answer: its files are of this step.
                population.keep(self._trials / name, step, below(self._url, name))
        return action


def make_scheduler(
    settings: SearchConfig, max_steps: int, eval_every: int, trials: Path, url: str | None = None
) -> TrialScheduler:
    """The scheduler that `settings` names; without a rung below `max_steps` every trial runs to its end.

    Args:
        trials: folder of the trials' folders.
        url: of that folder, where the search is at one.
    """
    if (halving := rungs_of(settings, max_steps, eval_every)) is not None:
        ladder = settings.on_ladder(max_steps, eval_every)
        return Halving(settings.objective, max_steps if ladder is None else ladder.length, halving)
    rungs = settings.rungs(max_steps, eval_every)
    match settings.scheduler:
        case "median" if rungs:
            return Median(settings.objective, max_steps, Medians(rungs[0], settings.min_trials))
        case "pbt" if rungs:
            return Population(settings, max_steps, rungs, trials, url)
        case _:
            return FIFOScheduler()  # type: ignore[no-untyped-call]
