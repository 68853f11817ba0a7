"""Population-based training (Jaderberg et al. 2017) of loss weights, on the ledger: no trial's config ever changes.

Ray's own scheduler for it takes no searcher and rewrites running trials. Here a trial that is among the worst at its
rung is stopped, and the next trial is a child of one of the best there: it starts from its parent's checkpoint of that
step, with the parent's config and one more change in `losses.schedule`. So every trial is a config that trains to the
same weights from the start, and a search resumes like any other.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.space import LOSSES, Space
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain
from speaq.study import results
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.training import folder as run_folder

from ..store.remote import Store, below
from .rungs import ranked

FACTORS = (0.8, 1.2)
RESAMPLE = 0.25  # probability of a new value instead of a neighbouring one; both as in the paper


@dataclass(frozen=True)
class Child:
    """Where a new trial starts and what it changes there."""

    parent: Entry
    step: int
    instead_of: str  # id of the trial whose place it takes
    schedule: list[dict[str, float]]


def rung_folder(trial: Path, step: int) -> Path:
    """Where a trial's checkpoints of a rung lie."""
    return trial / "checkpoints" / f"step-{step:08d}"


def keep(trial: Path, step: int, url: str | None = None) -> None:
    """Keeps the checkpoints that the trial has just written: links, which take no room while the trial has them.

    Of a search at a URL, copies that the store makes: the trial may have written on another node.

    Args:
        url: of the trial, where the search is at one.
    """
    if url is not None:
        store = Store(url)
        for name in (run_folder.BEST, run_folder.LAST):
            there, kept = store.stamp(f"checkpoints/{name}", _kept(step, name))
            if there is not None and kept is None:
                store.copy(f"checkpoints/{name}", _kept(step, name))
        return
    folder = rung_folder(trial, step)
    folder.mkdir(exist_ok=True)
    for name in (run_folder.BEST, run_folder.LAST):  # in this order, see `is_kept`
        source, target = trial / "checkpoints" / name, folder / name
        if source.exists() and not target.exists():
            try:
                os.link(source, target)
            except OSError:  # a file system without links
                run_folder.copy(source, target)


def _kept(step: int, name: str) -> str:
    return f"{rung_folder(Path(), step).as_posix()}/{name}"


def is_kept(trial: Path, step: int, url: str | None = None) -> bool:
    """Whether a child could start from the trial's checkpoint of a rung. `url` as for `keep`."""
    if url is not None:
        return Store(url).stamp(_kept(step, run_folder.LAST)) != [None]
    return (rung_folder(trial, step) / run_folder.LAST).exists()


def adopt(parent: Path, step: int, trial: Path, url: str | None = None) -> None:
    """Gives a new trial its parent's checkpoints; one that has its own already goes on from there.

    Args:
        url: of the parent, where the search is at one.
    """
    own = trial / "checkpoints"
    if own.exists():
        return
    temporary = trial / ".checkpoints"
    temporary.mkdir(parents=True, exist_ok=True)
    if url is None:
        for source in rung_folder(parent, step).iterdir():
            run_folder.copy(source, temporary / source.name)
    else:
        store = Store(url)
        for name in (run_folder.LAST, run_folder.BEST):
            if store.stamp(_kept(step, name)) != [None]:
                store.download(_kept(step, name), temporary / name)
    temporary.replace(own)


def num_worst(count: int, share: float) -> int:
    """How many of `count` trials at a rung are replaced."""
    return math.floor(count * share)


def num_best(count: int, share: float) -> int:
    """How many are copied: the first trial at a rung is the best so far."""
    return max(1, num_worst(count, share))


def next_child(
    plan: Plan, entries: Sequence[Entry], trials: Path, attempt: int = 0, url: str | None = None
) -> Child | None:
    """The child that takes the place of the first trial stopped and not replaced yet; None where there is none.

    The same ledger gives the same child; another `attempt` another one.

    Args:
        trials: folder of the trials' folders.
        url: of that folder, where the search is at one.
    """
    settings = plan.settings
    replaced = {entry.start["instead_of"] for entry in entries if entry.start is not None}
    stopped = next((e for e in entries if e.state == "pruned" and e.id not in replaced), None)
    if stopped is None:
        return None
    step = stopped.step
    known = {entry.id: entry for entry in entries}
    found = {entry.id: results.values(entry.reports.get(step, {}), plan.objective) for entry in entries}
    there = ranked({trial: values for trial, values in found.items() if values is not None})
    best = [
        known[trial]
        for trial in there[: num_best(len(there), settings.quantile)]
        if is_kept(trials / trial, step, below(url, trial))
    ]
    if not best:
        return None
    generator = random.Random(f"{settings.seed} {len(entries)} {attempt}")
    parent = generator.choice(best)
    schedule = list(parent.overrides.get(LOSSES + "schedule", ()))
    weights = configs.apply(plan.base, parent.overrides).losses.after(step).model_dump()
    return Child(parent, step, stopped.id, [*schedule, {"step": step, **explored(weights, plan.space, generator)}])


def explored(weights: Mapping[str, Any], space: Space, generator: random.Random) -> dict[str, float]:
    """New values of the loss weights that the space has, by name: drawn anew, or next to what they were."""
    changes: dict[str, float] = {}
    for key, parameter in space.parameters.items():
        name = key.removeprefix(LOSSES)
        if name != key:
            anew = generator.random() < RESAMPLE
            value = _drawn(parameter, generator) if anew else _neighbour(weights[name], parameter, generator)
            assert isinstance(value, int | float), key
            changes[name] = float(value)
    return {name: value for name, value in changes.items() if value != weights[name]}


def _drawn(parameter: FloatRange | IntRange | Choice, generator: random.Random) -> Plain:
    if isinstance(parameter, Choice):
        return generator.choice(parameter.choices)
    if parameter.log:
        return _on_grid(math.exp(generator.uniform(math.log(parameter.low), math.log(parameter.high))), parameter)
    return _on_grid(generator.uniform(parameter.low, parameter.high), parameter)


def _neighbour(value: float, parameter: FloatRange | IntRange | Choice, generator: random.Random) -> Plain:
    """A choice to the left or right; a number times one of FACTORS, on the grid of the range but not the same point."""
    if isinstance(parameter, Choice):
        at = parameter.choices.index(value) if value in parameter.choices else 0  # a reference may be outside
        return parameter.choices[min(max(at + generator.choice((-1, 1)), 0), len(parameter.choices) - 1)]
    factor = generator.choice(FACTORS)
    moved = _on_grid(value * factor, parameter)
    if moved == value and parameter.step is not None:
        moved = _on_grid(value + math.copysign(parameter.step, factor - 1), parameter)
    return moved


def _on_grid(value: float, parameter: FloatRange | IntRange) -> float:
    if parameter.step is not None:
        value = parameter.low + round((value - parameter.low) / parameter.step) * parameter.step
    return min(max(value, parameter.low), parameter.high)
