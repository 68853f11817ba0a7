"""Commands that look at the cluster: they need Ray (launch/), which is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speaq.terminal import AsJson, command, launch, place

cluster_app = typer.Typer()


@cluster_app.command()
@command
def doctor(
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="folder or URL that all nodes are to share: where runs will be written"),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="data set that all nodes are to see")] = None,
    min_free: Annotated[float, typer.Option("--min-free", min=0.0, help="GiB that must be free on every disk")] = 10.0,
    limit: Annotated[float, typer.Option("--limit", min=10.0, help="seconds for a check, all nodes at once")] = 120.0,
    as_json: AsJson = False,
) -> int:
    """Check every node of the cluster and say what to repair; exit code 1 where something fails."""
    where = None if storage is None else place(storage)
    shared = str(where.resolve()) if isinstance(where, Path) else where
    request = launch("checks").Request(shared, None if data is None else data.resolve(), min_free, limit)
    result: int = launch("doctor").doctor(request, as_json=as_json)
    return result
