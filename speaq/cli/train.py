"""Training: a detector, SpeaQ, and a run once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.evaluate import print_metrics
from speaq.cli.launched import Workspace, place
from speaq.cli.options import Assignments, BeginsWithData, DataDir, InitFrom, KnownData, OutputDir
from speaq.cli.terminal import echo, echo_words, progress_bar
from speaq.config import ConfigError
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

    assignments: Assignments
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="config: a YAML file, or the name of one that comes along [required; --resume finds it again]",
            metavar="CONFIG",
        ),
    ] = None
    data: BeginsWithData = None
    output: Annotated[
        Path | None, typer.Option("--output", help="run to write [required; not with --resume]", metavar="RUN")
    ] = None
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="run to go on with; without a folder that of --output", metavar="RUN"),
    ] = None
    init_from: InitFrom = None
    force: Annotated[
        bool, typer.Option("--force", help="with --resume: go on where the data set has changed since")
    ] = False

    @property
    def run(self) -> Path:
        """The folder of the run. Raises ConfigError where something is missing, or said twice."""
        if self.resume is not None:
            if self.output is not None:
                raise ConfigError(f"--output {self.output}: --resume {self.resume} says where the run is; leave it out")
            check_resumable(self.resume)
            return self.resume
        if self.force:
            raise ConfigError("--force: has an effect with --resume alone")
        missing = [f"--{name}" for name in ("config", "output") if getattr(self, name) is None]
        if self.output is None or self.config is None:
            raise ConfigError(f"missing {', '.join(missing)} (or --resume RUN to go on with a run)")
        return self.output


def pretrain(here: Workspace, asked: Training) -> None:
    """Train the object detector that a SpeaQ run starts from.

    Its folder is given to `speaq train` by --init-from, or as training.init_from in a config.
    """
    _train(here, "detector", asked)


def train(here: Workspace, asked: Training) -> None:
    """Train SpeaQ: one run.

    With resources.num_workers above 1 its workers run as a Ray Train job.
    """
    _train(here, "speaq", asked)


def _train(here: Workspace, task: TaskName, asked: Training) -> None:
    run = asked.run
    config = configs.load(asked.config or run / "config.yaml", asked.assignments)
    data = run_data(run, asked.data, resume=asked.resume is not None)
    config = config if asked.init_from is None else with_start(config, asked.init_from)
    try:
        result = _trained(here, task, config, data, asked)
    except OSError as error:
        if (said := storage.line(error)) is None:
            raise
        raise RuntimeError(f"{said}; {_afterwards(run)}") from error
    print_metrics(result["metrics"], result["step"])
    best = result["best"]
    echo_words(
        f"best {best['metric']} {best['value']:.4f} at step {best['step']} · {result['protocol']} · "
        f"{result['seconds']:.0f} s · {here.name_of(run)}"
    )
    if (why := why_zero(result["metrics"], "val", config.training.max_steps)) is not None:
        echo(why, err=True)


def _trained(here: Workspace, task: TaskName, config: configs.Config, data: Path, asked: Training) -> dict[str, Any]:
    run = asked.run
    given: dict[str, Any] = {"task": task, "resume": asked.resume is not None, "force": asked.force}
    with progress_bar("training") as progress:
        calls = Callbacks(saved=here.saver(run), progress=progress)
        if place.on_workers(config, own_gpu=True):
            from speaq.cli.launched import worker

            return worker.train_distributed(config, data, run, calls, url=here.url_of(run), **given)
        from speaq.training.loop import train

        return train(config, data, run, **vars(calls), **given)


def _afterwards(output: Path) -> str:
    """What the user can do with a run whose storage failed, when that is mended."""
    if has_checkpoint(output):
        return "then --resume goes on from its last checkpoint"
    if (output / "config.yaml").exists():
        return "then --resume begins again: there is no checkpoint yet"
    return "then give the same command again"


def cache(
    run: Annotated[Path, typer.Argument(help="run or checkpoint whose backbone and encoder to use", metavar="RUN")],
    data: DataDir,
    output: OutputDir,
    assignments: Assignments,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="config to train with later; default: the run's", metavar="CONFIG"),
    ] = None,
    views: Annotated[int, typer.Option("--views", help="augmented views of each training image")] = 1,
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option("--precision", help="of the numbers that are stored")
    ] = "float32",
) -> None:
    """Store features of all images, to train the decoder from.

    They are what backbone and encoder of RUN make of every image; training.features takes their folder.
    """
    from speaq.runs import cache as caching

    def said(size: caching.Size) -> None:
        left = "" if size.left == size.bytes else f", {size.left / 2**20:.1f} MiB of them are to be made"
        echo(f"{size.pictures} pictures, about {size.bytes / 2**20:.1f} MiB of features{left}", err=True)

    if config is None:
        given = configs.apply(caching.config_of(run), configs.parse_overrides(assignments))
    else:
        given = configs.load(config, assignments)
    asked = caching.asked(run, given, data, output, views=views, precision=precision)
    work = caching.make_here
    if place.on_workers(given, own_gpu=True):
        from speaq.cli.launched import cache as features

        work = features.make_on_ray
    header = caching.cache(asked, progress_bar, work, said=said)
    echo(f"{sum(header.entries.values())} pictures in {output}; train with --set training.features={output}")


def rerun(
    run: Annotated[
        Path, typer.Argument(help="folder of a run, or of a trial of a study, that has ended", metavar="RUN")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="new folder; default: RUN-rerun", metavar="FOLDER")
    ] = None,
    data: KnownData = None,
    init_from: InitFrom = None,
) -> int:
    """Train a run again and say whether its metrics are equal.

    The exit code is 1 where they are not.
    """
    from speaq.cli.launched import rerun as job

    found = job.rerun(run, output, data, progress_bar, start=init_from)
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
