"""A search on the table: Ray Tune's loop in virtual time, around the product's searcher and scheduler or others'.

One unit of time is the way from one evaluation to the next; a full training is as many as the table has evaluations.
With several workers, the one whose evaluation is due first reports first; ties go to the trial that began first.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from speaq.space.parameters import Plain
from tests.bench.table.table import Nearest, Table

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


@dataclass
class Known:
    """What a search knows of a trial."""

    setting: int  # its place in the table
    evaluations: int = 0  # that it has come to


@dataclass
class Game:
    """A search as it was played."""

    length: int  # evaluations of a full training
    trials: dict[str, Known] = field(default_factory=dict)
    history: list[tuple[int, str, int]] = field(default_factory=list)  # cost so far, trial, evaluations, in order

    def at(self, cost: float) -> list[tuple[int, int]]:
        """(setting, evaluations) of each trial when the search had cost `cost` evaluations."""
        last = {trial: evaluations for spent, trial, evaluations in self.history if spent <= cost}
        return [(self.trials[trial].setting, evaluations) for trial, evaluations in last.items()]


def play(
    player: Player, table: Table, nearest: Nearest, *, seed: int, kept_by: str, workers: int = 1, cost: int = 10**9
) -> Game:
    """Plays a search to its end, or until it has cost `cost` evaluations.

    Args:
        seed: of the trainings whose curves the search sees.
        kept_by: metric by which a trial's best checkpoint is chosen.
    """
    length = len(next(iter(table.settings[0].curves[seed].values())))
    game = Game(length)
    due: list[tuple[int, int, Job]] = []  # time, order, job
    clock, order = 0, 0
    while len(game.history) < cost:
        while len(due) < workers and (job := player.next()) is not None:
            game.trials.setdefault(job.trial, Known(nearest(job.values)))
            order += 1
            heapq.heappush(due, (clock + 1, order, job))
        if not due:
            break
        clock, place, job = heapq.heappop(due)
        known = game.trials[job.trial]
        known.evaluations += 1
        game.history.append((len(game.history) + 1, job.trial, known.evaluations))
        curves = table.settings[known.setting].curves[seed]
        if known.evaluations == length:
            player.finished(job, length, table.settings[known.setting].kept(seed, kept_by))
        elif player.reported(job, known.evaluations, {n: float(c[known.evaluations - 1]) for n, c in curves.items()}):
            heapq.heappush(due, (clock + 1, place, job))
    return game


def incumbent(found: Sequence[tuple[int, int]], finals: Sequence[float], at: Sequence[Sequence[float]]) -> int | None:
    """The setting that a user would take: the best among those that came farthest; None where there is none.

    Args:
        found: (setting, evaluations) of each trial.
        finals: [settings] value of a full training, as the search saw it.
        at: [settings, evaluations] value at each evaluation, as the search saw it.
    """
    if not found:
        return None
    farthest = max(evaluations for _, evaluations in found)
    there = [setting for setting, evaluations in found if evaluations == farthest]
    full = farthest == len(at[0])
    return max(there, key=lambda setting: finals[setting] if full else at[setting][farthest - 1])
