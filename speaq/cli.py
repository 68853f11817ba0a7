"""The command line: parse, call, print. Heavy imports happen inside the commands, so that --help is quick."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from speaq import config as configs
from speaq.data import DataError

if TYPE_CHECKING:
    from speaq.training.run import RunEvaluation

P = ParamSpec("P")
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
data_app = typer.Typer(no_args_is_help=True, help="Make, check and describe data sets.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[Path, typer.Option("--config", help="YAML config, see configs/", dir_okay=False)]
DataDir = Annotated[Path, typer.Option("--data", help="folder with the four files of the data set")]
OutputDir = Annotated[Path, typer.Option("--output", help="folder to write")]
Assignments = Annotated[list[str], typer.Option("--set", help="key=value, any number of times", default_factory=list)]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --output")]
SplitOption = Annotated[Literal["val", "test", "train"], typer.Option("--split")]
StudyDir = Annotated[Path, typer.Argument(help="folder of a search", metavar="STUDY")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

_traceback = False


@app.callback()
def _options(traceback: Annotated[bool, typer.Option(help="show the traceback of an error")] = False) -> None:
    global _traceback
    _traceback = traceback
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turns expected errors into one line on stderr and an exit code: 1 failed, 2 usage, 130 interrupted."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, _raise_interrupt)
        try:
            code = function(*args, **kwargs)
        except KeyboardInterrupt:
            _complain("interrupted", INTERRUPTED)
        except Exception as error:
            if _traceback:
                raise
            text = " ".join(str(error).split())
            if isinstance(error, configs.ConfigError | DataError):
                _complain(text, USAGE)
            if type(error).__name__ == "Interrupted":
                _complain(text, INTERRUPTED)
            _complain(
                text if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {text}", FAILED
            )
        else:
            raise typer.Exit(code or DONE)

    return wrapper


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _complain(message: str, code: int) -> None:
    typer.echo(f"speaq: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with ETA on a terminal; elsewhere a plain line every ten seconds. Both on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
        return
    begin, first, shown = 0.0, -1, 0.0

    def line(done: int, total: int, text: str) -> None:
        nonlocal begin, first, shown
        now = time.monotonic()
        if first < 0:  # a resumed run starts here
            begin, first, shown = now, done, now
        if now - shown >= 10 and done > first:
            shown = now
            left = (now - begin) / (done - first) * (total - done)
            typer.echo(f"{title} {done}/{total} · {text} · {left:.0f} s left", err=True)

    yield line


@data_app.command("make")
@command
def data_make(
    directory: Path,
    images: Annotated[int, typer.Option(min=10, help="number of images")] = 6000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate the toy world in Visual Genome's layout."""
    from speaq.data.toy import make_toy

    if directory.exists() and any(directory.iterdir()):
        raise configs.ConfigError(f"{directory}: is not empty; give a new folder")
    with _progress("drawing") as progress:
        make_toy(directory, images, seed, lambda done: progress(done, images, ""))
    typer.echo(f"{images} images in {directory}")


@data_app.command("check")
@command
def data_check(directory: Path, as_json: AsJson = False) -> int:
    """List every problem of a data set: file · row · field · rule · value."""
    from speaq.data.visual_genome import check

    problems = check(directory)
    if as_json:
        typer.echo(json.dumps([vars(p) for p in problems], indent=1, default=str))
    else:
        for problem in problems:
            typer.echo(str(problem))
    errors = sum(p.severity == "error" for p in problems)
    if not as_json:
        typer.echo(f"{errors} errors, {len(problems) - errors} warnings")
    return USAGE if errors else DONE


@data_app.command("stats")
@command
def data_stats(directory: Path, as_json: AsJson = False) -> None:
    """Count images, boxes, relations and predicates."""
    from speaq.data.statistics import stats_report
    from speaq.data.visual_genome import open_data

    report = stats_report(open_data(directory, need_images=False))
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    for key, value in report.items():
        if not isinstance(value, dict):
            typer.echo(f"{key.replace('_', ' '):28} {value}")
    _print_predicates(report)


def _print_predicates(report: dict[str, Any]) -> None:
    splits = report["splits"]
    rows = [
        (name, str(count), *(str(split["predicates"][name]) for split in splits.values()))
        for name, count in sorted(report["predicates"].items(), key=lambda item: -item[1])
    ]
    _table(("predicate", "all", *splits), rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False).print(table)


@config_app.command("show")
@command
def config_show(file: Path, assignments: Assignments, as_json: AsJson = False) -> None:
    """Print every key of a config with its value, type and meaning."""
    config = configs.load(file, assignments)
    if as_json:
        typer.echo(json.dumps(configs.to_dict(config), indent=1))
        return
    values = configs.flatten(configs.to_dict(config))
    for key, kind, meaning in configs.describe():
        typer.echo(f"{key}: {json.dumps(values[key])}  # {kind}; {meaning}")


