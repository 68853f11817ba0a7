"""The command line: parse, call, print. Heavy imports happen inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.cluster import cluster_app
from speaq.cli.convert import convert_app
from speaq.cli.explore import explore_app
from speaq.cli.groups import groups_app
from speaq.cli.logs import logs_app
from speaq.cli.microscope import microscope_app
from speaq.cli.model import model_app
from speaq.cli.search import search_app
from speaq.cli.terminal import (
    DONE,
    FAILED,
    USAGE,
    AsJson,
    Assignments,
    ConfigFile,
    DataDir,
    Force,
    InitFrom,
    OutputDir,
    Resume,
    RunData,
    SplitOption,
    at_urls,
    command,
    confess,
    echo,
    echo_json,
    echo_lines,
    keep_printing,
    launch,
    options,
    print_table,
    progress_bar,
    saver,
    shown,
)
from speaq.files import storage
from speaq.files.home import make_up_home
from speaq.training.folder import has_checkpoint
from speaq.training.origins import check_resumable, run_data, with_start

if TYPE_CHECKING:
    from speaq.runs.run import RunEvaluation

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
app.callback()(options)
data_app = typer.Typer(no_args_is_help=True, help="Make, check and describe data sets.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
data_app.add_typer(convert_app)
app.add_typer(model_app)


@data_app.command("make")
@command
def data_make(
    directory: Path,
    images: Annotated[int, typer.Option(min=10, help="number of images")] = 6000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate the toy world in Visual Genome's layout."""
    from speaq.data.toy.world import make_toy

    if directory.exists() and any(directory.iterdir()):
        raise configs.ConfigError(f"{directory}: is not empty; give a new folder")
    with progress_bar("drawing") as progress:
        make_toy(directory, images, seed, lambda done: progress(done, images, ""))
    echo(f"{images} images in {directory}")


@data_app.command("check")
@command
def data_check(directory: Path, as_json: AsJson = False) -> int:
    """List every problem of a data set: file · row · field · rule · value."""
    from speaq.data.visual_genome import check

    problems = check(directory)
    if as_json:
        echo_json([vars(p) for p in problems])
    else:
        for problem in problems:
            echo(str(problem))
    errors = sum(p.severity == "error" for p in problems)
    if not as_json:
        echo(f"{errors} errors, {len(problems) - errors} warnings")
    return USAGE if errors else DONE


@data_app.command("stats")
@command
def data_stats(directory: Path, as_json: AsJson = False) -> None:
    """Count images, boxes, relations and predicates."""
    from speaq.data.statistics import stats_report
    from speaq.data.visual_genome import open_data

    report = stats_report(open_data(directory, need_images=False))
    if as_json:
        echo_json(report)
        return
    for key, value in report.items():
        if not isinstance(value, dict):
            echo(f"{key.replace('_', ' '):28} {value}")
    _print_predicates(report)


def _print_predicates(report: dict[str, Any]) -> None:
    splits = report["splits"]
    rows = [
        (name, str(count), *(str(split["predicates"][name]) for split in splits.values()))
        for name, count in sorted(report["predicates"].items(), key=lambda item: -item[1])
    ]
    print_table(("predicate", "all", *splits), rows)


@config_app.command("show")
@command
def config_show(file: Path, assignments: Assignments, as_json: AsJson = False) -> None:
    """Print every key of a config with its value, type and meaning."""
    config = configs.load(file, assignments)
    if as_json:
        echo_json(configs.to_dict(config))
        return
    values = configs.flatten(configs.to_dict(config))
    for key, kind, meaning in configs.describe():
        echo(f"{key}: {json.dumps(values[key])}  # {kind}; {meaning}")


@app.command()
@command
@at_urls(output="work")
def pretrain(
    config: ConfigFile,
    output: OutputDir,
    assignments: Assignments,
    data: RunData = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    force: Force = False,
) -> None:
    """Train the object detector that SpeaQ starts from (`training.init_from`)."""
    _train("detector", configs.load(config, assignments), data, output, resume, init_from, force)


@app.command()
@command
@at_urls(output="work")
def train(
    config: ConfigFile,
    output: OutputDir,
    assignments: Assignments,
    data: RunData = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    force: Force = False,
) -> None:
    """Train SpeaQ (one run); several workers run as a Ray Train job."""
    _train("speaq", configs.load(config, assignments), data, output, resume, init_from, force)


def _train(
    task: Literal["speaq", "detector"],
    config: configs.Config,
    data: Path | None,
    output: Path,
    resume: bool,
    init_from: Path | None,
    force: bool,
) -> None:
    if force and not resume:
        raise configs.ConfigError("--force: has an effect with --resume alone")
    if resume:
        check_resumable(output)
    data = run_data(output, data, resume=resume)
    if init_from is not None:
        config = with_start(config, init_from)
    try:
        result = _trained(task, config, data, output, resume, force)
    except OSError as error:
        if (said := storage.line(error)) is None:
            raise
        raise RuntimeError(f"{said}; {_afterwards(output)}") from error
    echo(_metrics_line(result["metrics"]))
    best = result["best"]
    echo(
        f"best {best['metric']} {best['value']:.4f} at step {best['step']} · {result['protocol']} · "
        f"{result['seconds']:.0f} s · {shown(output)}"
    )


