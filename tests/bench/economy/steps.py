"""CPU seconds of a training step and of an evaluated picture: in full, frozen, and from stored features.

They take turns, so that each round gives ratios of its own; intervals are over the rounds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config
from speaq.evaluation.bootstrap import Interval, spread_over_seeds
from speaq.training.callbacks import Metrics
from speaq.training.loop import train
from tests.bench.world import NARROW, VIEWS, make_features

WARM, COUNTED = 5, 20  # steps of a training before the clock starts, and while it runs
FULL = "full"

Row = dict[str, Any]


def kinds(features: Path) -> Mapping[str, Mapping[str, Any]]:
    """What a config changes for each kind of training."""
    return {
        FULL: {},
        "frozen": {"model.frozen": ["backbone", "encoder"]},
        "features": {"training.features": str(features)},
    }


def measure(config: Config, data: Path) -> tuple[float, float]:
    """CPU seconds of a step, and of a picture of an evaluation, in this process, with one thread."""
    last = WARM + COUNTED
    changes = {"training.max_steps": last, "training.eval_every": last, "training.decay_steps": [last - 1]}
    config = configs.apply(config, {**changes, "training.warmup_steps": 1})
    clock: dict[int, float] = {}
    ended: list[float] = []

    def progress(done: int, total: int, text: str) -> None:
        clock.setdefault(done, time.process_time())

    def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
        ended.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        train(config, data, Path(folder) / "run", report=report, progress=progress)
    return (clock[last] - clock[WARM]) / COUNTED, (ended[0] - clock[last]) / config.data.num_val


def rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Measures, and yields a row for each kind of training, of a step and of an evaluated picture."""
    data, detector, features = folder / "data", folder / "detector", folder / "features"
    NARROW.make(data, detector)
    config = configs.apply(NARROW.base(detector), configs.PUBLISHED)
    cost = None
    if not features.exists():
        begin = time.process_time()
        make_features(features, config, detector, data)
        cost = time.process_time() - begin
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for kind, changes in kinds(features).items():
            step, picture = measure(configs.apply(config, changes), data)
            found.setdefault((kind, "step"), []).append(step)
            found.setdefault((kind, "picture"), []).append(picture)
    for (kind, what), seconds in found.items():
        ratios = [one / full for one, full in zip(seconds, found[FULL, what], strict=True)]
        yield spread(f"CPU seconds of a {what}", kind, seconds)
        yield spread(f"{what}: times the full one", kind, ratios)
    if cost is not None:
        yield spread(f"CPU seconds of the features, {VIEWS} views", "features", [cost])
    for what in ("step", "picture"):
        yield {"what": f"{what} on a GPU", "kind": "all", "value": None, "low": None, "high": None}  # not measured


def spread(what: str, kind: str, values: Sequence[float]) -> Row:
    """A row of a mean with its interval over the values."""
    mean, interval = spread_over_seeds(values)
    return {"what": what, "kind": kind, **vars(interval or Interval(mean, mean, mean))}
