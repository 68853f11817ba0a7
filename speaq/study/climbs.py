"""What a search with a ladder tells of its rungs: what each has cost, and whether it was right about the top."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from speaq.space.ladder import Ladder, Place
from speaq.study import results
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.ranks import Tau, tau

FEWEST = 5  # trials: ranks of fewer say nothing


@dataclass(frozen=True)
class Climbed:
    """A rung, and what became of the trials that came to it."""

    place: Place
    trials: int  # that came to it
    seconds: float  # of all trials on their way to it from the rung below; on a GPU that they shared, their share
    compared: int  # trials that have values here and at the top
    tau: Tau | None  # of their values here with those at the top; None: too few
    went_on: int  # trials that were found worth it here, no references, and have ended
    right: int  # of them: trials in the better half of those at the top


def climbed(board: Board, ladder: Ladder) -> list[Climbed]:
    """The rungs of a search's ladder, the lowest first. Raises ConfigError where trials' protocols differ."""
    ranked = results.ranked(board.entries, board.plan.objective)
    better = {entry.id for entry in ranked[: math.ceil(len(ranked) / 2)]}
    seconds = {e.id: [e.gpu_share * each for each in _seconds(e, ladder)] for e in board.entries}
    found = []
    for number, place in enumerate(ladder.places):
        there = [entry for entry in board.entries if place.at in entry.reports]
        on = [entry for entry in there if entry.label is None and entry.ended and max(entry.reports) > place.at]
        compared, agreement = _agreement(board, place)
        found.append(
            Climbed(
                place=place,
                trials=len(there),
                seconds=sum(each[number] for each in seconds.values()),
                compared=compared,
                tau=agreement,
                went_on=len(on),
                right=sum(entry.id in better for entry in on),
            )
        )
    return found


def in_trainings(board: Board, ladder: Ladder) -> float | None:
    """What all trials have cost, in full trainings of the published setting; None where that has not finished."""
    published = next((entry for entry in board.finished if entry.label == "published"), None)
    if published is None:
        return None
    of_features = published.seconds_at.get(ladder.from_features, 0.0) if ladder.from_features else 0.0
    one = (_spent(published) - of_features) * published.gpu_share
    return sum(_spent(entry) * entry.gpu_share for entry in board.entries) / one if one > 0 else None


def _spent(entry: Entry) -> float:
    """Seconds that a trial has cost. Those of its evaluations count its start too, those of its end do not."""
    return max([entry.seconds, *entry.seconds_at.values()])


def _seconds(entry: Entry, ladder: Ladder) -> list[float]:
    """What a trial has cost on its way to each rung from the one below; together all that it has cost."""
    spent = _spent(entry)
    ends = [entry.seconds_at.get(place.at, spent) for place in ladder.places[:-1]]
    return [float(seconds) for seconds in np.diff([0.0, *ends, spent])]


def _agreement(board: Board, place: Place) -> tuple[int, Tau | None]:
    """How many trials have values at a rung and at the top, and how far these agree on their ranks.

    At the top as well those of the decoding that the config says, on all images.
    """
    names = board.plan.objective
    pairs = [
        (board.score(entry.reports[place.at]), board.score(entry.reports.get(entry.best_step or 0, entry.metrics)))
        for entry in board.finished
        if results.values(entry.reports.get(place.at, {}), names) is not None
    ]
    if len(pairs) < FEWEST:
        return len(pairs), None
    below, top = np.array(pairs).T
    return len(pairs), tau(below, top)
