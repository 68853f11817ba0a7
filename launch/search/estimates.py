"""What trials that were stopped would have come to, so that samplers learn from them.

Every sampler knows what a complete trial is, with one objective or two; of a stopped one GP, NSGA and CMA-ES learn
nothing, and TPE only with one objective.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from fractions import Fraction

from optuna.trial import FrozenTrial, TrialState

from speaq.study import results
from speaq.study.ledger import STOPPED, Entry
from speaq.study.plan import Plan, excess, max_steps

from .optuna_study import optuna_trial


class Estimates:
    """What a sampler is told of the trials of a ledger: a function of what the ledger says now."""

    def __init__(self, entries: Iterable[Entry], plan: Plan) -> None:
        self._plan = plan
        self._complete = [entry for entry in entries if entry.state in ("finished", "infeasible")]
        self._gains: dict[Fraction, tuple[float, ...] | None] = {}  # by the share of its steps that a trial has made

    def told(self, entry: Entry) -> FrozenTrial:
        """The trial as Optuna has it; one that was stopped is complete with what it would have come to.

        As long as no trial has ended that was evaluated where this one stopped, it is pruned.
        """
        trial = optuna_trial(entry, self._plan)
        if entry.state not in STOPPED:
            return trial
        values = self.expected(entry)
        if values is not None:
            trial.state, trial.values = TrialState.COMPLETE, list(values)
            for name, typical in self._typical_excess().items():
                trial.set_constraint(name, typical)
        elif trial.intermediate_values:
            trial.values = [trial.intermediate_values[max(trial.intermediate_values)]]  # as Optuna's tell does
        return trial

    def expected(self, entry: Entry) -> tuple[float, ...] | None:
        """The values of a trial's last evaluation, plus what others gained from there to their end (the median).

        None where it has no finite values, or no other was evaluated at the same share of its steps.
        """
        step = max(entry.reports, default=None)
        if step is None:
            return None
        values = results.values(entry.reports[step], self._plan.objective)
        gains = self._gain(Fraction(step, max_steps(entry, self._plan)))
        if values is None or gains is None:
            return None
        return tuple(value + gain for value, gain in zip(values, gains, strict=True))

    def _gain(self, share: Fraction) -> tuple[float, ...] | None:
        if share not in self._gains:
            found = [gain for entry in self._complete if (gain := self._gain_of(entry, share)) is not None]
            columns = zip(*found, strict=True)
            self._gains[share] = tuple(statistics.median(column) for column in columns) if found else None
        return self._gains[share]

    def _gain_of(self, entry: Entry, share: Fraction) -> list[float] | None:
        step = share * max_steps(entry, self._plan)
        then = results.values(entry.reports.get(int(step), {}), self._plan.objective) if step.denominator == 1 else None
        end = results.values(entry.metrics, self._plan.objective)
        if then is None or end is None:
            return None
        return [after - before for before, after in zip(then, end, strict=True)]

    def _typical_excess(self) -> dict[str, float]:
        """Constrained value → by how much it lies above its limit in the median trial: GP wants one of every trial."""
        found = [excess(self._plan, entry.cost) for entry in self._complete]
        names = self._plan.settings.constraints
        above = {name: [one[name] for one in found if name in one] for name in names}
        return {name: statistics.median(values) for name, values in above.items() if values}
