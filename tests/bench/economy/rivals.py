"""Ray Tune's ASHA with its OptunaSearch, as they come, on real trainings."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna  # noqa: TID251
from ray import tune  # noqa: TID251
from ray.tune.schedulers import AsyncHyperBandScheduler  # noqa: TID251
from ray.tune.search.optuna import OptunaSearch  # noqa: TID251

from launch.cluster import connection
from launch.search.sampler import suggest
from speaq import config as configs
from speaq.config import Config
from speaq.space import Space
from speaq.training.callbacks import Metrics
from speaq.training.loop import train

VALUES = "values"


def search(folder: Path, config: Config, space: Space, data: Path, *, metric: str, trials: int, seed: int) -> None:
    """Trains `trials` settings of the space, fewer to their end, and writes FOLDER/ledger.jsonl as a study has it."""
    folder.mkdir(parents=True)
    length = config.training.max_steps // config.training.eval_every
    with connection.connected():
        tuner = tune.Tuner(
            tune.with_parameters(_train, config=config, space=space, data=data, folder=folder.resolve(), metric=metric),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(partial(_asked, config, space), metric=metric, mode="max", seed=seed),
                scheduler=AsyncHyperBandScheduler(metric=metric, mode="max", max_t=length),
                num_samples=trials,
            ),
            run_config=tune.RunConfig(storage_path=str(folder.resolve() / "tune"), verbose=0),
        )
        tuner.fit()
    rows = [json.loads(line) for path in folder.glob("trials/*.jsonl") for line in path.read_text().splitlines()]
    rows.sort(key=lambda row: row["time"])
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "ledger.jsonl").write_text(text, encoding="utf-8")


def _asked(config: Config, space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The space as OptunaSearch takes it."""
    return {VALUES: json.dumps(dict(space.walk(config, partial(suggest, trial)).values))}


def _train(asked: dict[str, Any], *, config: Config, space: Space, data: Path, folder: Path, metric: str) -> None:
    """A trial, in Tune's worker."""
    trial = tune.get_context().get_trial_id()
    setting = configs.apply(space.apply(config, json.loads(asked[VALUES])), {"seed": config.seed})
    (folder / "trials").mkdir(exist_ok=True)
    rows, seen = folder / "trials" / f"{trial}.jsonl", [-math.inf]

    def write(**row: Any) -> None:
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial, "time": time.time(), **row}) + "\n")

    def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
        write(event="reported", step=step, metrics=dict(metrics))
        seen.append(metrics[metric] or 0.0)
        if step == config.training.max_steps:
            write(event="finished", metrics={metric: max(seen)})
        tune.report({**metrics, "step": step})

    write(event="asked", label=None, values=json.loads(asked[VALUES]))
    train(setting, data, folder / "trials" / trial, report=report)
