"""Trains the settings of the table: one study for each seed, and one from stored features with the first seed.

They grow in turn, so that an unfinished table has all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.jobs import tune
from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.study import creation, file, snapshot
from speaq.study.creation import feasibility_on
from tests.bench.economy import steps
from tests.bench.table import table
from tests.bench.table.world import SPACE, settings, space
from tests.bench.world import SEED, VIEWS, World, make_features

GROWTH = 10  # settings that a study gets before it is the next one's turn


@dataclass(frozen=True)
class Trainings:
    """The study of one kind of training."""

    folder: Path
    seed: int
    changes: Mapping[str, Any]  # of the config


def make(folder: Path, world: World, number: int, seeds: int, path: Path = table.FILE) -> None:
    """Trains `number` settings and the references with each of `seeds`, and writes the table to `path` again and again.

    What `folder` holds is not trained again.
    """
    data, detector = folder / "data", folder / "detector"
    world.make(data, detector)
    config = world.base(detector)
    points = list(itertools.islice(settings(config, feasibility_on(data).check), number))
    studies = [Trainings(folder / f"seed-{seed}", seed, {}) for seed in range(seeds)]
    features = folder / "features"
    make_features(features, config, detector, data)
    studies.append(Trainings(folder / "features-0", 0, {"training.features": str(features)}))
    seconds = _cpu_seconds(folder / "cpu_seconds.json", config, data, features)
    for wanted in range(GROWTH, number + GROWTH, GROWTH):
        for study in studies:
            trials = min(wanted, number) + 2
            if (study.folder / "study.yaml").exists():
                _grow(study.folder, trials)
            else:
                search = {"sampler": "random", "scheduler": "none", "points": points, "trials": trials}
                asked = spaces.from_dict({**spaces.to_dict(space()), "search": {"objective": ["F@50"], **search}})
                begun = configs.apply(config, {"seed": study.seed, **study.changes})
                tune.start(creation.create(begun, asked, data), study.folder)
            pack(world, studies, path, seconds)


def _cpu_seconds(path: Path, config: Config, data: Path, features: Path) -> dict[str, float]:
    """Of a training in full and from features, by what a step and an evaluated picture take; measured once."""
    if not path.exists():
        training, found = config.training, {}
        for kind in ("full", "features"):
            step, picture = steps.measure(configs.apply(config, steps.kinds(features)[kind]), data)
            pictures = training.max_steps // training.eval_every * config.data.num_val
            found[kind] = round(training.max_steps * step + pictures * picture, 1)
        path.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _grow(study: Path, trials: int) -> None:
    """The study trains what it lacks of its first `trials`."""
    entries = snapshot.read(study).entries
    if len(entries) < trials or not all(entry.ended for entry in entries):
        tune.resume(study, trials=max(trials, len(entries)), force=True)  # the code may have got on


def pack(world: World, studies: Sequence[Trainings], path: Path, seconds: Mapping[str, float]) -> None:
    """Writes the table of what the studies have trained so far.

    Args:
        seconds: of a core, that a training takes in full and from features.
    """
    rows = []
    for study in studies:
        if (study.folder / "study.yaml").exists():
            entries, features = snapshot.read(study.folder).entries, "training.features" in study.changes
            rows += [row for entry in entries if (row := table.row(entry, study.seed, features=features))]
    path.write_text(table.dump({**_provenance(world, studies), "cpu_seconds": seconds}, rows), encoding="utf-8")


def _provenance(world: World, studies: Sequence[Trainings]) -> Mapping[str, Any]:
    found = file.read(studies[0].folder / "study.yaml")
    return {
        "what": "learning curves of SpeaQ on a generated world; made by python -m tests.bench.table make",
        "world": dataclasses.asdict(world) | {"seed": SEED, "digest": found.data_digest},
        "detector": found.start_digest,
        "space": SPACE.name,
        "config": configs.flatten(configs.to_dict(found.plan.base)) | {"training.init_from": "detector"},
        "seeds": [study.seed for study in studies if not study.changes],
        "views": VIEWS,
        "versions": dict(found.versions),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread a training",
    }