def _on_workers(config: configs.Config) -> bool:
    """Whether a run of the command line trains on Ray's workers: several, or one with GPUs of the cluster that
    RAY_ADDRESS names. Without one, a single worker's GPU is that of this machine.

    Raises ConfigError where there is none: a config that asks for a GPU does not train on a CPU without a word.
    """
    wanted = config.resources.gpus_per_worker
    if config.resources.num_workers > 1 or (wanted and os.environ.get("RAY_ADDRESS")):
        return True
    if wanted and config.training.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise configs.ConfigError(
                f"resources.gpus_per_worker: {wanted:g} asked for, but PyTorch sees no CUDA device; set RAY_ADDRESS "
                "to a cluster that has one, or --set resources.gpus_per_worker=0 to train on the CPU"
            )
    return False


def _trained(
    task: Literal["speaq", "detector"], config: configs.Config, data: Path, output: Path, resume: bool, force: bool
) -> dict[str, Any]:
    saved = saver(output)
    with progress_bar("training") as progress:
        if _on_workers(config):
            result: dict[str, Any] = launch("trials.worker").train_distributed(
                config, data, output, resume=resume, task=task, progress=progress, saved=saved, force=force
            )
            return result
        from speaq.training.loop import train as run

        return run(config, data, output, task=task, resume=resume, progress=progress, saved=saved, force=force)


def _afterwards(output: Path) -> str:
    """What the user can do with a run whose storage failed, when that is mended."""
    if has_checkpoint(output):
        return "then --resume goes on from its last checkpoint"
    if (output / "config.yaml").exists():
        return "then --resume begins again: there is no checkpoint yet"
    return "then give the same command again"


def _metrics_line(metrics: dict[str, float | None]) -> str:
    return " · ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


@app.command()
@command
@at_urls(run="weights")
def evaluate(
    run: Path,
    assignments: Assignments,
    split: SplitOption = "val",
    data: Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")] = None,
    predictions: Annotated[Path | None, typer.Option(help="HDF5 file to write for `speaq metrics`")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the best checkpoint of a run folder."""
    from speaq.runs.run import evaluate_run

    with progress_bar("evaluating") as progress:
        overrides = configs.parse_overrides(assignments)
        result = evaluate_run(run, split, data, predictions=predictions, overrides=overrides, progress=progress)
    if as_json:
        echo_json(_evaluation_json(result))
    elif result.evaluation.recall is None:
        echo(_metrics_line(result.evaluation.metrics))
    else:
        from speaq.evaluation.report import format_report

        echo_lines(format_report(result.evaluation.recall, result.predicates))
        echo(" · ".join(f"{n} {v:.4f}" for n, v in result.evaluation.metrics.items() if v is not None and "@" not in n))


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
    against: Annotated[
        Path | None, typer.Option(help="another file: differences with 95 % intervals (bootstrap over the images)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recalls of stored predictions, of any model, under every protocol."""
    from speaq.data.visual_genome import open_data
    from speaq.evaluation.protocols import compare_files, evaluate_file

    vg = open_data(data, need_images=(data / "VG_100K").is_dir())
    config = configs.EvaluationConfig(zero_shot=zero_shot)
    with progress_bar("evaluating") as progress:
        result = evaluate_file(predictions, vg, split, mode, config, progress)
        other = None if against is None else evaluate_file(against, vg, split, mode, config, progress)
    if other is not None:
        rows = compare_files(result, other)
        if as_json:
            echo_json([row._asdict() for row in rows])
        else:
            header = (f"protocol {result.record.protocol}", "this", "other", "difference", "95 %")
            print_table(header, [row.cells() for row in rows])
    elif as_json:
        echo_json(result.to_json(vg.vocabulary.predicates))
    else:
        print_table(*result.table())
        echo_lines(result.text(vg.vocabulary.predicates))


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
    from speaq.runs.convert import convert as convert_checkpoint

    echo(f"{convert_checkpoint(reference, run, data, config)} · {run}")


@app.command()
@command
@at_urls(checkpoint="weights")
def predict(
    images: Annotated[list[Path], typer.Argument(help="photos, or folders of them")],
    checkpoint: Annotated[Path, typer.Option(help="run folder, checkpoint or exported file")],
    output: OutputDir,
    top: Annotated[int, typer.Option(min=1, help="triplets of a photo at most")] = 20,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="least score of a triplet")] = 0.0,
    pictures: Annotated[
        Literal["png", "svg", "both", "none"], typer.Option(help="boxes on the photo beside the graph")
    ] = "png",
    batch_size: Annotated[int, typer.Option(min=1, help="photos at once")] = 8,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, max=89.0, help="larger photos are skipped, not decoded")
    ] = 89.0,
) -> int:
    """Scene graphs of your own photos as JSON and pictures; exit code 1 where a photo could not be read."""
    from speaq.prediction.predictor import predict_files

    kinds = {"png": [".png"], "svg": [".svg"], "both": [".png", ".svg"], "none": []}[pictures]
    with progress_bar("predicting") as progress:
        done, failed, others = predict_files(
            images,
            checkpoint,
            output,
            top,
            threshold,
            [".json", *kinds],
            batch_size,
            device,
            progress,
            round(max_megapixels * 1e6),
        )
    for error in failed:
        echo(f"skipped {error}", err=True)
    skipped = f", {len(failed)} skipped" if failed else ""
    echo(f"{done} photos in {output}{skipped}" + (f", {others} files of other kinds ignored" if others else ""))
    return FAILED if failed else DONE


app.add_typer(microscope_app)
app.add_typer(search_app)
app.add_typer(groups_app)
app.add_typer(explore_app)
app.add_typer(logs_app)
app.add_typer(cluster_app)


def main() -> None:
    # Threads that spin while they wait stall each other on a busy machine: 7-33 images/s became 84-109 (two threads).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_printing()
    try:
        make_up_home()
        app()
    finally:
        confess()


if __name__ == "__main__":
    main()
