"""The table as a file: a first line of provenance, then one line for each setting and seed.

A line has the setting's values of the space's parameters, its label where it is a reference, the seed of the training,
whether it trained from stored features, seconds as they passed on a busy machine, and under `metrics` every metric at
each evaluation, rounded to four digits; null where it is undefined.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speaq.space import Space
from speaq.space.parameters import Choice, FloatRange, IntRange, Plain, identity
from speaq.study.ledger import Entry
from tests.bench.world import World

FILE = Path(__file__).parent / "table.jsonl"
DIGITS = 4

FloatArray = NDArray[np.float64]
Curves = Mapping[str, FloatArray]  # metric → [evaluations], nan where undefined


@dataclass(frozen=True)
class Setting:
    """A point of the space and how it trained."""

    label: str | None  # of a reference
    values: Mapping[str, Plain]  # of the active parameters
    curves: Mapping[int, Curves]  # by seed
    features: Mapping[int, Curves]  # of the trainings from stored features

    def from_features(self, seed: int) -> Curves:
        """The curves from stored features with a seed, or where there are none, with the first one."""
        return self.features.get(seed) or self.features[min(self.features)]

    def kept(self, seed: int, by: str) -> dict[str, float]:
        """The metrics of the checkpoint that a run keeps: those of its best evaluation by a metric."""
        curves = self.curves[seed]
        best = int(np.nanargmax(curves[by]))
        return {name: float(curve[best]) for name, curve in curves.items()}


@dataclass(frozen=True)
class Table:
    """Settings that were trained with every seed, in the order in which they were drawn."""

    provenance: Mapping[str, Any]
    settings: Sequence[Setting]

    @property
    def world(self) -> World:
        """The world that the settings were trained on."""
        names = {field.name for field in dataclasses.fields(World)}
        return World(**{name: value for name, value in self.provenance["world"].items() if name in names})

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings."""
        return tuple(self.settings[0].curves)

    @property
    def features_cost(self) -> float:
        """Of a training from features, where a full one costs 1, in CPU seconds."""
        seconds = self.provenance["cpu_seconds"]
        return float(seconds["features"] / seconds["full"])

    def finals(self, metric: str, kept_by: str, seed: int) -> FloatArray:
        """[settings] the metric of the checkpoint that a run keeps by `kept_by`."""
        return np.array([setting.kept(seed, kept_by)[metric] for setting in self.settings])


def row(entry: Entry, seed: int, *, features: bool = False) -> dict[str, Any] | None:
    """The table's line of a trial; None for one that has not come to its end."""
    if entry.state != "finished":
        return None
    steps = sorted(entry.reports)
    names = entry.reports[steps[0]]
    return {
        "label": entry.label,
        "values": entry.values,
        "seed": seed,
        **({"features": True} if features else {}),
        "seconds": round(entry.seconds, 1),
        "metrics": {name: [_rounded(entry.reports[step].get(name)) for step in steps] for name in names},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, DIGITS)


def dump(provenance: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """The file's text."""
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (provenance, *rows))


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a table's file: the provenance, then the rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(path: Path = FILE) -> Table:
    """The table of a file; a setting that lacks a seed, or the training from features that others have, is left out."""
    provenance, *rows = lines(path)
    found: dict[str, list[dict[str, Any]]] = {}
    for line in rows:
        found.setdefault(json.dumps([line["label"], line["values"]], sort_keys=True), []).append(line)
    wanted = set(provenance["seeds"])
    settings = [_setting(lines) for lines in found.values() if _seeds(lines) == wanted]
    stored = [setting for setting in settings if setting.features]
    return Table(provenance, stored or settings)


def _seeds(lines: Iterable[Mapping[str, Any]]) -> set[int]:
    """Of full trainings."""
    return {line["seed"] for line in lines if not line.get("features")}


def _setting(lines: Sequence[Mapping[str, Any]]) -> Setting:
    full = sorted((line for line in lines if not line.get("features")), key=lambda line: line["seed"])
    stored = [line for line in lines if line.get("features")]
    return Setting(
        label=lines[0]["label"],
        values=lines[0]["values"],
        curves=_curves(full),
        features=_curves(stored),
    )


def _curves(lines: Iterable[Mapping[str, Any]]) -> dict[int, Curves]:
    return {
        line["seed"]: {name: np.array(values, dtype=np.float64) for name, values in line["metrics"].items()}
        for line in lines
    }


class Nearest:
    """Every point of the space trains as the setting of the table that lies nearest to it."""

    def __init__(self, space: Space, settings: Sequence[Setting]) -> None:
        """Looks at the settings once."""
        self._space = space
        self._places = np.array([self._place(setting.values) for setting in settings])

    def __call__(self, values: Mapping[str, Plain]) -> int:
        """The place in the table. A number differs by its share of the (logarithmic) range, a choice by 0 or 1."""
        return int(np.argmin(((self._places - self._place(values)) ** 2).sum(axis=1)))

    def _place(self, values: Mapping[str, Plain]) -> FloatArray:
        return np.concatenate([_axes(p, values, key) for key, p in self._space.parameters.items()])


def _axes(parameter: FloatRange | IntRange | Choice, values: Mapping[str, Plain], key: str) -> FloatArray:
    """Coordinates of one parameter; where it is not active, a corner of its own."""
    if isinstance(parameter, Choice):
        axes = [0.5 * (key in values and identity(values[key]) == identity(choice)) for choice in parameter.choices]
        return np.sqrt(2) * np.array([*axes, 0.5 * (key not in values)])
    if key not in values:
        return np.array([0.5, 1.0])
    low, high, value = float(parameter.low), float(parameter.high), float(values[key] or 0)
    share = math.log(value / low) / math.log(high / low) if parameter.log else (value - low) / (high - low)
    return np.array([share, 0.0])
