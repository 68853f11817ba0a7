"""`python -m tests.bench.photos DATA`: a small model learns real photos by heart; R@50 on the photos it was trained on.

A check that every part works on real pictures. The number says nothing about photos that the model has not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.runs.run import evaluate_run
from speaq.training.loop import train
from tests.helpers.shared import ROOT

CONFIG = ROOT / "configs" / "photos_overfit.yaml"
WANTED = 0.6  # R@50


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.photos", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with the four files, such as shared/data/coco128-vg")
    parser.add_argument("--set", action="append", default=[], help="key=value of the config")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = learn_by_heart(arguments.data, Path(folder), arguments.set)
    for name, value in figures.items():
        print(f"{name:20} {value:10.4f}" if isinstance(value, float) else f"{name:20} {value!s:>10}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if figures["R@50"] >= WANTED else 1


def learn_by_heart(data: Path, folder: Path, assignments: list[str]) -> dict[str, Any]:
    """Detector, SpeaQ from its weights, evaluation on the train split."""
    begin = time.perf_counter()
    config = configs.load(CONFIG, assignments)
    train(config, data, folder / "detector", task="detector", progress=_tell("detector"))
    detector_seconds = time.perf_counter() - begin
    config = configs.apply(config, {"training.init_from": str(folder / "detector")})
    train(config, data, folder / "run", progress=_tell("SpeaQ"))
    seconds = time.perf_counter() - begin
    result = evaluate_run(folder / "run" / "checkpoints" / "last.pt", "train", data)
    names = ("R@20", "R@50", "mR@50", "AP50")
    return {
        "images": result.images,
        **{name: result.evaluation.metrics[name] for name in names},
        "detector_seconds": detector_seconds,
        "seconds": seconds,
    }


def _tell(title: str) -> Any:
    shown = time.monotonic()

    def tell(done: int, total: int, text: str) -> None:
        nonlocal shown
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{title} {done}/{total} · {text}", file=sys.stderr)

    return tell


if __name__ == "__main__":
    sys.exit(main())
