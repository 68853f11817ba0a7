"""`speaq microscope`: which queries learn a ground-truth relation, and why, under any matching settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speaq import config as configs
from speaq.cli.terminal import AsJson, Assignments, at_urls, command, echo, echo_json, print_table

if TYPE_CHECKING:
    from speaq.analysis.microscope import Microscope, Slide

microscope_app = typer.Typer()


@microscope_app.command()
@command
@at_urls(run="weights")
def microscope(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    image: Annotated[str, typer.Argument(help="id of an image of its data set")],
    assignments: Assignments,
    triplet: Annotated[
        int | None, typer.Option("--triplet", min=0, help="number of a ground-truth triplet; default: list them")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="default: where the run's data was")] = None,
    as_json: AsJson = False,
) -> None:
    """Every query's quality for a ground-truth triplet, k and the matched queries, in each decoder layer.

    The network looks once; --set matching.max_repeats=6 and the like change the assignment alone.
    """
    from speaq.analysis.microscope import Microscope

    opened = Microscope.open(run, data)
    overrides = configs.parse_overrides(assignments)
    opened.settings(overrides)  # refused before the network looks
    slide = opened.slide(image)
    if triplet is None:
        _print_triplets(opened, slide, overrides, as_json)
        return
    found = opened.look(slide, triplet, overrides)
    if as_json:
        echo_json(found)
        return
    bounds, group = found["group_bounds"], found["group"]
    echo(
        f"image {slide.image_id} ({slide.split}) · triplet {triplet}: {found['words']} · group {group + 1} of "
        f"{len(bounds) - 1}, queries {bounds[group]} to {bounds[group + 1] - 1}"
    )
    header = ("layer", "sum of the K best", "k", "matched queries (quality)", "k as trained", "matched as trained")
    print_table(header, [_row(layer) for layer in found["layers"]])


def _row(layer: dict[str, Any]) -> tuple[str, ...]:
    trained, total = layer["as_trained"], layer["quality_sum"]
    return (
        str(layer["layer"]),
        "-" if total is None else f"{total:.3f}",
        str(layer["repeats"]),
        _queries(layer["matched"], layer["quality"]),
        str(trained["repeats"]),
        _queries(trained["matched"], None),
    )


def _queries(queries: list[int], quality: list[float] | None) -> str:
    return ", ".join(str(q) if quality is None else f"{q} ({quality[q]:.2f})" for q in queries) or "-"


def _print_triplets(opened: Microscope, slide: Slide, overrides: dict[str, Any], as_json: bool) -> None:
    """The image's triplets with k and the number of matched queries of each layer."""
    found, _ = opened.examine(slide, overrides)
    rows: list[dict[str, Any]] = [
        {
            "triplet": number,
            "words": text,
            "repeats": found.repeats[:, number].tolist(),
            "matched": (found.relation == number).sum(1).tolist(),
        }
        for number, text in enumerate(slide.triplets)
    ]
    if as_json:
        echo_json(rows)
        return
    print_table(
        ("triplet", "", "k by layer", "matched by layer"),
        [
            (str(row["triplet"]), row["words"], " ".join(map(str, row["repeats"])), " ".join(map(str, row["matched"])))
            for row in rows
        ],
    )
