"""What the figures of a search show: the same numbers on the page, drawn by plotly, and in PNG files, by matplotlib."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from speaq.charts.chart import Bars
from speaq.study import charts
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.series import BoardSeries

from ..search.optuna_study import quiet, rebuild

MIN_TRIALS = 4  # finished ones; of fewer, no part can be the better one
MIN_TOP = 5  # trials in the better part, as the documentation of PED-ANOVA asks for; half of them where they are few
RESAMPLES = 60  # of the trials, for the intervals of an importance
SEED = 0
CONTOURED = 3  # parameters, each with each other

Target = Callable[[FrozenTrial], float]


@dataclass(frozen=True, eq=False)
class Series(BoardSeries):
    """A board's trials as series of numbers, and as the study that Optuna's own figures are drawn from."""

    @cached_property
    def study(self) -> optuna.Study:
        """All trials."""
        return rebuild(self.board.entries, self.board.plan)

    @cached_property
    def drawn(self) -> list[str]:
        """The parameters that a finished trial has, in the order of the space."""
        seen = {key for entry in self.board.finished for key in entry.values or {}}
        return [key for key in self.board.plan.space.parameters if key in seen]

    @property
    def too_few(self) -> str | None:
        """Why nothing is said of the parameters' importance, where there are below `MIN_TRIALS` such trials."""
        few = f"Needs {MIN_TRIALS} finished trials of the search space; there are {len(self.inside)}."
        return few if len(self.inside) < MIN_TRIALS else None

    @cached_property
    def study_inside(self) -> optuna.Study:
        """The trials of `inside`."""
        return rebuild(self.inside, self.board.plan)

    def score_of(self, entries: Sequence[Entry], sign: int = 1) -> Target:
        """What the trials of a study of `entries` are ranked by, or its negative."""
        return lambda trial: sign * self.board.score(entries[trial.number].metrics)

    @property
    def evaluator(self) -> PedAnovaImportanceEvaluator:
        """PED-ANOVA, with enough trials in the better part."""
        trials = len(self.inside)
        return PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(MIN_TOP, trials // 2) / trials))

    def shares(self, numbers: Sequence[float]) -> dict[str, float]:
        """Parameter → how much it decides whether a trial is among those with the larger numbers, by PED-ANOVA.

        Args:
            numbers: one for each trial of `inside`.
        """
        return self._shares(self.study_inside, numbers)

    def _shares(self, study: optuna.Study, numbers: Sequence[float]) -> dict[str, float]:
        with quiet():  # PED-ANOVA looks for the smallest
            return get_param_importances(study, evaluator=self.evaluator, target=lambda trial: -numbers[trial.number])

    def intervals(self, numbers: Sequence[float]) -> dict[str, tuple[float, float]]:
        """Parameter → 95 % interval of its share, trials drawn with replacement."""
        found: dict[str, list[float]] = {}
        for drawn, study in self._resampled:
            for key, share in self._shares(study, [numbers[place] for place in drawn]).items():
                found.setdefault(key, []).append(share)
        ends = {key: np.quantile(shares, (0.025, 0.975)) for key, shares in found.items()}
        return {key: (float(low), float(high)) for key, (low, high) in ends.items()}

    @cached_property
    def _resampled(self) -> list[tuple[list[int], optuna.Study]]:
        """Trials of `inside` drawn with replacement: their places, and a study of them."""
        random = np.random.default_rng(SEED)
        trials = self.study_inside.get_trials(deepcopy=False)
        found = []
        with quiet():
            for _ in range(RESAMPLES):
                drawn = random.integers(len(trials), size=len(trials)).tolist()
                study = optuna.create_study(directions=self.study_inside.directions)
                study.add_trials([trials[place] for place in drawn])
                found.append((drawn, study))
        return found

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The parameters that decide most, two at a time, which were drawn together and in different values."""
        found = self.shares([self.board.score(entry.metrics) for entry in self.inside])
        most = sorted(found, key=lambda key: -found[key])[:CONTOURED]

        def together(one: str, other: str) -> bool:
            both = [e.values for e in self.inside if e.values and one in e.values and other in e.values]
            return all(len({str(values[key]) for values in both}) > 1 for key in (one, other))

        return [pair for pair in itertools.combinations(most, 2) if together(*pair)]


def importance(board: Board) -> Bars | str:
    """How much each parameter decides by what trials are ranked; a line that says why, where nothing can be said."""
    series = Series(board)
    if (few := series.too_few) is not None:
        return few
    numbers = [board.score(entry.metrics) for entry in series.inside]
    return charts.importance(series, series.shares(numbers), series.intervals(numbers))
