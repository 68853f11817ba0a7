"""Evaluation: of a run, and of predictions of any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.options import AsJson, Assignments, DataDir, KnownData, Mode, RunDir, SplitOption
from speaq.cli.tables import print_table, show, table
from speaq.cli.terminal import echo, echo_json, echo_lines, progress_bar
from speaq.evaluation.zeros import why_zero

if TYPE_CHECKING:
    from speaq.runs.run import RunEvaluation


def metrics_line(metrics: Mapping[str, float | None]) -> str:
    """Writes the metrics that have a value in one line."""
    return " · ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


# What recalls are called by whoever has not read docs/metrics.md.
_MEANINGS: Mapping[str, str] = {
    "R": "recall",
    "ngR": "recall, several predicates of a pair",
    "zR": "recall of triplets that train lacks",
    "mR": "mean recall over predicates",
    "F": "harmonic mean of R and mR",
    "head": "mean recall, frequent predicates",
    "body": "mean recall, those between",
    "tail": "mean recall, rare predicates",
}


def print_metrics(metrics: Mapping[str, float | None], step: int) -> None:
    """Prints the metrics of a training that have a value: recalls as a table, a column a K; others in one line."""
    known = {name: value for name, value in metrics.items() if value is not None}
    at_k = [name.partition("@") for name in known if "@" in name]
    if at_k:
        columns = list(dict.fromkeys(k for _, _, k in at_k))
        found = dict.fromkeys(name for name, _, _ in at_k)
        names = dict.fromkeys([*(name for name in _MEANINGS if name in found), *found])
        rows = [
            [
                name,
                *(f"{known[f'{name}@{k}']:.4f}" if f"{name}@{k}" in known else "" for k in columns),
                _MEANINGS.get(name, ""),
            ]
            for name in names
        ]
        header = [f"step {step}", *(f"@{k}" for k in columns), ""]
        show(table(header, rows, numbers=header[1:-1]))
    if rest := {name: value for name, value in known.items() if "@" not in name}:
        echo(metrics_line(rest))


def evaluate(
    run: RunDir,
    assignments: Assignments,
    split: SplitOption = "val",
    data: KnownData = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="HDF5 file to write, for `speaq metrics` and `speaq explore`")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the best checkpoint of a run: recalls, or AP of a detector."""
    from speaq.runs.run import evaluate_run

    with progress_bar("evaluating") as progress:
        overrides = configs.parse_overrides(assignments)
        result = evaluate_run(run, split, data, predictions=predictions, overrides=overrides, progress=progress)
    if as_json:
        echo_json(_evaluation_json(result))
    elif result.evaluation.recall is None:
        echo(metrics_line(result.evaluation.metrics))
    else:
        from speaq.evaluation.report import format_report

        echo_lines(format_report(result.evaluation.recall, result.predicates))
        echo(" · ".join(f"{n} {v:.4f}" for n, v in result.evaluation.metrics.items() if v is not None and "@" not in n))
    if not as_json and (why := why_zero(result.evaluation.metrics, split, result.step)) is not None:
        echo(why, err=True)


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


def metrics(
    predictions: Annotated[Path, typer.Argument(help="HDF5 file, as speaq evaluate writes it", metavar="PREDICTIONS")],
    data: DataDir,
    split: SplitOption = "test",
    mode: Annotated[Mode, typer.Option("--mode", help="what the model was given")] = "sgdet",
    zero_shot: Annotated[
        Literal["file", "recompute"],
        typer.Option("--zero-shot", help="triplets of zR: of the data set's list, or those that train lacks"),
    ] = "file",
    against: Annotated[
        Path | None,
        typer.Option("--against", help="another file: differences with 95 % intervals (bootstrap over the images)"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recalls of stored predictions, of any model."""
    from speaq.data.files import PhotoFolders
    from speaq.data.visual_genome import open_data
    from speaq.evaluation.protocols import compare_files, evaluate_file

    vg = open_data(data, need_images=PhotoFolders.of(data).exist)
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
