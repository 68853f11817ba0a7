"""How well a cheaper training ranks settings: Kendall's tau with the full training, and that of two full ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from speaq.study.ranks import tau
from tests.bench.table.table import FloatArray, Setting, Table

METRICS = ("R@20", "mR@20", "F@20", "R@50", "mR@50", "F@50", "tail@50")
SHARES = (1 / 3, 2 / 3, 1.0)  # of the steps
RUNGS = (0.2, 0.5, 1.0)  # of the steps, where early stopping may judge
FEWEST = 5  # settings
RATE = "training.learning_rate"

Row = dict[str, Any]


def taus(table: Table) -> Iterator[Row]:
    """One row for each metric, kind of training and share of its steps, beside the full training of each seed."""
    first, second = table.seeds
    settings = table.settings
    if len(settings) < FEWEST or first not in settings[0].features:
        return
    known = [metric for metric in METRICS if metric in settings[0].curves[first]]
    finals = {seed: {m: np.array([s.kept(seed, m)[m] for s in settings]) for m in known} for seed in table.seeds}
    for metric in known:
        yield _row("full, another seed", 1.0, metric, finals[second][metric], finals[first][metric])
        for share in SHARES:
            found = _at(settings, share, metric, stored=True)
            for seed in table.seeds:
                yield _row("features", share, metric, found, finals[seed][metric]) | {"seed": seed}
            if share < 1:
                yield _row("full", share, metric, _at(settings, share, metric), finals[second][metric])
        yield from _beside_the_rate(settings, metric, finals[first][metric], finals[second][metric])


def _beside_the_rate(settings: Sequence[Setting], metric: str, first: FloatArray, second: FloatArray) -> Iterator[Row]:
    """How well the learning rate alone ranks, by a parabola over its logarithm; and what others do without its part."""
    rates = np.log([float(s.values[RATE]) for s in settings])

    def by_rate(values: FloatArray) -> FloatArray:
        return np.asarray(np.polyval(np.polyfit(rates, values, 2), rates))

    def row(name: str, share: float, values: FloatArray) -> Row:
        return _row(name, share, metric, values - by_rate(values), second - by_rate(second))

    yield _row("learning rate alone", 1.0, metric, by_rate(first), second)
    yield row("full, another seed, rate taken out", 1.0, first)
    for share in RUNGS:
        yield row("features, rate taken out", share, _at(settings, share, metric, stored=True))
        if share < 1:
            yield row("full, rate taken out", share, _at(settings, share, metric))


def _at(settings: Sequence[Setting], share: float, metric: str, *, stored: bool = False) -> FloatArray:
    """[settings] the best evaluation within a share of the steps, by the first seed."""
    curves = [(s.features if stored else s.curves)[min(s.curves)][metric] for s in settings]
    return np.array([np.nanmax(curve[: max(1, round(share * len(curve)))]) for curve in curves])


def _row(name: str, share: float, metric: str, values: FloatArray, finals: FloatArray) -> Row:
    found = tau(values, finals)._asdict()
    return {"name": name, "what": f"tau of {metric}", "share": round(share, 2), **found, "settings": len(values)}
