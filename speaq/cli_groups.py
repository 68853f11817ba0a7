"""Commands about groups of predicates and the queries that are theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speaq import config as configs
from speaq.terminal import AsJson, Assignments, DataDir, command, print_table

if TYPE_CHECKING:
    from speaq.training.group_lab import Group

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
    from speaq.data.statistics import predicate_count
    from speaq.data.visual_genome import open_data
    from speaq.training.group_lab import group_lab, usual

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
        typer.echo(json.dumps([group.to_json() for group in made], indent=1))
        return
    _print_groups(made)
    if table:
        _print_predicates(made)
    else:
        for group in made:
            typer.echo(f"group {group.title}: {', '.join(name for name, _ in group.predicates)}")
    for group in made:
        if group.load.warning:
            typer.echo(f"group {group.title} is {group.load.warning}")


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
    rows = [
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
    rows = [
        (name, group.title, str(number), f"{number / total:.4f}") for group in made for name, number in group.predicates
    ]
    print_table(("predicate", "group", "relations", "share"), rows)