@app.command()
@command
def groups(
    data: DataDir,
    num_groups: Annotated[int, typer.Option(min=1, help="G")] = 4,
    num_queries: Annotated[int, typer.Option(min=1, help="Q")] = 300,
    query_multiple: Annotated[int, typer.Option(min=1, help="m")] = 2,
    as_json: AsJson = False,
) -> None:
    """Print the predicate groups of a data set's train split and the queries that each group gets."""
    from speaq.data.statistics import predicate_count
    from speaq.data.visual_genome import open_data
    from speaq.matching.groups import group_table, make_groups

    vg = open_data(data, need_images=False)
    names = vg.vocabulary.predicates
    counts = predicate_count(vg.split("train", configs.DataConfig(num_val=0)), len(names))[:-1].tolist()
    table = group_table(make_groups(counts, num_groups, num_queries), names, counts, query_multiple)
    if as_json:
        typer.echo(json.dumps([dict(zip(GROUP_COLUMNS, row, strict=True)) for row in table], indent=1))
    else:
        _table(GROUP_COLUMNS, [tuple(str(value) for value in row) for row in table])


GROUP_COLUMNS = ("group", "predicates", "share", "subject queries", "relation queries", "members")


@app.command()
@command
def pretrain(
    config: ConfigFile, data: DataDir, output: OutputDir, assignments: Assignments, resume: Resume = False
) -> None:
    """Train the object detector that SpeaQ starts from (`training.init_from`)."""
    _train("detector", configs.load(config, assignments), data, output, resume)


@app.command()
@command
def train(
    config: ConfigFile, data: DataDir, output: OutputDir, assignments: Assignments, resume: Resume = False
) -> None:
    """Train SpeaQ (one run); several workers run as a Ray Train job."""
    _train("speaq", configs.load(config, assignments), data, output, resume)


def _train(task: Literal["speaq", "detector"], config: configs.Config, data: Path, output: Path, resume: bool) -> None:
    with _progress("training") as progress:
        if config.resources.num_workers > 1:
            worker = _launch("worker")
            result = worker.train_distributed(config, data, output, resume=resume, task=task, progress=progress)
        else:
            from speaq.training.loop import train as run

            result = run(config, data, output, task=task, resume=resume, progress=progress)
    typer.echo(_metrics_line(result["metrics"]))
    best = result["best"]
    typer.echo(
        f"best {best['metric']} {best['value']:.4f} at step {best['step']} · {result['protocol']} · "
        f"{result['seconds']:.0f} s · {output}"
    )


def _metrics_line(metrics: dict[str, float | None]) -> str:
    return " · ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


def _launch(module: str) -> Any:
    """A module of launch/, which needs Ray and Optuna."""
    import importlib

    try:
        return importlib.import_module(f"launch.{module}")
    except ModuleNotFoundError as error:
        raise configs.ConfigError(f'{error.name} is not installed: pip install -e ".[ray]"') from error


