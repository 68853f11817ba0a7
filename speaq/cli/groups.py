"""Commands about groups of predicates and the queries that are theirs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speaq import config as configs
from speaq.cli.terminal import (
    AsJson,
    Assignments,
    DataDir,
    SplitOption,
    at_urls,
    command,
    echo,
    echo_json,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from speaq.analysis.group_lab import Group
    from speaq.analysis.specialization import Analysed

groups_app = typer.Typer()


@groups_app.command()
@command
def groups(
    data: DataDir,
    assignments: Assignments,
    num_groups: Annotated[int | None, typer.Option(min=1, help="G, default: the config's (4)")] = None,
    num_queries: Annotated[int | None, typer.Option(min=1, help="Q, default: the config's (300)")] = None,
    query_multiple: Annotated[int | None, typer.Option(min=1, help="m, default: the config's (2)")] = None,
    rule: Annotated[
        Literal["halving", "equal_mass", "equal_count"] | None, typer.Option(help="see matching.group_rule")
    ] = None,
    file: Annotated[Path | None, typer.Option("--groups", help="YAML file with groups of your own")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="the setting of a config, on its train split")] = None,
    table: Annotated[bool, typer.Option("--table", help="also every predicate with its relations")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a data set's predicate groups, the queries that each gets, and which have too many or too few for them."""
    from speaq.analysis.group_lab import group_lab, usual
    from speaq.data.statistics import predicate_count
    from speaq.data.visual_genome import open_data

    given = {
        "matching.num_groups": num_groups,
        "model.num_queries": num_queries,
        "model.query_multiple": query_multiple,
        "matching.group_rule": rule,
        "matching.groups": None if file is None else str(file),
    }
    base = usual() if config is None else configs.load(config)
    changes = {key: value for key, value in given.items() if value is not None}
    asked = configs.apply(base, {**configs.parse_overrides(assignments), **changes}, "groups")
    vg = open_data(data, need_images=False)
    split = vg.split("train", asked.data)
    counts = predicate_count(split, vg.num_predicates)
    made = group_lab(split, counts, vg.vocabulary.predicates, asked)
    if as_json:
        echo_json([group.to_json() for group in made])
        return
    _print_groups(made)
    if table:
        _print_predicates(made)
    else:
        for group in made:
            echo(f"group {group.title}: {', '.join(name for name, _ in group.predicates)}")
    for group in made:
        if group.load.warning:
            echo(f"group {group.title} is {group.load.warning}")


def _print_groups(made: list[Group]) -> None:
    header = (
        "group",
        "predicates",
        "share",
        "subject queries",
        "relation queries",
        "targets per image",
        "targets per query",
        "overloaded",
    )
    rows: list[tuple[str, ...]] = [
        (
            group.title,
            str(len(group.predicates)),
            f"{group.share:.4f}",
            str(group.subject_queries),
            str(group.relation_queries),
            f"{group.load.targets_per_image:.4g}",
            f"{group.load.targets_per_query:.4g}",
            f"{group.load.overloaded:.1%}",
        )
        for group in made
    ]
    print_table(header, rows)


def _print_predicates(made: list[Group]) -> None:
    total = max(sum(number for group in made for _, number in group.predicates), 1)
    rows: list[tuple[str, ...]] = [
        (name, group.title, str(number), f"{number / total:.4f}") for group in made for name, number in group.predicates
    ]
    print_table(("predicate", "group", "relations", "share"), rows)


@groups_app.command()
@command
@at_urls(runs="all")
def specialization(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="folders of runs, or checkpoint files")],
    split: SplitOption = "val",
    checkpoints: Annotated[
        Literal["best", "all"], typer.Option(help="all: also last and previous, where they differ")
    ] = "best",
    top: Annotated[int, typer.Option(min=1, help="best triplets of an image that are counted")] = 20,
    images: Annotated[int | None, typer.Option(min=1, help="images of the split to look at, default: all")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="default: where each run's data was")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="folder for specialization.json, .png and .svg")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which predicates each query predicts: entropy, leakage out of its group, dead queries; runs side by side."""
    from speaq.analysis.specialization import save
    from speaq.analysis.specialization_counts import Asked, analyse

    with progress_bar("evaluating") as progress:
        found = analyse(runs, Asked(split, top, images, checkpoints == "all", data), progress)
    if output is not None:
        from speaq.analysis.specialization_picture import KINDS, draw

        save(found, output)
        for kind in KINDS:
            draw(found, output / f"specialization.{kind}", kind)
    if as_json:
        echo_json([one.to_json() for one in found])
        return
    print_table(SPECIALIZATION_COLUMNS, [_row(one) for one in found])
    echo(
        f"{found[0].images} images of {split}, the {top} best triplets of each; entropies in nats, "
        f"at most {math.log(len(found[0].predicates)):.3f}" + ("" if output is None else f" · {output}")
    )


SPECIALIZATION_COLUMNS = (
    "run",
    "checkpoint",
    "step",
    "groups",
    "queries",
    "mean entropy",
    "of all together",
    "leakage",
    "leakage by group",
    "dead",
)


def _row(one: Analysed) -> tuple[str, ...]:
    result = one.result()

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    return (
        one.run,
        one.checkpoint,
        str(one.step),
        "-" if one.groups is None else str(len(one.groups.queries)),
        str(len(one.counts)),
        "-" if result.mean_entropy is None else f"{result.mean_entropy:.3f}",
        "-" if result.predicate_entropy is None else f"{result.predicate_entropy:.3f}",
        share(result.leakage),
        " ".join(map(share, result.group_leakage)) or "-",
        str(len(result.dead)),
    )
