"""What a trained model is for: predictions of photos, export, latency; and a run made from a published checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from speaq.cli.options import AsJson, Device, OutputDir, RunDir
from speaq.cli.tables import print_table
from speaq.cli.terminal import echo, echo_json, progress_bar
from speaq.data import DataError
from speaq.training.endings import DONE, FAILED


@dataclass(frozen=True, kw_only=True)
class Predicting:
    """What the user asks of `speaq predict`."""

    images: Annotated[list[Path], typer.Argument(help="photos, or folders of them", metavar="PHOTO")]
    run: Annotated[Path, typer.Option("--run", help="folder of a run, a checkpoint or an exported file", metavar="RUN")]
    output: OutputDir
    top: Annotated[int, typer.Option("--top", min=1, help="triplets of a photo at most")] = 20
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            help="least score of a triplet; default: in JSON any, in pictures a quarter of the photo's best and 0.05",
        ),
    ] = None
    loops: Annotated[bool, typer.Option("--loops", help="draw relations of a thing to itself too")] = False
    pictures: Annotated[
        Literal["png", "svg", "both", "none"],
        typer.Option("--pictures", help="boxes on the photo beside the graph, as files of this kind"),
    ] = "png"
    batch_size: Annotated[int, typer.Option(min=1, help="photos at once")] = 8
    device: Device = "auto"
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, max=89.0, help="larger photos are skipped, not decoded")
    ] = 89.0


def predict(asked: Predicting) -> int:
    """Find the scene graphs of your photos, as JSON and pictures.

    The exit code is 1 where a photo could not be read.
    """
    from speaq.prediction.predictor import predict_files

    kinds = {"png": [".png"], "svg": [".svg"], "both": [".png", ".svg"], "none": []}[asked.pictures]
    with progress_bar("predicting") as progress:
        done, failed, others = predict_files(
            asked.images,
            asked.run,
            asked.output,
            top=asked.top,
            threshold=asked.threshold,
            suffixes=[".json", *kinds],
            batch_size=asked.batch_size,
            device=asked.device,
            progress=progress,
            max_pixels=round(asked.max_megapixels * 1e6),
            loops=asked.loops,
        )
    _say(done, failed, others, asked.output, chosen=bool(kinds) and asked.threshold is None)
    return FAILED if failed else DONE


def _say(done: int, failed: list[DataError], others: int, output: Path, *, chosen: bool) -> None:
    """What was predicted; `chosen`: what pictures show was chosen for the user."""
    for error in failed:
        echo(f"skipped {error}", err=True)
    skipped = f", {len(failed)} skipped" if failed else ""
    echo(f"{done} photos in {output}{skipped}" + (f", {others} files of other kinds ignored" if others else ""))
    if chosen and done:
        echo("pictures show triplets that score a quarter of a photo's best or more, and 0.05; --threshold sets it")


def export_model(
    run: RunDir,
    outputs: Annotated[
        list[Path],
        typer.Option("--output", help="new file: .onnx, or .pt2 (torch.export); may be repeated", metavar="FILE"),
    ],
    check: Annotated[
        list[Path] | None,
        typer.Option(
            "--check", help="photos to compare on, or folders (the first 32); default: generated", metavar="PHOTO"
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="largest difference of an output")] = 1e-3,
    as_json: AsJson = False,
) -> None:
    """Write a model that runs without our code, as ONNX or .pt2.

    It is checked against PyTorch on photos. Tables of a search: `speaq export`.
    """
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


def benchmark(
    models: Annotated[list[Path], typer.Argument(help="folders of runs, checkpoints, .onnx files", metavar="MODEL")],
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            "--photos", help="photos, or folders (the first 32); default: a generated picture", metavar="PHOTO"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="photos at once")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="times that all photos are looked at")] = 10,
    warmup: Annotated[int, typer.Option(min=0, help="calls that do not count")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time trained and exported models on the same photos.

    What is timed is the network alone, without reading or decoding.
    """
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
            row.calls,
        )
        for row in found
    ]
    print_table(("model", "p50 ms", "p90 ms", "p99 ms", "mean ms", "images/s", "calls"), rows)
    echo(f"{found[0].device}, {found[0].threads} threads, {batch_size} photos a call, {warmup} calls of warm-up")


def convert(
    reference: Annotated[Path, typer.Argument(help="checkpoint of the reference implementation", metavar="PUBLISHED")],
    output: Annotated[Path, typer.Option("--output", help="folder of a run to write", metavar="RUN")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="data set for names of classes and predicates; default: numbers", metavar="DATA"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="config of all but the network's shape; default: published settings", metavar="CONFIG"
        ),
    ] = None,
) -> None:
    """Turn a published checkpoint of the reference into a run."""
    from speaq.runs.convert import convert as convert_checkpoint

    echo(f"{convert_checkpoint(reference, output, data, config)} · {output}")
