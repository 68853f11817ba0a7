"""Commands for a trained model outside our code: export and latency."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from speaq.cli.terminal import AsJson, at_urls, command, echo, echo_json, print_table, progress_bar

model_app = typer.Typer()


@model_app.command("export-model")
@command
@at_urls(run="weights")
def export_model(
    run: Annotated[Path, typer.Argument(help="run folder or checkpoint file")],
    outputs: Annotated[list[Path], typer.Argument(help="new files: .onnx, or .pt2 (torch.export)")],
    check: Annotated[
        list[Path] | None,
        typer.Option("--check", help="photos to compare on, or folders (the first 32); default: generated"),
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="largest difference of an output")] = 1e-3,
    as_json: AsJson = False,
) -> None:
    """Write a model that runs without our code, checked against PyTorch (tables of a search: `speaq export`)."""
    from speaq.prediction.export import export_model as export

    for name in ("onnxscript", "onnx_ir"):  # they say what their optimisers do, in a thousand lines
        logging.getLogger(name).setLevel(logging.ERROR)
    with progress_bar("exporting") as progress:
        made = export(run, outputs, check or (), tolerance=tolerance, progress=progress)
    if as_json:
        echo_json([vars(one) | {"file": str(one.file)} for one in made])
        return
    header = ("output", *(str(one.file) for one in made))
    names = made[0].difference
    print_table(header, [(name, *(f"{one.difference[name]:.2g}" for one in made)) for name in names])
    for one in made:
        echo(f"{one.file}: {one.size / 1e6:.1f} MB; above: largest differences from PyTorch, {one.batches} batches")


@model_app.command()
@command
@at_urls(models="weights")
def benchmark(
    models: Annotated[list[Path], typer.Argument(help="run folders, checkpoints, .onnx files")],
    photos: Annotated[
        list[Path] | None,
        typer.Option("--photos", help="photos, or folders (the first 32); default: a generated picture"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="photos of a call")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="times that all photos are looked at")] = 10,
    warmup: Annotated[int, typer.Option(min=0, help="calls that do not count")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    as_json: AsJson = False,
) -> None:
    """Latency of trained and exported models on the same photos: the network alone, without reading or decoding."""
    from speaq.analysis.latency import benchmark as measure

    with progress_bar("timing") as progress:
        found = measure(
            models,
            photos or (),
            batch_size=batch_size,
            rounds=rounds,
            warmup=warmup,
            threads=threads,
            device=device,
            progress=progress,
        )
    if as_json:
        echo_json([vars(latency) for latency in found])
        return
    rows = [
        (
            row.model,
            *(f"{value:.1f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.mean_ms, row.images_per_second)),
            str(row.calls),
        )
        for row in found
    ]
    print_table(("model", "p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "calls"), rows)
    echo(f"{found[0].device}, {found[0].threads} threads, {batch_size} photos a call, {warmup} calls of warm-up")
