"""The median stopping rule (Golovin et al. 2017), for one objective or two. Neither Ray nor files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


class Medians:
    """What trials were worth at the steps at which they were evaluated. Objectives are maximised."""

    def __init__(self, grace_steps: float, min_trials: int) -> None:
        """
        Args:
            grace_steps: no trial is stopped before, and what it was worth before does not count.
            min_trials: others that must have come as far before one is stopped.
        """
        self._grace, self._min_trials = grace_steps, min_trials
        self._seen: dict[str, list[tuple[float, Sequence[float]]]] = {}

    def judge(self, trial: str, step: float, values: Sequence[float]) -> bool:
        """Takes finite values into account and says whether the trial goes on.

        It does not where, in every objective, its best value is below the median of the others' means up to `step`.
        """
        self._seen.setdefault(trial, []).append((step, values))
        if step < self._grace:
            return True
        others = [seen for name, seen in self._seen.items() if name != trial and seen[-1][0] >= step]
        scopes = [[v for at, v in seen if self._grace <= at <= step] for seen in others]
        means = [[statistics.fmean(column) for column in zip(*scope, strict=True)] for scope in scopes if scope]
        if len(means) < self._min_trials:
            return True
        medians = [statistics.median(column) for column in zip(*means, strict=True)]
        best = [max(column) for column in zip(*(v for _, v in self._seen[trial]), strict=True)]
        return any(mine >= theirs for mine, theirs in zip(best, medians, strict=True))
