"""Training: a detector, SpeaQ, and a run once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.evaluate import metrics_line
from speaq.cli.launched import Workspace, place
from speaq.cli.options import DATA_HELP, Assignments, DataDir, InitFrom, KnownData, OutputDir
from speaq.cli.terminal import echo, progress_bar
from speaq.evaluation.zeros import why_zero
from speaq.files import storage
from speaq.training.callbacks import Callbacks
from speaq.training.endings import DONE, FAILED
from speaq.training.folder import has_checkpoint
from speaq.training.origins import check_resumable, run_data, with_start

if TYPE_CHECKING:
    from speaq.cli.launched import rerun as again
    from speaq.training.tasks import TaskName


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the user asks of a training."""

    config: Annotated[Path, typer.Option("--config", help="YAML config, see configs/", dir_okay=False)]
    output: OutputDir
    assignments: Assignments
    data: Annotated[Path | None, typer.Option("--data", help=f"{DATA_HELP}; --resume finds it again")] = None
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --output")] = False
    init_from: InitFrom = None
    force: Annotated[
        bool, typer.Option("--force", help="with --resume: go on where the data set has changed since")
    ] = False


def pretrain(here: Workspace, asked: Training) -> None:
    """Train the object detector that SpeaQ starts from (`training.init_from`)."""
    _train(here, "detector", asked)


def train(here: Workspace, asked: Training) -> None:
    """Train SpeaQ (one run); several workers run as a Ray Train job."""
    _train(here, "speaq", asked)


def _train(here: Workspace, task: TaskName, asked: Training) -> None:
    config = configs.load(asked.config, asked.assignments)
    if asked.force and not asked.resume:
        raise configs.ConfigError("--force: has an effect with --resume alone")
    if asked.resume:
        check_resumable(asked.output)
    data = run_data(asked.output, asked.data, resume=asked.resume)
    config = config if asked.init_from is None else with_start(config, asked.init_from)
    try:
        result = _trained(here, task, config, data, asked)
    except OSError as error:
        if (said := storage.line(error)) is None:
            raise
        raise RuntimeError(f"{said}; {_afterwards(asked.output)}") from error
    echo(metrics_line(result["metrics"]))
    best = result["best"]
    echo(
        f"best {best['metric']} {best['value']:.4f} at step {best['step']} · {result['protocol']} · "
        f"{result['seconds']:.0f} s · {here.name_of(asked.output)}"
    )
    if (why := why_zero(result["metrics"], "val", config.training.max_steps)) is not None:
        echo(why, err=True)


def _trained(here: Workspace, task: TaskName, config: configs.Config, data: Path, asked: Training) -> dict[str, Any]:
    given: dict[str, Any] = {"task": task, "resume": asked.resume, "force": asked.force}
    with progress_bar("training") as progress:
        calls = Callbacks(saved=here.saver(asked.output), progress=progress)
        if place.on_workers(config, own_gpu=True):
            from speaq.cli.launched import worker

            return worker.train_distributed(config, data, asked.output, calls, url=here.url_of(asked.output), **given)
        from speaq.training.loop import train as run

        return run(config, data, asked.output, **vars(calls), **given)


def _afterwards(output: Path) -> str:
    """What the user can do with a run whose storage failed, when that is mended."""
    if has_checkpoint(output):
        return "then --resume goes on from its last checkpoint"
    if (output / "config.yaml").exists():
        return "then --resume begins again: there is no checkpoint yet"
    return "then give the same command again"


def cache(
    start: Annotated[Path, typer.Argument(help="run or checkpoint whose backbone and encoder to use", metavar="START")],
    data: DataDir,
    output: OutputDir,
    assignments: Assignments,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML config to train with later; default: the start's", dir_okay=False),
    ] = None,
    views: Annotated[int, typer.Option("--views", help="augmented views of each training picture")] = 1,
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option("--precision", help="of the numbers that are stored")
    ] = "float32",
) -> None:
    """Store what backbone and encoder make of every picture, to train from (`training.features`)."""
    from speaq.runs import cache as caching

    def said(size: caching.Size) -> None:
        left = "" if size.left == size.bytes else f", {size.left / 2**20:.1f} MiB of them are to be made"
        echo(f"{size.pictures} pictures, about {size.bytes / 2**20:.1f} MiB of features{left}", err=True)

    if config is None:
        given = configs.apply(caching.config_of(start), configs.parse_overrides(assignments))
    else:
        given = configs.load(config, assignments)
    asked = caching.asked(start, given, data, output, views=views, precision=precision)
    work = caching.make_here
    if place.on_workers(given, own_gpu=True):
        from speaq.cli.launched import cache as features

        work = features.make_on_ray
    header = caching.cache(asked, progress_bar, work, said=said)
    echo(f"{sum(header.entries.values())} pictures in {output}; train with --set training.features={output}")


def rerun(
    trial: Annotated[Path, typer.Argument(help="folder of a run or trial that has ended")],
    output: Annotated[Path | None, typer.Option("--output", help="new folder, default: TRIAL-rerun")] = None,
    data: KnownData = None,
    init_from: InitFrom = None,
) -> int:
    """Train a run again from its folder; exit code 0 where all metrics are equal, 1 where not."""
    from speaq.cli.launched import rerun as job

    found = job.rerun(trial, output, data, progress_bar, start=init_from)
    _print_rerun(found)
    return DONE if found.equal else FAILED


def _print_rerun(found: again.Rerun) -> None:
    for pair in found.pairs:
        if pair.gap:
            echo(f"{pair.which} {pair.name}: {pair.then} then, {pair.now} now")
    if found.equal:
        echo(f"equal: {len(found.pairs)} metrics and losses of {found.before} and {found.after}")
        return
    count, most = sum(pair.gap > 0 for pair in found.pairs), found.widest
    echo(
        f"different: {count} of {len(found.pairs)} metrics and losses, "
        f"most of all {most.name} ({most.which}) by {most.gap:.6g} · {found.after}"
    )
