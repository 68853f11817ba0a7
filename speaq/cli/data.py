"""`speaq data` and `speaq config`: data sets are made, converted, checked and counted; configs are shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from speaq import config as configs
from speaq.cli.options import AsJson, Assignments, DataArgument
from speaq.cli.tables import print_table
from speaq.cli.terminal import echo, echo_json, progress_bar
from speaq.data.formats import Source
from speaq.training.endings import DONE, USAGE

if TYPE_CHECKING:
    from speaq.data.coco.convert import Converted
    from speaq.data.files import Problem


def make(
    directory: Annotated[Path, typer.Argument(help="new folder for the data set", metavar="DATA")],
    images: Annotated[int, typer.Option("--images", min=10, help="number of images")] = 6000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of what is drawn")] = 0,
    grid: Annotated[
        int, typer.Option("--grid", min=1, help="scenes of a picture, side by side and one above the other")
    ] = 1,
    annotated: Annotated[
        float | None,
        typer.Option("--annotated", help="share of the relations that is annotated; default: the toy world's"),
    ] = None,
) -> None:
    """Make a toy world: a data set in Visual Genome's layout."""
    from speaq.data.toy.world import make_toy

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise configs.ConfigError(
            f"{directory}: is {'not empty' if directory.is_dir() else 'a file'}; give a new folder"
        )
    with progress_bar("drawing") as progress:
        make_toy(directory, images, seed, lambda done: progress(done, images, ""), grid=grid, annotated=annotated)
    echo(f"{images} images in {directory}")


def check(data: DataArgument, as_json: AsJson = False) -> int:
    """List every problem of a data set.

    A line each: file · row · field · rule · value. The exit code is 2 where one is an error.
    """
    from speaq.data import visual_genome

    problems = visual_genome.check(data)
    if as_json:
        echo_json([vars(p) for p in problems])
    else:
        for problem in problems:
            echo(str(problem))
    errors = sum(p.severity == "error" for p in problems)
    if not as_json:
        echo(f"{errors} errors, {len(problems) - errors} warnings")
    return USAGE if errors else DONE


def stats(data: DataArgument, as_json: AsJson = False) -> None:
    """Count images, boxes, relations and predicates of a data set."""
    from speaq.data.statistics import stats_report
    from speaq.data.visual_genome import open_data

    report = stats_report(open_data(data, need_images=False))
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
        (name, count, *(split["predicates"][name] for split in splits.values()))
        for name, count in sorted(report["predicates"].items(), key=lambda item: -item[1])
    ]
    print_table(("predicate", "all", *splits), rows)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What the user asks of `speaq data convert`."""

    annotations: Annotated[
        Path, typer.Argument(help="file or folder of annotations, as docs/your-data.md says", metavar="ANNOTATIONS")
    ]
    output: Annotated[Path, typer.Option("--output", help="new folder for the data set", metavar="DATA")]
    images: Annotated[Path, typer.Option("--images", help="folder that file_name is relative to", metavar="FOLDER")]
    source: Annotated[Source, typer.Option("--from", help="format of ANNOTATIONS")] = "coco"
    relations: Annotated[
        Path | None,
        typer.Option("--relations", help="JSON with relationships (and predicates), where ANNOTATIONS has none"),
    ] = None
    test_share: Annotated[
        float | None,
        typer.Option("--test-share", min=0.0, max=1.0, help="share of test, where no image has a split; default: 0.2"),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of that choice; default: 0")] = None
    copy: Annotated[bool, typer.Option("--copy", help="copy the photos; otherwise the data set links to them")] = False
    boxes: Annotated[
        Literal["xywh", "xyxy", "cxcywh", "yxhw", "yxyx"] | None,
        typer.Option("--boxes", help="what bbox holds; left out: xywh, refused where it looks like another"),
    ] = None
    fractions: Annotated[bool, typer.Option("--fractions", help="bbox is in fractions of the photo's sides")] = False
    clip: Annotated[
        bool, typer.Option("--clip", help="cut boxes that reach far outside, leave those beside the photo out")
    ] = False
    merge_names: Annotated[
        bool, typer.Option("--merge-names", help="names that differ by case, spaces, _ or - alone are one")
    ] = False
    by_name: Annotated[
        bool, typer.Option("--by-name", help="look for photos in all folders below --images, by file name alone")
    ] = False
    outside_images: Annotated[
        bool, typer.Option("--outside-images", help="take photos that names or links outside --images lead to")
    ] = False
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="leave images out whose photo is not there")] = (
        False
    )
    classes: Annotated[int | None, typer.Option(min=1, help="keep so many of the commonest classes")] = None
    predicates: Annotated[int | None, typer.Option(min=1, help="keep so many of the commonest predicates")] = None
    strict: Annotated[bool, typer.Option("--strict", help="refuse what would be left out")] = False


def convert(asked: Conversion) -> int:
    """Turn annotations of another format into a data set.

    The data set is checked afterwards.
    """
    from speaq.data import visual_genome
    from speaq.data.box_forms import Form
    from speaq.data.coco.convert import convert as make
    from speaq.data.coco.scenes import Reading

    if asked.source not in ("coco", "reltr") and (asked.boxes or asked.fractions):
        raise configs.ConfigError(
            f"--boxes and --fractions: --from {asked.source} says how boxes are written; drop them"
        )
    form = Form(asked.boxes or "xywh", asked.fractions) if asked.boxes or asked.fractions else None
    with progress_bar("converting") as progress:
        made = make(
            asked.annotations,
            asked.images,
            asked.output,
            source=asked.source,
            relations=asked.relations,
            test_share=asked.test_share,
            seed=asked.seed,
            copy=asked.copy,
            reading=Reading(
                form=form,
                clip=asked.clip,
                merge_names=asked.merge_names,
                by_name=asked.by_name,
                anywhere=asked.outside_images,
                skip_missing=asked.skip_missing,
                classes=asked.classes,
                predicates=asked.predicates,
            ),
            strict=asked.strict,
            progress=progress,
        )
    return _print_made(made, asked.output, visual_genome.check(asked.output))


def _print_made(made: Converted, output: Path, problems: list[Problem]) -> int:
    for line in (*made.notes, *problems, f"{made} in {output}"):
        echo(line)
    if "val" in made.images:
        echo(f"train with --set data.num_val={made.images['val']}: that many train rows come first and are val")
    groups = configs.PUBLISHED["matching.num_groups"]
    if 1 <= made.predicates < groups:
        echo(
            f"the published setting has {groups} groups of predicates, of which there are {made.predicates}: train "
            f"with --set matching.num_groups={made.predicates}"
        )
    return USAGE if any(problem.severity == "error" for problem in problems) else DONE


def show_config(
    file: Annotated[Path, typer.Argument(help="config, a YAML file", metavar="CONFIG")],
    assignments: Assignments,
    as_json: AsJson = False,
) -> None:
    """Print every key of a config, its value, type and meaning."""
    config = configs.load(file, assignments)
    if as_json:
        echo_json(configs.to_dict(config))
        return
    values = configs.flatten(configs.to_dict(config))
    for key, kind, meaning in configs.describe():
        echo(f"{key}: {json.dumps(values[key])}  # {kind}; {meaning}")
