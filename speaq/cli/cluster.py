"""Commands that look at the cluster: they need Ray (launch/), which is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speaq.cli.terminal import DONE, AsJson, command, echo, launch, place
from speaq.config import ConfigError

cluster_app = typer.Typer()


@cluster_app.command()
@command
def doctor(
    study: Annotated[
        Path | None, typer.Argument(help="a search whose ledger cannot be read: repair it, and ask no node")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="folder or URL that all nodes are to share: where runs will be written"),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="data set that all nodes are to see")] = None,
    min_free: Annotated[float, typer.Option("--min-free", min=0.0, help="GiB that must be free on every disk")] = 10.0,
    limit: Annotated[float, typer.Option("--limit", min=10.0, help="seconds for a check, all nodes at once")] = 120.0,
    as_json: AsJson = False,
) -> int:
    """Check every node of the cluster and say what to repair; exit code 1 where something fails.

    With STUDY, repair the ledger of a search instead: what is whole is kept, the rest is set aside.
    """
    if study is not None:
        if storage is not None or data is not None or as_json or (min_free, limit) != (10.0, 120.0):
            raise ConfigError(f"{study}: the other options are of the cluster; leave them out")
        from speaq.study.repair import repair

        for line in repair(study):
            echo(line)
        return DONE
    where = None if storage is None else place(storage)
    shared = str(where.resolve()) if isinstance(where, Path) else where
    request = launch("cluster.checks").Request(shared, None if data is None else data.resolve(), min_free, limit)
    result: int = launch("cluster.doctor").doctor(request, as_json=as_json)
    return result
