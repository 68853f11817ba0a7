"""The cluster: whether its nodes are fit, and the repair of a search's ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speaq.cli.options import AsJson
from speaq.cli.tables import print_table
from speaq.cli.terminal import echo, echo_json
from speaq.config import ConfigError
from speaq.files.urls import place
from speaq.training.endings import DONE, FAILED

if TYPE_CHECKING:
    from speaq.cli.launched import checks


def doctor(
    study: Annotated[
        Path | None,
        typer.Argument(help="study whose ledger cannot be read: repair it, and ask no node", metavar="STUDY"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            help="folder or URL that all nodes are to share: where runs will be written",
            metavar="FOLDER",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="data set that all nodes are to see", metavar="DATA")
    ] = None,
    min_free: Annotated[float, typer.Option("--min-free", min=0.0, help="GiB that must be free on every disk")] = 10.0,
    limit: Annotated[float, typer.Option("--limit", min=10.0, help="seconds for a check, all nodes at once")] = 120.0,
    as_json: AsJson = False,
) -> int:
    """Check every node of the cluster and say what to repair.

    The exit code is 1 where something fails. With STUDY, the ledger of a search is repaired instead: what is whole is
    kept, the rest is set aside.
    """
    if study is not None:
        if output is not None or data is not None or as_json or (min_free, limit) != (10.0, 120.0):
            raise ConfigError(f"{study}: the other options are of the cluster; leave them out")
        return _repair(study)
    from speaq.cli.launched import checks

    where = None if output is None else place(output)
    shared = str(where.resolve()) if isinstance(where, Path) else where
    request = checks.Examination(shared, None if data is None else data.resolve(), min_free, limit)
    rows, nodes = checks.doctor(request, (lambda row: None) if as_json else _say)
    if as_json:
        echo_json([dataclasses.asdict(row) for row in rows])
    else:
        _print_rows(rows, nodes)
    return FAILED if any(row.state == "fails" for row in rows) else DONE


def _repair(study: Path) -> int:
    from speaq.study.repair import repair

    for line in repair(study):
        echo(line)
    return DONE


def _say(row: checks.Row) -> None:
    echo(f"{row.check} · {row.node} · {row.state}", err=True)


def _print_rows(rows: Sequence[checks.Row], nodes: int) -> None:
    print_table(("check", "node", "state", "outcome"), [(row.check, row.node, row.state, row.outcome) for row in rows])
    fixes = dict.fromkeys(row.fix for row in rows if row.fix)
    for number, fix in enumerate(fixes, start=1):
        echo(f"{number}. {fix}")
    echo(f"{nodes} nodes, {len(fixes)} things to repair" if fixes else f"{nodes} nodes, all fit")
