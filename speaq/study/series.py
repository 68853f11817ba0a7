"""A board's trials as series of numbers: what every chart of a search is drawn from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from speaq.study import results
from speaq.study.board import Board
from speaq.study.ledger import Entry


@dataclass(frozen=True, eq=False)
class BoardSeries:
    """A board's trials as series of numbers."""

    board: Board

    @property
    def ranked_by(self) -> str:
        """What trials are ranked by, in words."""
        return results.metric_name(self.board.plan.objective)

    @cached_property
    def marked(self) -> dict[str, Entry]:
        """Finished trials that figures show by name: the references, and the best one where it is none of them."""
        found = {entry.label: entry for entry in self.board.finished if entry.label}
        best = self.board.best
        return found if best is None or best.label else {**found, f"best ({best.id})": best}

    @property
    def comparable(self) -> Sequence[Entry]:
        """Trials whose metrics may be drawn beside each other: finished ones alone where they are decoded, or climb."""
        board = self.board
        return board.finished if board.plan.settings.decoding or board.ladder is not None else board.entries

    @property
    def plane(self) -> tuple[str, str]:
        """The two metrics over which trials are drawn."""
        return results.plane(self.board.plan.objective, self.board.plan.base)

    @cached_property
    def decoded(self) -> dict[str, list[tuple[float, float]]]:
        """The best trials by name, each a curve in the plane: its front of decodings, judged on the same images.

        The best are those that are marked, and those that no other one beats. Empty where trials were not decoded.
        """
        known = {entry.id for entry in self.marked.values()}
        front = {f"trial {entry.id}": entry for entry in self.board.front(self.plane) if entry.id not in known}
        found = {name: entry.decoding for name, entry in {**front, **self.marked}.items()}
        x, y = self.plane
        return {
            name: [(point.get(x) or 0.0, point.get(y) or 0.0) for point in decoding.curve]
            for name, decoding in found.items()
            if decoding is not None
        }

    @cached_property
    def best_so_far(self) -> list[float]:
        """The best finished trial's score after each trial, in the order of asking; 0 before the first."""
        scores = (self.board.score(e.metrics) if e.state == "finished" else 0.0 for e in self.board.entries)
        return list(itertools.accumulate(scores, max))

    def curve(self, entry: Entry) -> tuple[list[int], list[float]]:
        """The steps at which a trial was evaluated, and its scores there.

        On a ladder a nan parts its two trainings, whose scores make no one line.
        """
        steps, ladder = sorted(entry.reports), self.board.ladder
        scores = [self.board.score(entry.reports[step]) for step in steps]
        kinds = [None if ladder is None else ladder.kind(step) for step in steps]
        if kinds and kinds[0] != kinds[-1]:
            place = kinds.index(kinds[-1])
            steps.insert(place, steps[place - 1])
            scores.insert(place, math.nan)
        return steps, scores

    @property
    def step_name(self) -> str:
        """What steps are of."""
        ladder = self.board.ladder
        if ladder is None or not ladder.from_features:
            return "step"
        return f"step (up to {ladder.from_features} from features, in full behind them)"

    @cached_property
    def inside(self) -> list[Entry]:
        """Finished trials with parameters of the space."""
        return [entry for entry in self.board.finished if entry.values is not None]