@app.command()
@command
def evaluate(
    run: Path,
    split: SplitOption = "val",
    data: Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")] = None,
    predictions: Annotated[Path | None, typer.Option(help="HDF5 file to write for `speaq metrics`")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the best checkpoint of a run folder."""
    from speaq.training.run import evaluate_run

    with _progress("evaluating") as progress:
        result = evaluate_run(run, split, data, predictions=predictions, progress=progress)
    if as_json:
        typer.echo(json.dumps(_evaluation_json(result), indent=1, allow_nan=False))
    elif result.evaluation.recall is None:
        typer.echo(_metrics_line(result.evaluation.metrics))
    else:
        from speaq.evaluation.report import format_report

        typer.echo(format_report(result.evaluation.recall, result.predicates))
        typer.echo(
            " · ".join(f"{n} {v:.4f}" for n, v in result.evaluation.metrics.items() if v is not None and "@" not in n)
        )


def _evaluation_json(result: RunEvaluation) -> dict[str, Any]:
    return {
        "task": result.task,
        "split": result.split,
        "images": result.images,
        "checkpoint": str(result.checkpoint),
        "step": result.step,
        "protocol": result.evaluation.protocol,
        "metrics": result.evaluation.metrics,
        **({} if result.evaluation.recall is None else {"report": result.report()}),
    }


@app.command()
@command
def metrics(
    predictions: Annotated[Path, typer.Argument(help="HDF5 file, see speaq/evaluation/predictions.py")],
    data: DataDir,
    split: SplitOption = "test",
    mode: Annotated[Literal["sgdet", "sgcls", "predcls", "phrase"], typer.Option("--mode")] = "sgdet",
    zero_shot: Annotated[
        Literal["file", "recompute"], typer.Option(help="triplets of zR, see evaluation.zero_shot")
    ] = "file",
    as_json: AsJson = False,
) -> None:
    """Recalls of stored predictions, of any model, under every protocol."""
    from speaq.data.visual_genome import open_data
    from speaq.evaluation.protocols import evaluate_file

    vg = open_data(data, need_images=(data / "VG_100K").is_dir())
    config = configs.EvaluationConfig(zero_shot=zero_shot)
    with _progress("evaluating") as progress:
        result = evaluate_file(predictions, vg, split, mode, config, progress)
    if as_json:
        typer.echo(json.dumps(result.to_json(vg.vocabulary.predicates), indent=1, allow_nan=False))
    else:
        _table(*result.table())
        typer.echo(result.text(vg.vocabulary.predicates))


@app.command()
@command
def convert(
    reference: Annotated[Path, typer.Argument(help="file of the reference implementation")],
    run: Annotated[Path, typer.Argument(help="run folder to write")],
    data: Annotated[
        Path | None, typer.Option("--data", help="names of classes and predicates; default: numbers alone")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="all but the network's shape; default: published settings")
    ] = None,
) -> None:
    """Turn a published checkpoint of the reference into a run folder."""
    from speaq.training.convert import convert as convert_checkpoint

    typer.echo(f"{convert_checkpoint(reference, run, data, config)} · {run}")


@app.command()
@command
def tune(
    assignments: Assignments,
    config: Annotated[Path | None, typer.Option("--config", help="YAML config, see configs/")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="YAML search space, see search_spaces/")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="folder with the four files of the data set")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="folder to write")] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="default: the search space's")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="one or two metrics: R@50,mR@50")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="folder of a search to finish")] = None,
) -> int:
    """Search hyper-parameters with Ray Tune and Optuna."""
    result: int = _launch("cli").tune_command(
        config=config,
        space=space,
        data=data,
        output=output,
        trials=trials,
        objective=objective,
        assignments=assignments,
        resume=resume,
    )
    return result


@app.command()
@command
def status(study: StudyDir, as_json: AsJson = False) -> None:
    """What a search has done, is doing and costs, from another terminal or afterwards."""
    _launch("status").print_status(study, as_json=as_json)


@app.command()
@command
def export(
    study: StudyDir, output: Annotated[Path, typer.Argument(help="new file: .csv, .parquet or .tex (LaTeX)")]
) -> None:
    """Write all trials of a search as a table."""
    typer.echo(f"{_launch('export').export(study, output)} trials · {output}")


@app.command()
@command
def report(
    study: StudyDir,
    output: Annotated[Path | None, typer.Option("--output", help="default: report.html in the study")] = None,
) -> None:
    """Write a page about a search, with plots, that needs no network."""
    typer.echo(str(_launch("report").write_report(study, output)))


@app.command()
@command
def diff(
    first: Annotated[Path, typer.Argument(help="folder of a run or trial")],
    second: Annotated[Path, typer.Argument(help="another one")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: config, data, versions, metrics, recall by predicate."""
    _launch("compare").diff(first, second, as_json=as_json)


@app.command()
@command
def rerun(
    trial: Annotated[Path, typer.Argument(help="folder of a run or trial that has ended")],
    output: Annotated[Path | None, typer.Option("--output", help="new folder, default: TRIAL-rerun")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")] = None,
) -> int:
    """Train a run again from its folder; exit code 0 where all metrics are equal, 1 where not."""
    result: int = _launch("rerun").rerun(trial, output, data, _progress)
    return result


@app.command()
@command
def reproduce(
    output: OutputDir,
    assignments: Assignments,
    data: Annotated[Path | None, typer.Option("--data", help="folder with the four files of Visual Genome")] = None,
    detector: Annotated[
        Path | None, typer.Option(help="pre-trained detector: a run, or the reference's file, to start from")
    ] = None,
    backbone: Annotated[Path | None, typer.Option(help="ImageNet weights, to pre-train a detector from")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="evaluate this one only, ours or the reference's")] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="the baseline instead of SpeaQ")] = False,
    scale: Annotated[Literal["full", "toy"], typer.Option(help="toy: the whole way in minutes")] = "full",
) -> int:
    """Reproduce the published figures: check the data, train, test once, compare. See launch/reproduce."""
    module = _launch("reproduction")
    request = module.Request(
        scale=scale,
        baseline=baseline,
        data=data,
        detector=detector,
        backbone=backbone,
        checkpoint=checkpoint,
        assignments=tuple(assignments),
    )
    result: int = module.reproduce(request, output, _progress)
    return result


@app.command()
@command
def demo(
    assignments: Assignments,
    output: OutputDir = Path("demo"),
    images: Annotated[int | None, typer.Option(min=100, help="size of the toy world")] = None,
) -> int:
    """The main job on a generated world: data, detector, search, table, picture."""
    result: int = _launch("demo").run_demo(output, images, assignments, _progress)
    return result


def main() -> None:
    # Threads that spin while they wait stall each other on a busy machine: 7-33 images/s became 84-109 (two threads).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


if __name__ == "__main__":
    main()
