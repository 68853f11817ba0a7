"""Makes the pictures of the gallery from a demo: .venv/bin/python docs/gallery.py demo docs/figures/gallery

As committed, after `make demo`: scenes of the test split as the search's best trial sees them, its curves, the search,
and what the queries of the best trial have specialized in. Each picture is smaller than 60 kB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from notebook import small

from speaq import load_study

SCENES = ("100112", "100132", "100176")  # of the first 60 of the test split: those show many predicates


def pictures(demo: Path, scenes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each."""
    study = load_study(demo / "search")
    run = study.run()
    predictor = run.predictor()
    for number, scene in enumerate(scenes, start=1):
        yield f"scene-{number}", predictor.predict(demo / "data" / "VG_100K" / f"{scene}.jpg")._repr_png_()
    yield "curves", run.figure()._repr_png_()
    yield "plane", study.figure()._repr_png_()
    yield "search", (study.folder / "search.png").read_bytes()
    yield "specialization", specialization(run.folder)


def specialization(run: Path) -> bytes:
    """What `speaq specialization` draws of a run."""
    with tempfile.TemporaryDirectory() as folder:
        speaq = [sys.executable, "-m", "speaq.cli", "specialization", str(run), "--output", folder]
        subprocess.run(speaq, check=True, stdout=subprocess.DEVNULL)
        return next(Path(folder).glob("*.png")).read_bytes()


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description="make the pictures of the gallery")
    made.add_argument("demo", type=Path, help="what `speaq demo` wrote")
    made.add_argument("output", type=Path, help="folder of the pictures")
    made.add_argument("--scenes", nargs="+", default=SCENES, help="photos, by their numbers")
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name, png in pictures(given.demo, tuple(given.scenes)):
        (given.output / f"{name}.png").write_bytes(small(png))
