"""Successive halving with promotion (Li et al. 2020): who goes on at a rung, and who has come to deserve it since.

Neither Ray nor files: scheduler, searcher and simulations ask the same rule. Objectives, one or two, are maximised.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from speaq.space import SearchConfig
from speaq.study.results import Values, fronts

Rung = dict[str, Values]  # trial → what it was worth when it came there
PAUSING = ("asha", "hyperband")  # schedulers that may promote later what they pass over


class Rungs:
    """What trials were worth when they came to the rungs of their bracket, which is `int(trial) % brackets`.

    A rung takes a trial's first finite values at or beyond it; one at `max_steps` is at its end, and at no rung. What
    it answers does not depend on the order in which trials came, but for trials that were judged in between.
    """

    def __init__(self, max_steps: float, first: float, reduction_factor: float, brackets: int = 1) -> None:
        """
        Args:
            max_steps: of a trial that is not stopped.
            first: step of the lowest rung, below `max_steps`; the others are `reduction_factor` times higher each.
            brackets: each begins one rung higher than the one before.
        """
        assert 0 < first < max_steps
        assert reduction_factor > 1
        steps = [first]
        while (step := first * reduction_factor ** len(steps)) < max_steps:
            steps.append(step)
        assert 1 <= brackets <= len(steps)
        self._max_steps, self._factor = max_steps, reduction_factor
        self._brackets: list[dict[float, Rung]] = [{step: {} for step in steps[n:]} for n in range(brackets)]
        self._exact = False

    @classmethod
    def at(cls, steps: Sequence[float], max_steps: float, reduction_factor: float) -> Rungs:
        """Rungs at steps that are named, rising, below `max_steps`: each takes values of its very step alone.

        What is beyond a rung of a ladder can be of another kind of training.
        """
        made = cls(max_steps, steps[0], reduction_factor)
        made._brackets, made._exact = [{step: {} for step in steps}], True
        return made

    def judge(self, trial: str, step: float, values: Values, *, protected: bool = False) -> bool:
        """Takes values into account and says whether the trial goes on, or is paused.

        One that comes to no new rung goes on, and so does one whose values are not all finite: they count nowhere.

        Args:
            step: in shares of `max_steps` that the trial has made of its own steps.
            protected: counts at rungs and is never paused.
        """
        rung = self.add(trial, step, values)
        return rung is None or protected or trial in self._best(rung)

    def add(self, trial: str, step: float, values: Values) -> Rung | None:
        """Takes values into account; returns the rung to which the trial has come with them, None for no new one."""
        bracket = self._bracket(trial)
        there = max((at for at in bracket if at <= step), default=None)
        if there is None or step >= self._max_steps or not all(map(math.isfinite, values)):
            return None
        if self._exact and step != there:
            return None
        if any(trial in rung for at, rung in bracket.items() if at >= there):
            return None
        bracket[there][trial] = tuple(values)
        return bracket[there]

    def promotable(self, paused: Collection[str]) -> list[str]:
        """Those of the paused trials that go on by now: of the highest rung first, and there the best first."""
        found: list[tuple[float, int, int]] = []  # rung, place at it, trial
        names = {int(trial): trial for trial in paused}
        for bracket in self._brackets:
            beyond: set[str] = set()
            for at, rung in reversed(bracket.items()):
                if any(trial in rung and trial not in beyond for trial in paused):
                    best = enumerate(self._best(rung))
                    found += [(-at, place, int(t)) for place, t in best if t in paused and t not in beyond]
                beyond |= rung.keys()
        return [names[number] for _, _, number in sorted(found)]

    def values(self) -> list[Mapping[float, Mapping[str, Values]]]:
        """What is known: bracket → step of a rung → trial → its values there."""
        return [dict(bracket) for bracket in self._brackets]

    def _bracket(self, trial: str) -> dict[float, Rung]:
        return self._brackets[int(trial) % len(self._brackets)]

    def _best(self, rung: Rung) -> list[str]:
        """The trials of a rung that go on: its share, at least one, and all that no other one beats."""
        names = sorted(rung, key=int)
        share = max(1, math.floor(len(names) / self._factor))
        return [names[at] for at in best_first([rung[name] for name in names], share)]


def rungs_of(settings: SearchConfig, max_steps: int, eval_every: int) -> Rungs | None:
    """The rungs of asha or hyperband; None for another scheduler, or without a rung below `max_steps`.

    Those of a ladder are steps of its axis.
    """
    if settings.scheduler not in PAUSING or not (steps := settings.rungs(max_steps, eval_every)):
        return None
    if (ladder := settings.on_ladder(max_steps, eval_every)) is not None:
        return Rungs.at(steps, ladder.length, settings.reduction_factor)
    brackets = (settings.brackets or len(steps)) if settings.scheduler == "hyperband" else 1
    return Rungs(max_steps, steps[0], settings.reduction_factor, brackets)


def ranked(rung: Mapping[str, Values]) -> list[str]:
    """All trials of a rung, best first; ties go to the earlier trial."""
    names = sorted(rung, key=int)
    return [names[place] for place in best_first([rung[name] for name in names])]


def best_first(points: Sequence[Values], number: int | None = None) -> list[int]:
    """The best `number` of points (None: all), best first, and of the first front all: their places in `points`.

    One objective ranks by its value. Two: front after front of non-dominated sorting, in a front by how much each
    point adds to the volume above 0 that those before it dominate (so two equal points are not both first). Ties go to
    the point that comes first.
    """
    found: list[int] = []
    wanted = len(points) if number is None else number
    for front in fronts(points):
        left = len(front) if not found else wanted - len(found)
        if left <= 0:
            break
        found += [front[at] for at in _by_volume([points[place] for place in front], left)]
    return found


def _by_volume(front: Sequence[Values], number: int) -> list[int]:
    """Places in a front, in falling order of the first objective, of the points that add most to the volume in turn."""
    first = np.maximum([values[0] for values in front], 0.0)
    second = np.maximum([values[-1] for values in front], 0.0)
    below_first, below_second = np.zeros(len(front)), np.zeros(len(front))  # what those before dominate already
    found: list[int] = []
    for _ in range(min(number, len(front))):
        gains = (first - below_first) * (second - below_second)
        gains[found] = -1.0
        best = int(np.argmax(gains))
        found.append(best)
        below_first[:best] = np.maximum(below_first[:best], first[best])
        below_second[best + 1 :] = np.maximum(below_second[best + 1 :], second[best])
    return found
