"""A search on the table: Ray Tune's loop in virtual time, around the product's searcher and scheduler or others'.

One unit of time is the way from one evaluation to the next; a full training is as many as the table has evaluations.
With several workers, the one whose evaluation is due first reports first; ties go to the trial that began first.
A search on a ladder trains from stored features first; an evaluation of those is cheaper, and takes less time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from speaq.space.parameters import Plain
from tests.bench.table.table import Curves, Table

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Job:
    """A trial to be trained, or trained on."""

    key: str  # of this piece of work
    trial: str
    values: Mapping[str, Plain]


class Player(Protocol):
    """What decides on trials."""

    def next(self) -> Job | None:
        """The next piece of work; None where there is none now."""

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        """Hears of an evaluation, counted from 1, before the last one. Says whether the trial goes on."""

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        """Hears that the trial has come to its end, with the metrics of the checkpoint that it keeps."""


@dataclass(frozen=True)
class Way:
    """What a trial trains that is never stopped."""

    full: int  # evaluations of full training, behind those from features; 0: the search looks at features alone
    features: int = 0  # evaluations from stored features
    cost: float = 1.0  # of an evaluation from features, where one of full training costs 1

    @property
    def length(self) -> int:
        """Evaluations in all."""
        return self.features + self.full

    def price(self, evaluation: int) -> float:
        """What it costs to come to an evaluation, counted from 1, from the one before."""
        return self.cost if evaluation <= self.features else 1.0


@dataclass(frozen=True)
class View:
    """The curves of one seed as a search sees them, trial for trial along its way."""

    table: Table
    way: Way
    seed: int
    kept_by: str  # metric by which a trial's best checkpoint is chosen

    def metrics(self, setting: int, evaluation: int) -> Metrics:
        """At an evaluation, counted from 1; at the last one those of the checkpoint that the trial keeps."""
        at = evaluation - 1 if evaluation <= self.way.features else evaluation - 1 - self.way.features
        if evaluation == self.way.length:
            at = int(np.nanargmax(self._curves(setting, evaluation)[self.kept_by]))
        return {name: float(curve[at]) for name, curve in self._curves(setting, evaluation).items()}

    def _curves(self, setting: int, evaluation: int) -> Curves:
        found = self.table.settings[setting]
        return found.from_features(self.seed) if evaluation <= self.way.features else found.curves[self.seed]


@dataclass
class Known:
    """What a search knows of a trial."""

    setting: int  # its place in the table
    evaluations: int = 0  # that it has come to


@dataclass
class Game:
    """A search as it was played."""

    trials: dict[str, Known] = field(default_factory=dict)
    history: list[tuple[float, str, int]] = field(default_factory=list)  # cost so far, trial, evaluations, in order

    def at(self, cost: float) -> list[tuple[int, int]]:
        """(setting, evaluations) of each trial when the search had cost as much as `cost` evaluations in full."""
        last = {trial: evaluations for spent, trial, evaluations in self.history if spent <= cost}
        return [(self.trials[trial].setting, evaluations) for trial, evaluations in last.items()]


def play(
    player: Player, view: View, nearest: Callable[[Mapping[str, Plain]], int], *, workers: int = 1, cost: float = 1e9
) -> Game:
    """Plays a search to its end, or until it has cost as much as `cost` evaluations of full training.

    Args:
        nearest: the place in the table of the setting as which values train.
    """
    game = Game()
    due: list[tuple[float, int, Job]] = []  # time, order, job
    clock, spent, order = 0.0, 0.0, 0
    while spent < cost:
        while len(due) < workers and (job := player.next()) is not None:
            known = game.trials.setdefault(job.trial, Known(nearest(job.values)))
            order += 1
            heapq.heappush(due, (clock + view.way.price(known.evaluations + 1), order, job))
        if not due:
            break
        clock, place, job = heapq.heappop(due)
        known = game.trials[job.trial]
        known.evaluations += 1
        spent += view.way.price(known.evaluations)
        game.history.append((spent, job.trial, known.evaluations))
        metrics = view.metrics(known.setting, known.evaluations)
        if known.evaluations == view.way.length:
            player.finished(job, known.evaluations, metrics)
        elif player.reported(job, known.evaluations, metrics):
            heapq.heappush(due, (clock + view.way.price(known.evaluations + 1), place, job))
    return game


def incumbent(found: Sequence[tuple[int, int]], value: Callable[[int, int], float]) -> int | None:
    """The setting that a user would take: the best among those that came farthest; None where there is none.

    Args:
        found: (setting, evaluations) of each trial.
        value: of a setting at an evaluation, as the search saw it.
    """
    if not found:
        return None
    farthest = max(evaluations for _, evaluations in found)
    return max((s for s, evaluations in found if evaluations == farthest), key=lambda setting: value(setting, farthest))
