"""Whether stored features rank settings as full training does: those of a calibration train again, from features."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speaq import config as configs
from speaq.config import ConfigError
from speaq.space import SearchConfig
from speaq.space.parameters import Plain
from speaq.study import changes, creation, file, ranks, results, snapshot
from speaq.study.ledger import Entry
from speaq.study.plan import compared

from ..store.workspace import Workspace
from . import tune as studies
from .display import Display

FOLDER = "features"  # in a calibration's folder
FEWEST = 5  # trials: ranks of fewer say nothing
TELLING = 0.5  # Kendall's tau: three of four pairs of settings in the order of their full trainings


@dataclass(frozen=True)
class Rung:
    """What a cheaper training tells about the end of the full one."""

    step: int
    share: float  # of the steps
    tau: float  # Kendall's tau-b with the end of full training; nan where all trials are equal
    low: float  # 95 % interval over trials
    high: float


@dataclass(frozen=True)
class Proxy:
    """The ranks from features against those of full training."""

    trials: int
    rungs: list[Rung]  # the last one: trained from features to the end
    tells: bool  # there features order most pairs as full training does, and not by chance


def train(folder: Path, features: Path, *, display: Display, here: Workspace) -> None:
    """Trains the settings of the search in `folder` from features, in a search inside; goes on with one that is there.

    Raises:
        ConfigError, DataError: the features are not those of the search's start and data, its space holds keys that
            act before the encoder, or the search inside was made from other features.
    """
    output = folder / FOLDER
    if not (output / "study.yaml").exists():
        points = [dict(entry.values) for entry in _trained(folder) if entry.label is None and entry.values is not None]
        asked = changes.with_start(file.read(folder / "study.yaml"), folder, None)
        asked = dataclasses.replace(asked, data=changes.found_data(asked, folder, None))
        studies.start(_study(asked, points, features), output, display=display, here=here)
        return
    now = snapshot.read(output)
    plan = changes.with_features(now.study, output).plan
    before = plan.placed(plan.base).training.features
    if before is None or Path(before).resolve() != features.resolve():
        raise ConfigError(f"{output}: trained from features {before}; remove it to train from {features}")
    if len(now.entries) < now.plan.trials or not all(entry.ended for entry in now.entries):
        studies.resume(output, display=display, here=here)


def check(study: file.Study, features: Path) -> None:
    """Raises ConfigError or DataError where the settings of a search cannot be trained from features."""
    _study(study, [], features)


def _study(asked: file.Study, points: list[dict[str, Plain]], features: Path) -> file.Study:
    """A search that trains the references and `points`, from features."""
    plan = asked.plan
    settings = to_the_end(plan.settings, max(1, len(plan.references) + len(points)), points)
    config = configs.apply(plan.placed(plan.base), {"training.features": str(features.resolve())})
    return creation.create(config, plan.space.model_copy(update={"search": settings}), asked.data)


def to_the_end(asked: SearchConfig, trials: int, points: list[dict[str, Plain]] | None = None) -> SearchConfig:
    """The settings of a search that judges others: it stops no trial, and draws at random what `points` leave."""
    return SearchConfig(
        objective=asked.objective,
        references=asked.references,
        seed=asked.seed,
        decoding=asked.decoding,
        points=points or [],
        trials=trials,
        sampler="random",
        prior="none",
        scheduler="none",
    )


def judge(folder: Path) -> Proxy | None:
    """What the trainings from features in the folder of a calibration tell; None where it has none.

    Raises ConfigError where too few settings trained both ways.
    """
    if not (folder / FOLDER / "study.yaml").exists():
        return None
    plan = snapshot.read(folder).plan
    metric, last = compared(plan), plan.base.training.max_steps
    full = {_key(entry): results.score(entry.metrics, plan.objective) for entry in _trained(folder)}
    both = [entry for entry in _trained(folder / FOLDER) if _key(entry) in full]
    steps = sorted({step for entry in both for step in entry.reports if step < last})
    if len(both) < FEWEST:
        raise ConfigError(
            f"{folder / FOLDER}: {len(both)} settings trained both ways; ranks of fewer than {FEWEST} say nothing: "
            f"speaq calibrate {folder} --features FEATURES trains what is left"
        )
    ends = np.array([full[_key(entry)] for entry in both])
    values = {step: np.array([entry.reports.get(step, {}).get(metric, np.nan) for entry in both]) for step in steps}
    values[last] = np.array([results.score(entry.metrics, plan.objective) for entry in both])
    known = {step: at for step, at in values.items() if not np.isnan(at).any()}
    rungs = [Rung(step, step / last, *ranks.tau(at, ends)) for step, at in known.items()]
    return Proxy(len(both), rungs, tells=rungs[-1].tau >= TELLING and rungs[-1].low > 0)


def _trained(folder: Path) -> Sequence[Entry]:
    return [entry for entry in snapshot.read(folder).entries if entry.state in ("finished", "infeasible")]


def _key(entry: Entry) -> str:
    """A setting, the same in both searches."""
    return json.dumps([entry.label, entry.values], sort_keys=True)
