"""One line that tells whether training still computes what it did: `python -m tests.digest [--folder DIR]`.

Trains a detector, SpeaQ from it, and SpeaQ with augmentation, a loader process and smaller parts, six steps each on a
small toy world, and prints a digest of every loss, metric and weight. Run it before and after a change that is to leave
results alone: the lines must be equal. On another processor or another PyTorch they may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.helpers.command import speaq
from tests.helpers.shared import ROOT

COMMON = ("training.max_steps=6", "training.eval_every=3", "training.log_every=1", "seed=5", "data.num_val=40")
AUGMENTED = (
    *("training.micro_batch_size=4", "data.num_workers=1", "data.cache_images=false", "data.train_sides=[64,80,96]"),
    *("matching.num_groups=3", "data.crop_probability=0.5"),
)
TIMES = ("second", "images_per", "time", "wait", "memory")  # in names of values that differ from run to run


def digest(folder: Path) -> str:
    """Trains in `folder`, which is empty. Returns 24 hexadecimal digits."""
    data = folder / "data"
    done("data", "make", data, "--images", "200", "--seed", "3")
    runs = (
        ("pretrain", "toy_detector.yaml", ()),
        ("train", "toy.yaml", (f"training.init_from={folder / 'run-0'}",)),
        ("train", "toy.yaml", AUGMENTED),
    )
    found = hashlib.sha256()
    for number, (verb, config, changes) in enumerate(runs):
        run = folder / f"run-{number}"
        words = [word for change in (*COMMON, *changes) for word in ("--set", change)]
        done(verb, "--config", ROOT / "configs" / config, "--data", data, "--output", run, *words)
        rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        kept = [{k: v for k, v in row.items() if not any(part in k for part in TIMES)} for row in rows]
        found.update(json.dumps(kept, sort_keys=True).encode())
        add(found, torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"])
    return found.hexdigest()[:24]


def done(*words: str | Path) -> None:
    """Runs a command. Raises RuntimeError with what it said where it fails."""
    ended = speaq(*words)
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr)


def add(found: Any, value: Any) -> None:
    """Adds all tensors of a checkpoint, in the order of their names."""
    if isinstance(value, torch.Tensor):
        found.update(value.numpy().tobytes())
    elif isinstance(value, dict):
        for _, part in sorted(value.items(), key=lambda item: str(item[0])):
            add(found, part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.digest", description=__doc__)
    parser.add_argument("--folder", type=Path, help="new folder to train in, default: a temporary one")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # sums of several threads may be added in another order
    with tempfile.TemporaryDirectory() as temporary:
        print(digest(given.folder or Path(temporary)))
