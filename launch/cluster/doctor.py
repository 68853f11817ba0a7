"""`speaq doctor`: is every node of the cluster fit for a run, and if not, what has to be done?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launch.cluster import connection
from launch.cluster.checks import Examination, Row, examine
from launch.cluster.nodes import alive, probes
from launch.store.remote import Store
from speaq.config import ConfigError


def doctor(request: Examination, hear: Callable[[Row], None]) -> tuple[list[Row], int]:
    """Runs all checks on the cluster of RAY_ADDRESS, or on a local one. Returns what they found, and how many nodes.

    Args:
        hear: told of each outcome as it comes.

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
                hear(row)
    return rows, len(nodes)
