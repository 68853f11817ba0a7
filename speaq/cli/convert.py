"""`speaq data convert`: other people's annotations become a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from speaq.cli.terminal import DONE, USAGE, command, echo, progress_bar

convert_app = typer.Typer()


@convert_app.command("convert")
@command
def data_convert(
    annotations: Annotated[
        Path, typer.Argument(help="COCO-style JSON with relationships, see speaq/data/coco/form.py")
    ],
    output: Annotated[Path, typer.Argument(help="new folder for the data set")],
    images: Annotated[Path, typer.Option("--images", help="folder that file_name is relative to")],
    relations: Annotated[
        Path | None, typer.Option(help="JSON with relationships (and predicates), where ANNOTATIONS has none")
    ] = None,
    test_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="of the images, where none has a split  [default: 0.2]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of that choice  [default: 0]")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="copy the photos; otherwise the data set links to them")] = False,
    boxes: Annotated[
        Literal["xywh", "xyxy", "cxcywh", "yxhw", "yxyx"] | None,
        typer.Option(help="what bbox holds; left out: xywh, refused where it looks like another"),
    ] = None,
    fractions: Annotated[bool, typer.Option("--fractions", help="bbox is in fractions of the photo's sides")] = False,
    clip: Annotated[
        bool, typer.Option("--clip", help="cut boxes that reach far outside, leave those beside the photo out")
    ] = False,
    merge_names: Annotated[
        bool, typer.Option("--merge-names", help="names that differ by case, spaces, _ or - alone are one")
    ] = False,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="look for photos in all folders below --images, by file name alone")
    ] = False,
    outside_images: Annotated[
        bool, typer.Option("--outside-images", help="take photos that names or links outside --images lead to")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="refuse what would be left out")] = False,
) -> int:
    """Turn COCO-style JSON with relations into a data set, and check it."""
    from speaq.data.box_forms import Form
    from speaq.data.coco.convert import convert
    from speaq.data.coco.scenes import Reading
    from speaq.data.visual_genome import check

    form = Form(boxes or "xywh", fractions) if boxes or fractions else None
    reading = Reading(form, clip, merge_names, by_name, outside_images)
    with progress_bar("converting") as progress:
        made = convert(
            annotations,
            images,
            output,
            relations=relations,
            test_share=test_share,
            seed=seed,
            copy=copy,
            reading=reading,
            strict=strict,
            progress=progress,
        )
    for note in made.notes:
        echo(note)
    problems = check(output)
    for problem in problems:
        echo(str(problem))
    echo(f"{made} in {output}")
    if "val" in made.images:
        echo(f"train with --set data.num_val={made.images['val']}: that many train rows come first and are val")
    return USAGE if any(problem.severity == "error" for problem in problems) else DONE
