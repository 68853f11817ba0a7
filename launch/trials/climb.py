"""How a trial climbs a ladder: it trains from features in a run folder of its own, then in full in the trial's folder.

Within one kind of rung it goes on from its checkpoint, as any trial that was paused. What has come to a checkpoint of
full training needs neither the features nor the run from them any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speaq import config as configs
from speaq.config import Config
from speaq.config.before_encoder import from_features
from speaq.runs import files
from speaq.study.plan import Plan, ladder_of
from speaq.study.snapshot import FEATURES
from speaq.training import folder as run_folder
from speaq.training.origins import without_start


@dataclass(frozen=True)
class Climb:
    """What the trials of a search with a ladder have in common."""

    features: str  # folder of stored features
    steps: int  # that a trial trains from them
    goes_on: bool  # full training begins from the weights that came of it


@dataclass(frozen=True)
class Training:
    """One of the trainings of a trial."""

    config: Config
    folder: Path
    first: int = 0  # steps on the search's axis before its own
    last: int | None = None  # step of its own at which it ends; None: max_steps
    before: float = 0.0  # seconds of the training before it


def climb_of(plan: Plan) -> Climb | None:
    """What the trials of a plan have in common; None where they train in full alone."""
    ladder, settings = ladder_of(plan), plan.settings
    if ladder is None or settings.features is None:
        return None
    return Climb(settings.features, ladder.from_features, settings.climb == "go on")


def trainings(climb: Climb | None, config: Config, folder: Path) -> Iterator[Training]:
    """What a trial has yet to train, in this order; each is made when the one before it has ended.

    Args:
        config: of the trial, which trains in full.
        folder: of the trial.
    """
    if climb is None:
        yield Training(config, folder)
        return
    below = folder / FEATURES
    ended = (files.read(below / files.RESULT) or {}).get("step", 0) >= climb.steps
    if not ended and not run_folder.has_checkpoint(folder):
        last = climb.steps if climb.steps < config.training.max_steps else None
        yield Training(from_features(config, climb.features), below, last=last)
    if climb.goes_on:  # said of a run that goes on too: it is resumed with its own start alone, which may be gone
        weights = below / "checkpoints" / run_folder.LAST
        config = configs.apply(without_start(config), {"training.init_from": str(weights)}, "search.climb")
    result = files.read(below / files.RESULT) or {}
    yield Training(config, folder, climb.steps, before=float(result.get("seconds", 0.0)))
