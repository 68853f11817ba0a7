"""The race of `speaq confirm`: settings get one more training seed each round, until they can be told apart.

A setting leaves once the interval of its difference to the leader (paired by image, see `speaq.evaluation.bootstrap`)
lies below zero; that takes two seeds, as one says nothing of the noise between seeds. Each interval is at its own
level: the race looks several times, so that a setting that leaves has been judged at somewhat more than 5 % of error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from speaq.evaluation.bootstrap import Interval, Measured, difference_over_seeds, mean_over_seeds

MIN_SEEDS = 2  # before anyone leaves


@dataclass
class Setting:
    """A trial of the search in the race."""

    trial: str
    label: str | None
    search_value: float | None  # that it was chosen by; None: the published setting, which the search left out
    runs: dict[int, Measured] = field(default_factory=dict)  # seed → run
    same_images: dict[int, float] = field(default_factory=dict)  # seed → value on the images of the search
    left_after: int | None = None  # the seed after which it was told apart from the leader
    failure: str | None = None

    @property
    def racing(self) -> bool:
        """Whether it gets another seed: it has not been told apart from the leader, and has not failed."""
        return self.left_after is None and self.failure is None

    @property
    def measured(self) -> list[Measured]:
        """Its runs in the order of their seeds."""
        return list(self.runs.values())

    @property
    def mean(self) -> Interval:
        """The objective's mean over seeds and images in [0, 1], with its 95 % interval; needs a run."""
        return mean_over_seeds(self.measured)


def leader(settings: Sequence[Setting]) -> Setting | None:
    """The best mean among those still racing (ties: the better one of the search); None where none is left."""
    racing = [s for s in settings if s.racing and s.runs]
    return max(racing, key=lambda s: s.mean.value, default=None)


def race(settings: Sequence[Setting], seeds: Sequence[int], train: Callable[[Sequence[Setting], int], None]) -> None:
    """Calls `train` in rounds of one seed; ends when one setting is left.

    Settings are judged between two rounds alone, so that it does not matter in which order a round's runs end.

    Args:
        train: adds a run to each of the settings that it gets, or notes the failure; all at once, as it likes.
    """
    for seed in seeds:
        racing = [s for s in settings if s.racing]
        if not racing or (len(racing) == 1 < len(settings)):
            return
        train(racing, seed)
        first = leader(settings)
        for setting in settings:
            if first is not None and setting.racing and setting is not first and _is_behind(setting, first):
                setting.left_after = seed


def _is_behind(setting: Setting, first: Setting) -> bool:
    if min(len(setting.runs), len(first.runs)) < MIN_SEEDS:
        return False
    return difference_over_seeds(setting.measured, first.measured).high < 0
