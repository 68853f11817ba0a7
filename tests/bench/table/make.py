"""Trains the settings of the table: with each seed in full, and with the first one from stored features.

What the table's file holds is not trained again: a table grows over days, and on one machine after another.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.jobs import tune
from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.data.features import read_header
from speaq.files import atomic
from speaq.space import Space
from speaq.space.parameters import Plain
from speaq.study import creation, snapshot
from speaq.study.board import REFERENCES
from speaq.study.creation import feasibility_on
from speaq.study.file import Study
from tests.bench.economy import steps
from tests.bench.table import table
from tests.bench.table.world import SPACE, settings, space
from tests.bench.world import SEED, VIEWS, World, make_features

BATCH = 10  # settings of a study
OWN = ("versions", "machine", "cpu_seconds")  # what may differ between the sittings of one table

Setting = str | Mapping[str, Plain]  # a reference's label, or values
Row = Mapping[str, Any]


class OtherTable(Exception):
    """A table's file holds settings that were trained otherwise."""


@dataclass(frozen=True)
class Kind:
    """How settings are trained."""

    seed: int
    features: Path | None = None  # from which they train

    @property
    def name(self) -> str:
        """Of its studies."""
        return f"features-{self.seed}" if self.features else f"seed-{self.seed}"

    @property
    def changes(self) -> Mapping[str, Any]:
        """Of the config."""
        return {"seed": self.seed, **({"training.features": str(self.features)} if self.features else {})}

    def lacks(self, batch: Sequence[Setting], rows: Sequence[Row]) -> list[Setting]:
        """The settings that have no row yet."""
        mine = [row for row in rows if row["seed"] == self.seed and row.get("features", False) == bool(self.features)]
        there = {_key(row["label"] or row["values"]) for row in mine}
        return [setting for setting in batch if _key(setting) not in there]


def make(folder: Path, world: World, number: int, seeds: int, path: Path = table.FILE) -> None:
    """Trains the references and `number` settings with each of `seeds`, and writes them to `path`, ten at a time.

    What `path` or `folder` holds is not trained again.

    Raises:
        OtherTable: `path` holds settings that were trained otherwise.
    """
    data, detector, features = folder / "data", folder / "detector", folder / "features"
    world.make(data, detector)
    config = world.base(detector)
    make_features(features, config, detector, data)
    study = creation.create(config, _asked([]), data)
    about = _provenance(world, study, seeds, read_header(features).weights)
    rows = _rows_of(path, about)
    about["cpu_seconds"] = _cpu_seconds(folder / "cpu_seconds.json", config, data, features)
    kinds = [*(Kind(seed) for seed in range(seeds)), Kind(0, features)]
    points: Iterator[Setting] = itertools.islice(settings(config, feasibility_on(data).check), number)
    for place in range(0, number, BATCH):
        batch = [*(() if place else REFERENCES), *itertools.islice(points, BATCH)]
        for kind in kinds:
            if missing := kind.lacks(batch, rows):
                name = f"{kind.name}-{place:03}-{len(missing):02}"
                rows += _trained(folder / name, configs.apply(config, kind.changes), missing, data, kind)
                atomic.write_text(path, table.dump(about, rows))


def _key(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)


def _rows_of(path: Path, about: Mapping[str, Any]) -> list[Row]:
    """The rows that a table's file has. Raises OtherTable where they are not about what `about` says."""
    if not path.exists():
        return []
    then, *rows = table.lines(path)
    now = json.loads(json.dumps(about))
    for name in now:
        if name not in OWN and then.get(name) != now[name]:
            raise OtherTable(
                f"{path}: {name}: its settings were trained with {then.get(name)}, these would be with {now[name]}; "
                "give another file: --table FILE"
            )
    return rows


def _asked(points: Sequence[Setting]) -> Space:
    """The space, whose search trains these settings to their ends."""
    values = [dict(point) for point in points if not isinstance(point, str)]
    search = {
        "objective": ["F@50"],
        "sampler": "random",
        "scheduler": "none",
        "points": values,
        "references": [point for point in points if isinstance(point, str)],
        "trials": max(1, len(points)),
    }
    return spaces.from_dict({**spaces.to_dict(space()), "search": search})


def _trained(study: Path, config: Config, missing: Sequence[Setting], data: Path, kind: Kind) -> list[Row]:
    """The rows of settings, trained here, as far as their trainings came to an end."""
    if (study / "study.yaml").exists():
        tune.resume(study, force=True)  # the code may have got on
    else:
        tune.start(creation.create(config, _asked(missing), data), study)
    found = (table.row(entry, kind.seed, features=kind.features is not None) for entry in snapshot.read(study).entries)
    return [row for row in found if row]


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


def _provenance(world: World, study: Study, seeds: int, weights: str) -> dict[str, Any]:
    """What a table is about; its detector is known by `weights`, since the file of one knows when it was made."""
    return {
        "what": "learning curves of SpeaQ on a generated world; made by python -m tests.bench.table make",
        "world": dataclasses.asdict(world) | {"seed": SEED, "digest": study.data_digest},
        "detector": weights,
        "space": SPACE.name,
        "config": configs.flatten(configs.to_dict(study.plan.base)) | {"training.init_from": "detector"},
        "seeds": list(range(seeds)),
        "views": VIEWS,
        "versions": dict(study.versions),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread a training",
    }
