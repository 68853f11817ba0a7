"""Trains the settings of the table: one study for each seed, grown in turn, so that an unfinished table has both."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.jobs import tune
from speaq import config as configs
from speaq import space as spaces
from speaq.study import creation, file, snapshot
from speaq.study.creation import feasibility_on
from tests.bench.table import table
from tests.bench.table.world import SPACE, settings, space
from tests.bench.world import SEED, World

GROWTH = 10  # settings that a study gets before it is the other's turn


def make(folder: Path, world: World, number: int, seeds: int, path: Path = table.FILE) -> None:
    """Trains `number` settings and the references with each of `seeds`, and writes the table to `path` again and again.

    What `folder` holds is not trained again.
    """
    data, detector = folder / "data", folder / "detector"
    world.make(data, detector)
    config = world.base(detector)
    points = list(itertools.islice(settings(config, feasibility_on(data).check), number))
    studies = [folder / f"seed-{seed}" for seed in range(seeds)]
    for wanted in range(GROWTH, number + GROWTH, GROWTH):
        for seed, study in enumerate(studies):
            trials = min(wanted, number) + 2
            if (study / "study.yaml").exists():
                _grow(study, trials)
            else:
                search = {"sampler": "random", "scheduler": "none", "points": points, "trials": trials}
                asked = spaces.from_dict({**spaces.to_dict(space()), "search": {"objective": ["F@50"], **search}})
                tune.start(creation.create(configs.apply(config, {"seed": seed}), asked, data), study)
        pack(world, studies, path)


def _grow(study: Path, trials: int) -> None:
    """The study trains what it lacks of its first `trials`."""
    entries = snapshot.read(study).entries
    if len(entries) < trials or not all(entry.ended for entry in entries):
        tune.resume(study, trials=max(trials, len(entries)))


def pack(world: World, studies: Sequence[Path], path: Path) -> None:
    """Writes the table of what the studies, one for each seed, have trained so far."""
    rows = []
    for seed, study in enumerate(studies):
        rows += [row for entry in snapshot.read(study).entries if (row := table.row(entry, seed))]
    path.write_text(table.dump(_provenance(world, studies), rows), encoding="utf-8")


def _provenance(world: World, studies: Sequence[Path]) -> Mapping[str, Any]:
    found = file.read(studies[0] / "study.yaml")
    return {
        "what": "learning curves of SpeaQ on a generated world; made by python -m tests.bench.table make",
        "world": dataclasses.asdict(world) | {"seed": SEED, "digest": found.data_digest},
        "detector": found.start_digest,
        "space": SPACE.name,
        "config": configs.flatten(configs.to_dict(found.plan.base)) | {"training.init_from": "detector"},
        "seeds": list(range(len(studies))),
        "versions": dict(found.versions),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread a training",
    }
