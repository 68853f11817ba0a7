"""Does the method do here what its paper says? `python -m tests.bench.worlds FOLDER [--worlds …] [--json FILE]`.

The paper's ablation in worlds that two cores can afford: baseline, query multiple, groups, quality-aware repeats, and
all of it (the published setting), each with several seeds, judged on the test pictures. Differences from the baseline
are paired by picture; their intervals hold for other seeds and other pictures. FOLDER keeps worlds, detectors and
runs; what is found there is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import BASELINE, PUBLISHED
from speaq.evaluation.bootstrap import (
    ImageRecord,
    Measured,
    difference_over_seeds,
    load_record,
    mean_over_seeds,
    measure,
    save_record,
)
from speaq.runs.run import evaluate_run
from speaq.training.loop import train
from tests.bench.world import CLEAR, NARROW, World

METRICS = ("R@20", "R@50", "R@100", "mR@50", "F@50", "head@50", "body@50", "tail@50")
ONCE = {
    "matching.scheme": "static",
    "matching.quality": None,
    "matching.max_repeats": 1,
    "matching.predicate_weight": 0.0,
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "baseline": BASELINE,
    "published": PUBLISHED,
    "queries": {**PUBLISHED, **ONCE, "matching.num_groups": 1},
    "groups": {**PUBLISHED, **ONCE},
    "repeats": {**PUBLISHED, "matching.num_groups": 1},
}


WIDE = {
    "model.hidden_dim": 64,
    "model.num_heads": 4,
    "model.feedforward_dim": 256,
    "training.batch_size": 16,
}
FEW = {**WIDE, "model.num_queries": 16}
WORLDS: Mapping[str, World] = {
    "clear": CLEAR,
    "narrow": NARROW,
    "narrow, a third of the rate": replace(NARROW, learning_rate=1e-3),
    "narrow, 32 queries": replace(NARROW, changes={"model.num_queries": 32}),
    "16 queries, 1,000 steps": World(learning_rate=1e-3, changes=FEW),
    "64 queries, 360 steps": World(steps=360, detector_steps=600, learning_rate=1e-3, changes=WIDE),
    "64 queries, 1,000 steps": World(detector_steps=600, learning_rate=1e-3, changes=WIDE),
}


def run_world(folder: Path, world: World, arms: Sequence[str], seeds: int) -> Iterator[tuple[str, int, Path]]:
    """Trains what is not there yet, seed after seed; yields (arm, seed, run)."""
    data, detector = folder.parent / f"data-{world.images}-{world.grid}-{world.annotated}", folder / "detector"
    world.make(data, detector)
    for seed in range(seeds):
        for arm in arms:
            run = folder / f"{arm}-{seed}"
            if not (run / "result.json").exists():
                train(configs.apply(world.base(detector), {**ARMS[arm], "seed": seed}), data, run, resume=True)
            yield arm, seed, run


def record(run: Path) -> ImageRecord:
    """Recalls by image on the test split, kept beside the run."""
    path = run / "test_images.npz"
    if not path.exists():
        found = evaluate_run(run, "test").evaluation
        assert found.recall is not None
        assert found.table is not None
        save_record(ImageRecord.made(found.table, found.recall, ""), path)
    return load_record(path)


def rows(name: str, found: Mapping[str, Sequence[Path]]) -> Iterator[dict[str, Any]]:
    """For each arm and metric: its mean, and its difference from the baseline with a 95 % interval."""
    for metric in METRICS:
        measured: dict[str, list[Measured]] = {
            arm: [measure(record(run), [metric]) for run in runs] for arm, runs in found.items()
        }
        for arm, runs in measured.items():
            mean = mean_over_seeds(runs)
            row = {"world": name, "arm": arm, "metric": metric, "seeds": len(runs), **vars(mean)}
            if arm != "baseline":
                difference = difference_over_seeds(runs, measured["baseline"])
                row["difference"] = [difference.value, difference.low, difference.high]
            yield row


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worlds", default=";".join(WORLDS), help="with semicolons between (default: all)")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    """Trains, and prints a table for each world."""
    given = parser().parse_args()
    said: list[dict[str, Any]] = []
    for name in given.worlds.split(";"):
        found: dict[str, list[Path]] = {}
        folder = given.folder / name.replace(",", "").replace(" ", "-")
        for arm, seed, run in run_world(folder, WORLDS[name], given.arms.split(","), given.seeds):
            print(f"{name}: {arm}, seed {seed}", flush=True)
            found.setdefault(arm, []).append(run)
        for row in rows(name, found):
            said.append(row)
            difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["difference"]) if "difference" in row else ""
            print(f"{name:26} {row['arm']:10} {row['metric']:8} {row['value']:.3f} {difference}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
