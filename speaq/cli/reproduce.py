"""The whole way, from data to figures: the published ones, or a demonstration on a generated world."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speaq.cli.options import Assignments, OutputDir
from speaq.cli.tables import show, table
from speaq.cli.terminal import echo, echo_lines, progress_bar, progress_bars
from speaq.training.endings import DONE, FAILED

if TYPE_CHECKING:
    from speaq.cli.launched import demo as demonstration

COLUMNS = ("R@20", "mR@20", "head@20", "body@20", "tail@20", "R@50", "mR@50", "ngR@20", "zR@20", "AP50")


def reproduce(
    output: OutputDir,
    assignments: Assignments,
    data: Annotated[
        Path | None, typer.Option("--data", help="data set: the four files of Visual Genome", metavar="DATA")
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            "--detector", help="pre-trained detector to start from: a run, or the reference's file", metavar="RUN"
        ),
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option("--backbone", help="ImageNet weights, to pre-train a detector from")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="evaluate it alone: a run, or the reference's file", metavar="RUN"),
    ] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="the baseline instead of SpeaQ")] = False,
    scale: Annotated[Literal["full", "toy"], typer.Option("--scale", help="toy: the whole way in minutes")] = "full",
) -> int:
    """Reproduce the published figures.

    Checks the data, trains, tests once, and compares.
    """
    from speaq.cli.launched import reproduce as job

    request = job.Request(
        scale=scale,
        baseline=baseline,
        data=data,
        detector=detector,
        backbone=backbone,
        checkpoint=run,
        assignments=tuple(assignments),
    )
    with progress_bars() as progress:
        texts = job.reproduce(request, output, progress, echo)
    for text in texts:
        echo_lines(text)
    return DONE


def demo(
    assignments: Assignments,
    output: OutputDir = Path("demo"),
    images: Annotated[int | None, typer.Option("--images", min=100, help="images of the toy world")] = None,
) -> int:
    """See it all on a toy world: data, detector, search, picture."""
    from speaq.cli.launched import demo as job
    from speaq.cli.launched import stages as shared
    from speaq.cli.trials import print_trials, watched

    begin = time.monotonic()
    stages, detector_config = shared.Stages(output, progress_bar), job.detector_config(assignments)
    output.mkdir(parents=True, exist_ok=True)
    data = stages.toy_world(images or shared.TOY_IMAGES)
    echo(f"1/4 toy world: {data}")
    detector = job.pretrain(stages, detector_config, data)
    echo(f"2/4 detector: {detector}")
    config = job.trial_config(assignments, detector)
    found = job.search(stages, config, data, assignments, display=watched)
    echo(f"3/4 search on {config.data.num_val} validation images: {found.folder}")
    print_trials(found.entries, found.plan, str(found.folder))
    if found.best is None:
        echo("no trial finished")
        return FAILED
    _print_comparison(job.compare(stages, config, data, found))
    echo(f"{time.monotonic() - begin:.0f} s · {found.folder / 'best.yaml'} · {found.folder / 'search.png'}")
    return DONE


def _print_comparison(found: demonstration.Comparison) -> None:
    echo(f"4/4 on the {found.images} images of the test split, protocol {found.protocol}:")
    metrics = [(label, [evaluation.metrics.get(name) for name in COLUMNS]) for label, evaluation in found.rows]
    cells = [(label, *("-" if value is None else f"{value:.3f}" for value in values)) for label, values in metrics]
    show(table(("", *COLUMNS), cells, left=len(COLUMNS) + 1))
