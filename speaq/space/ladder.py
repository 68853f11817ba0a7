"""A ladder of fidelities: the rungs on which trials are judged, from cheap ones on stored features to full training.

A trial of a ladder trains twice, one after the other: from features, then in full. Its steps are counted on one axis:
those of full training behind those from features. On it a rung has one place, and a higher rung is a dearer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import Field

from speaq.config import ConfigError, Section

Kind = Literal["features", "full"]
Climb = Literal["again", "go on"]


class Rung(Section):
    """A rung as a space names it."""

    features: bool = Field(description="trained from stored features, backbone and encoder frozen; false: in full")
    share: float = Field(gt=0, le=1, description="of training.max_steps, rounded to an evaluation")


@dataclass(frozen=True)
class Place:
    """A rung on the axis of a search."""

    kind: Kind
    step: int  # of its own training
    at: int  # step on the axis


@dataclass(frozen=True)
class Ladder:
    """The rungs of a search, from the lowest to the top, which is the end of full training."""

    places: tuple[Place, ...]
    max_steps: int  # of each of the two trainings

    @property
    def from_features(self) -> int:
        """Steps that a trial trains from features before it begins in full; 0 where no rung is of features."""
        return max((place.step for place in self.places if place.kind == "features"), default=0)

    @property
    def length(self) -> int:
        """Steps on the axis of a trial that comes to the top."""
        return self.places[-1].at

    @property
    def judged(self) -> list[int]:
        """Steps on the axis at which some trials are paused: all rungs but the top."""
        return [place.at for place in self.places[:-1]]

    def kind(self, at: int) -> Kind:
        """How a trial trains that comes to a step of the axis."""
        return "features" if at <= self.from_features and self.from_features else "full"

    def text(self, at: int) -> str:
        """`features 120/360`: a step of the axis as one of the training that it belongs to."""
        if self.kind(at) == "features":
            return f"features {at}/{self.from_features}"
        return f"full {at - self.from_features}/{self.max_steps}"

    def reached(self, at: int) -> int:
        """How many rungs a trial has come to with a step of the axis."""
        return sum(place.at <= at for place in self.places)


def broken_rungs(rungs: Sequence[Rung]) -> Iterator[str]:
    """Why rungs cannot be climbed: they come from features first, longer and longer, to the end of training."""
    if len(rungs) < 2:
        yield "ladder: has two rungs or more"
    for below, above in pairwise(rungs):
        if above.features and not below.features:
            yield "ladder: rungs from features come before those of full training, which costs more"
        if above.features == below.features and above.share <= below.share:
            yield f"ladder: share {above.share:g} comes after {below.share:g}: from rung to rung it rises"
    if rungs[-1].features or rungs[-1].share < 1:
        yield (
            "ladder: the top rung is {features: false, share: 1}: what a search finds is trained in full (one that "
            "looks at features alone has training.features in its config, and no ladder)"
        )


def on_axis(rungs: Sequence[Rung], max_steps: int, eval_every: int) -> Ladder:
    """The ladder where trials are evaluated every so many steps. Raises ConfigError where two rungs meet."""
    evaluations = [max(1, round(rung.share * max_steps / eval_every)) for rung in rungs]
    steps = [  # the end of training is evaluated as well
        max_steps if rung.share == 1 else min(number * eval_every, max_steps)
        for rung, number in zip(rungs, evaluations, strict=True)
    ]
    first = max((step for rung, step in zip(rungs, steps, strict=True) if rung.features), default=0)
    places = tuple(
        Place("features", step, step) if rung.features else Place("full", step, first + step)
        for rung, step in zip(rungs, steps, strict=True)
    )
    for below, above in pairwise(places):
        if above.at <= below.at:
            raise ConfigError(
                f"search.ladder: two rungs lie at step {above.step} of {max_steps}, since trials are evaluated every "
                f"{eval_every} (training.eval_every); give shares that are further apart"
            )
    return Ladder(places, max_steps)
