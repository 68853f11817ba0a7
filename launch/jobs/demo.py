"""`make demo`: the main job on a generated world, from nothing to a tuned SpeaQ. Every stage resumes where it was."""

from __future__ import annotations

import time
from pathlib import Path

from launch.jobs import status
from launch.jobs import tune as studies
from launch.jobs.shipped import for_detector, shipped
from launch.trials import place
from speaq import config as configs
from speaq import space as spaces
from speaq.cli.terminal import echo, show, table
from speaq.config import Config
from speaq.data.toy.world import ANNOTATIONS, make_toy
from speaq.evaluation.protocol import common_protocol
from speaq.runs.run import evaluate_run, evaluate_start
from speaq.study import creation, file, results, seal
from speaq.study.ledger import Entry
from speaq.training.callbacks import Progresses
from speaq.training.evaluate import Evaluation

IMAGES = 6000  # of them 1,500 are the test split
SEED = 0
COLUMNS = ("R@20", "mR@20", "head@20", "body@20", "tail@20", "R@50", "mR@50", "ngR@20", "zR@20", "AP50")


def run_demo(output: Path, images: int | None, assignments: list[str], progress: Progresses) -> int:
    """Generates data, pre-trains a detector, searches, evaluates on the test split; returns the exit code.

    Args:
        output: folder of the demo; stages found finished there are not repeated.
        images: size of the toy world, default `IMAGES`.
        assignments: `key=value` for the detector and every trial.
        progress: context manager factory, title → callable(done, total, text).

    Raises:
        ConfigError: the checkout's configs are missing, or an assignment cannot be used.
    """
    begin = time.monotonic()
    detector_config = configs.load(shipped("configs/toy_detector.yaml"), for_detector(assignments))
    output.mkdir(parents=True, exist_ok=True)
    data = _data(output / "data", images or IMAGES, progress)
    detector = _detector(detector_config, data, output / "detector", progress)
    config = configs.load(shipped("configs/toy.yaml"), [*assignments, f"training.init_from={detector}"])
    entries = _search(config, data, output / "search", assignments)
    best = results.best_entry(entries, file.read(output / "search" / "study.yaml").plan.objective)
    if best is None:
        echo("no trial finished")
        return 1
    with progress("evaluating the untrained model") as tell:
        start = evaluate_start(config, data, "test", progress=tell)
    search = output / "search"
    _compare(search, entries, best, start, progress)
    echo(f"{time.monotonic() - begin:.0f} s · {search / 'best.yaml'} · {search / 'search.png'}")
    return 0


def _data(folder: Path, images: int, progress: Progresses) -> Path:
    if not (folder / ANNOTATIONS).exists():  # written last: without, it was cut off
        with progress("drawing the toy world") as tell:
            make_toy(folder, images, SEED, lambda done: tell(done, images, ""))
    echo(f"1/4 toy world: {folder}")
    return folder


def _detector(config: Config, data: Path, folder: Path, progress: Progresses) -> Path:
    if not (folder / "result.json").exists():
        with progress("pre-training the detector") as tell:
            place.where_asked(config)(config, data, folder, task="detector", resume=True, progress=tell)
    echo(f"2/4 detector: {folder}")
    return folder


def _search(config: Config, data: Path, folder: Path, assignments: list[str]) -> list[Entry]:
    if (folder / "study.yaml").exists():
        entries = studies.resume(folder)
    else:
        space = spaces.load(shipped("search_spaces/toy.yaml"))
        fixed = list(configs.parse_overrides(assignments))
        entries = studies.start(creation.create(config, space, data, overrides=fixed), folder)
    echo(f"3/4 search on {config.data.num_val} validation images: {folder}")
    status.print_table(entries, file.read(folder / "study.yaml").plan)
    return entries


def _compare(search: Path, entries: list[Entry], best: Entry, start: Evaluation, progress: Progresses) -> None:
    """Prints untrained, baseline, published and best on the test split, which nothing was selected on."""
    if not seal.is_open(search):
        seal.unseal(search, "the demo's last table: the search is over")
    rows = [("untrained", start)]
    images = 0
    for label in ("baseline", "published", "best"):
        entry = best if label == "best" else next((e for e in entries if e.label == label), None)
        if entry is None or entry.state != "finished":
            continue
        with progress(f"evaluating {label}") as tell:
            result = evaluate_run(search / "trials" / entry.id, "test", progress=tell)
        images = result.images
        rows.append((f"{label} ({entry.id})", result.evaluation))
    protocol = common_protocol(evaluation.protocol for _, evaluation in rows)
    echo(f"4/4 on the {images} images of the test split, protocol {protocol}:")
    metrics = [(label, [evaluation.metrics.get(name) for name in COLUMNS]) for label, evaluation in rows]
    cells = [(label, *("-" if value is None else f"{value:.3f}" for value in values)) for label, values in metrics]
    show(table(("", *COLUMNS), cells, left=len(COLUMNS) + 1))
