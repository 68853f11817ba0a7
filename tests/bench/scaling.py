"""Several Ray Train workers (gloo) on this machine against one, with the same work for each: images per second."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import tempfile
from pathlib import Path

from speaq.data.toy.world import make_toy
from tests.bench.measure import LeftOut, Settings, Values, calibration, row, seconds
from tests.helpers.tiny import tiny

IMAGES_EACH = 8  # of every worker in a step


def scaling(workers: int, settings: Settings) -> Values:
    """`seconds` is a step's with that many workers. `efficiency` is their speed over that many single workers';
    `efficiency_of_cores` over that of as many single ones as have a core. `data_wait_share` is the slowest part's.
    """
    if importlib.util.find_spec("ray") is None:
        raise LeftOut("Ray is not installed")
    from launch.cluster.connection import connected

    with tempfile.TemporaryDirectory() as folder, connected(dashboard=True):
        data = Path(folder) / "data"
        make_toy(data, 60, seed=0)
        alone, waited_alone = _train(1, data, Path(folder) / "one", settings)
        together, waited = _train(workers, data, Path(folder) / "many", settings)
    calibrate = calibration()
    calibrated = statistics.median(seconds(calibrate) for _ in range(3))
    step = IMAGES_EACH * workers / together
    return row(step, calibrated) | {
        "images_per_second_of_one": alone,
        "images_per_second": together,
        "efficiency": together / (workers * alone),
        "efficiency_of_cores": together / (min(workers, os.cpu_count() or 1) * alone),
        "data_wait_share_of_one": waited_alone,
        "data_wait_share": waited,
    }


def _train(workers: int, data: Path, output: Path, settings: Settings) -> tuple[float, float]:
    """Images per second and the share of the time spent waiting for data, medians of several stretches of steps."""
    from launch.trials.worker import train_distributed

    stretch = 1 if settings.quick else 10
    config = tiny(
        model__hidden_dim=64,
        model__feedforward_dim=128,
        model__num_queries=20,
        training__max_steps=6 * stretch,
        training__decay_steps=[5],
        training__eval_every=6 * stretch,
        training__log_every=stretch,
        training__batch_size=IMAGES_EACH * workers,
        resources__num_workers=workers,
        resources__cpus_per_worker=min(1.0, (os.cpu_count() or 1) / workers),
    )
    train_distributed(config, data, output)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if "train/images_per_second" in line][1:]  # the first one warms up
    speed, waited = (
        statistics.median(line[f"train/{name}"] for line in measured)
        for name in ("images_per_second", "data_wait_share")
    )
    return speed, waited
