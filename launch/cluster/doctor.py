"""`speaq doctor`: is every node of the cluster fit for a run, and if not, what has to be done?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from launch.cluster import connection
from launch.cluster.checks import Request, Row, examine
from launch.cluster.nodes import alive, probes
from launch.store.remote import Store
from speaq.cli.terminal import DONE, FAILED, echo, echo_json, print_table
from speaq.config import ConfigError


def doctor(request: Request, *, as_json: bool = False) -> int:
    """Runs all checks on the cluster of RAY_ADDRESS, or on a local one, and prints a table.

    Returns 0 where everything is in order, else 1.

    Raises:
        ConfigError: no such cluster, no such folder, or no URL.
    """
    for name, place in (("--storage", request.storage), ("--data", request.data)):
        if place is None:
            continue
        if "://" in str(place):
            Store(str(place))
        elif not Path(place).is_dir():
            raise ConfigError(f"{name}: {place} is not a folder here")
    rows = []
    with connection.connected():
        nodes = alive()
        with probes(nodes) as asked:
            for row in examine(asked, request):
                rows.append(row)
                if not as_json:
                    echo(f"{row.check} · {row.node} · {row.state}", err=True)
    if as_json:
        echo_json([dataclasses.asdict(row) for row in rows])
    else:
        _print(rows, len(nodes))
    return FAILED if any(row.state == "fails" for row in rows) else DONE


def _print(rows: list[Row], nodes: int) -> None:
    print_table(("check", "node", "state", "outcome"), [(row.check, row.node, row.state, row.outcome) for row in rows])
    fixes = dict.fromkeys(row.fix for row in rows if row.fix)
    for number, fix in enumerate(fixes, start=1):
        echo(f"{number}. {fix}")
    echo(f"{nodes} nodes, {len(fixes)} things to repair" if fixes else f"{nodes} nodes, all fit")
