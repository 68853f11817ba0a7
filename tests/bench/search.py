"""What the search is worth: `python -m tests.bench.search FOLDER [--seeds 5] [--json FILE]`, on a generated world.

At equal training steps: our default search (TPE, successive halving) against random search without early stopping, and
against the published setting; then, from the random studies, what successive halving would have saved and lost.
FOLDER keeps world, detector and studies; what is found there is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launch.jobs import tune as studies
from launch.search.messages import Report, report_result
from launch.search.scheduler import make_scheduler
from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.data.toy.world import make_toy
from speaq.study import creation, file
from speaq.study.ledger import Entry
from speaq.training.loop import train
from tests.bench.worlds import FEW
from tests.helpers.shared import ROOT

IMAGES, STEPS, EVERY = 2_000, 360, 40
RANDOM_TRIALS, DEFAULT_TRIALS = 14, 32  # the default search is cut off where random search ended
METRIC = "F@50"
SHORT = {
    **FEW,  # the demo's network when this was first measured
    "data.num_val": 150,
    "training.max_steps": STEPS,
    "training.eval_every": EVERY,
    "training.decay_steps": [STEPS * 85 // 100],
    "training.warmup_steps": STEPS // 10,
    "training.num_threads": 1,
}


@dataclass(frozen=True)
class Reached:
    """A study up to a number of training steps."""

    steps: int
    best: float  # METRIC of the best trial that had finished by then
    published: float
    trials: int  # begun by then
    setting: Mapping[str, Any]  # of the best trial, in the space


def run_studies(folder: Path, seeds: int) -> dict[str, list[Path]]:
    """Everything that has to be trained; returns the study folders by search."""
    data = folder / "data"
    if not data.exists():
        make_toy(data, IMAGES, 0)
    detector = folder / "detector"
    if not (detector / "result.json").exists():
        short = {**SHORT, "training.max_steps": 600, "training.eval_every": 600, "training.decay_steps": [510]}
        config = configs.apply(configs.load(ROOT / "configs" / "toy_detector.yaml"), short)
        train(config, data, detector, task="detector", resume=True)
    config = configs.apply(
        configs.load(ROOT / "configs" / "toy.yaml"),
        SHORT | {"training.learning_rate": 1e-3, "training.init_from": str(detector)},
    )
    found: dict[str, list[Path]] = {"random": [], "default": []}
    for seed in range(seeds):
        for name, changes in (
            ("random", {"sampler": "random", "scheduler": "none", "trials": RANDOM_TRIALS}),
            ("default", {"trials": DEFAULT_TRIALS}),
        ):
            found[name].append(_study(folder / f"{name}-{seed}", config, data, {**changes, "seed": seed}))
    return found


def _study(folder: Path, config: Config, data: Path, changes: dict[str, Any]) -> Path:
    if (folder / "study.yaml").exists():
        studies.resume(folder)
        return folder
    content = configs.read_yaml(ROOT / "search_spaces" / "speaq.yaml")
    space = spaces.from_dict({**content, "search": {**content["search"], "objective": [METRIC], **changes}})
    studies.start(creation.create(config, space, data), folder)
    return folder


def rows(folder: Path) -> Iterable[dict[str, Any]]:
    """The study's ledger in the order of time."""
    return (json.loads(line) for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines())


def reached(folder: Path, budget: float) -> Reached:
    """The study as it was when its trials had made `budget` steps together."""
    last: dict[str, int] = {}
    labels: dict[str, str | None] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    values: dict[str, float] = {}
    for row in rows(folder):
        trial = row.get("trial")
        if row["event"] == "asked":
            labels[trial], settings[trial] = row["label"], row["values"]
        if row["event"] in ("reported", "finished", "paused", "pruned"):
            spent = sum(last.values()) + row.get("step", last.get(trial, 0)) - last.get(trial, 0)
            if spent > budget:
                break
            last[trial] = row.get("step", last.get(trial, 0))
        if row["event"] == "finished":
            values[trial] = row["metrics"][METRIC]
    published = next((values[t] for t, label in labels.items() if label == "published" and t in values), float("nan"))
    best = max(values, key=values.__getitem__)
    return Reached(sum(last.values()), values[best], published, len(last), settings[best])


def halving(folder: Path) -> tuple[float, float]:
    """(share of steps that successive halving would have saved, METRIC of the best trial that it would have lost)."""
    study = file.read(folder / "study.yaml")
    settings = study.plan.settings.model_copy(update={"scheduler": "asha"})
    chooser: Any = make_scheduler(settings, STEPS, EVERY, Path())
    stopped: dict[str, int] = {}
    labels: dict[str, str | None] = {}
    values: dict[str, float] = {}
    for row in rows(folder):
        trial = row.get("trial")
        if row["event"] == "asked":
            labels[trial] = row["label"]
        elif row["event"] == "finished":
            values[trial] = row["metrics"][METRIC]
        elif row["event"] == "reported" and trial not in stopped and row["step"] < STEPS:
            named = type("Trial", (), {"config": {"trial": trial, "protected": labels[trial] is not None}})()
            told = report_result(Report(row["step"], row["metrics"], 0.0), row["metrics"][METRIC])
            if chooser.on_trial_result(None, named, told) == "STOP":
                stopped[trial] = row["step"]
    saved = sum(STEPS - step for step in stopped.values()) / (STEPS * len(values))
    return saved, max(values.values()) - max(v for t, v in values.items() if t not in stopped)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    from scipy import stats

    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error) if error else (mean, mean)
    return mean, float(low), float(high)


def figures(found: dict[str, list[Path]]) -> dict[str, Any]:
    """All figures over the seeds: [mean, low, high] of a 95 % interval."""
    budgets = [reached(folder, float("inf")).steps for folder in found["random"]]
    ours = [reached(folder, budget) for folder, budget in zip(found["default"], budgets, strict=True)]
    random = [reached(folder, budget) for folder, budget in zip(found["random"], budgets, strict=True)]
    replayed = [halving(folder) for folder in found["random"]]
    differences = [a.best - b.best for a, b in zip(ours, random, strict=True)]
    status = [study_saved(folder) for folder in found["default"]]
    return {
        "seeds": len(ours),
        "steps": interval([r.steps for r in random]),
        "steps_default": interval([r.steps for r in ours]),
        "default_best": interval([r.best for r in ours]),
        "random_best": interval([r.best for r in random]),
        "published": interval([r.published for r in random]),
        "default_minus_random": interval(differences),
        "default_minus_published": interval([r.best - r.published for r in ours]),
        "trials_default": interval([r.trials for r in ours]),
        "saved_share_default": interval(status),
        "saved_share_replayed": interval([saved for saved, _ in replayed]),
        "lost_replayed": interval([lost for _, lost in replayed]),
    }


def study_saved(folder: Path) -> float:
    """Share of the steps of ended trials that early stopping spared in this study."""
    from speaq.study.snapshot import read

    ended: list[Entry] = [e for e in read(folder).entries if e.state in ("finished", "paused", "pruned")]
    return 1 - sum(e.step for e in ended) / (STEPS * len(ended))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = figures(run_studies(arguments.folder, arguments.seeds))
    for name, value in result.items():
        print(f"{name:26}", value if isinstance(value, int) else "{:.4f}  [{:.4f}, {:.4f}]".format(*value))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
