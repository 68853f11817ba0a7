"""Commands of the search: they need Ray and Optuna (launch/), which are imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from speaq.cli.diff import print_difference
from speaq.cli.terminal import (
    AsJson,
    Assignments,
    InitFrom,
    OutputDir,
    StudyDir,
    at_urls,
    command,
    echo,
    launch,
    progress_bar,
    shown,
)

search_app = typer.Typer()


@search_app.command()
@command
@at_urls(output="work", resume="work", from_predictions="weights")
def tune(
    assignments: Assignments,
    config: Annotated[Path | None, typer.Option("--config", help="YAML config, see configs/")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="YAML search space, see search_spaces/")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="folder with the four files of the data set")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="folder to write")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="default: the search space's")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="one or two metrics: R@50,mR@50")] = None,
    search: Annotated[
        list[str] | None, typer.Option("--search", help="key=value of the space's `search`: sampler=gp, seed=1 …")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="most that the search may take in all: 8h, 90m, 40gpu-h, 20cpu-h")
    ] = None,
    from_predictions: Annotated[
        Path | None,
        typer.Option("--from-predictions", help="trained run whose decoding to search: minutes, no training"),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Optuna storage that follows the search: sqlite:///FILE, postgresql://, mysql://, journal:///FILE or "
            "none; default: $SPEAQ_STORAGE (for URLs with a password), else study.db in the output",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="folder of a search to finish")] = None,
    init_from: InitFrom = None,
    force: Annotated[
        bool, typer.Option("--force", help="with --resume: go on although data, start or code have changed")
    ] = False,
) -> int:
    """Search hyper-parameters with Ray Tune and Optuna."""
    result: int = launch("jobs.tune_command").tune_command(
        config=config,
        space=space,
        data=data,
        output=output,
        trials=trials,
        objective=objective,
        assignments=assignments,
        search=search or (),
        budget=budget,
        storage=storage,
        force=force,
        from_predictions=from_predictions,
        init_from=init_from,
        progress=progress_bar,
        resume=resume,
    )
    return result


@search_app.command()
@command
@at_urls(study="small")
def status(study: StudyDir, as_json: AsJson = False) -> None:
    """What a search has done, is doing and costs, from another terminal or afterwards."""
    launch("jobs.status").print_status(study, as_json=as_json)


@search_app.command()
@command
@at_urls(output="work")
def calibrate(
    output: Annotated[Path, typer.Argument(help="folder of a search that stopped nothing early, or a new one")],
    assignments: Assignments,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; only for a new folder")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="search space, YAML; only for a new folder")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="data set; only for a new folder")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="settings to train in full, default: 8")] = None,
) -> int:
    """Find out when trials may be stopped: ranks at smaller budgets against the full one."""
    result: int = launch("jobs.calibrate").calibrate(
        output, config=config, space=space, data=data, trials=trials, assignments=assignments
    )
    return result


@search_app.command()
@command
@at_urls(study="small")
def unseal(
    study: StudyDir, reason: Annotated[str, typer.Option("--reason", help="why; it is noted and shown in the report")]
) -> None:
    """Open the test split of a search, when nothing will be chosen any more."""
    from speaq.study import seal

    seal.unseal(study, reason)
    echo(seal.summary(study))


@search_app.command()
@command
@at_urls(study="small")
def export(
    study: StudyDir, output: Annotated[Path, typer.Argument(help="new file: .csv, .parquet, .tex or .db (Optuna)")]
) -> None:
    """Write all trials of a search as a table."""
    echo(f"{launch('report.export').export(study, output)} trials · {output}")


@search_app.command()
@command
@at_urls(study="small")
def report(
    study: StudyDir,
    output: Annotated[Path | None, typer.Option("--output", help="default: report.html in the study")] = None,
) -> None:
    """Write a page about a search, with plots, that needs no network."""
    echo(shown(launch("report.page").write_report(study, output)))


@search_app.command()
@command
@at_urls(first="small", second="small")
def diff(
    first: Annotated[Path, typer.Argument(help="folder of a run or trial")],
    second: Annotated[Path, typer.Argument(help="another one")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: config, data, versions, metrics, recall by predicate."""
    print_difference(first, second, as_json=as_json)


@search_app.command()
@command
def rerun(
    trial: Annotated[Path, typer.Argument(help="folder of a run or trial that has ended")],
    output: Annotated[Path | None, typer.Option("--output", help="new folder, default: TRIAL-rerun")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")] = None,
    init_from: InitFrom = None,
) -> int:
    """Train a run again from its folder; exit code 0 where all metrics are equal, 1 where not."""
    result: int = launch("jobs.rerun").rerun(trial, output, data, progress_bar, start=init_from)
    return result


@search_app.command()
@command
@at_urls(study="work")
def confirm(
    study: StudyDir,
    seeds: Annotated[str, typer.Option("--seeds", help="new seeds: 3..7 (both ends included), or 3,5,9")],
    top: Annotated[int, typer.Option("--top", help="best trials to train; the published setting comes besides")] = 5,
    data: Annotated[Path | None, typer.Option("--data", help="default: where the search's data was")] = None,
    init_from: InitFrom = None,
    as_json: AsJson = False,
) -> int:
    """Train the best trials of a search with more seeds, as long as they cannot be told apart."""
    result: int = launch("jobs.confirm").confirm(
        study, seeds, top, data, progress_bar, start=init_from, as_json=as_json
    )
    return result


@search_app.command()
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
    module = launch("jobs.reproduce")
    request = module.Request(
        scale=scale,
        baseline=baseline,
        data=data,
        detector=detector,
        backbone=backbone,
        checkpoint=checkpoint,
        assignments=tuple(assignments),
    )
    result: int = module.reproduce(request, output, progress_bar)
    return result


@search_app.command()
@command
def demo(
    assignments: Assignments,
    output: OutputDir = Path("demo"),
    images: Annotated[int | None, typer.Option(min=100, help="size of the toy world")] = None,
) -> int:
    """The main job on a generated world: data, detector, search, table, picture."""
    result: int = launch("jobs.demo").run_demo(output, images, assignments, progress_bar)
    return result
