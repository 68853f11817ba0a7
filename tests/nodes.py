"""A Ray cluster whose nodes are processes of this machine: for tests that take nodes away."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0  # seconds that a node may take to start: a slow machine is no failure
MEMORY = 80 * 2**20  # bytes of a node's object store; Ray takes no less


class Nodes:
    """A head without CPUs and as many other nodes as are asked for. Processes that are started later find its token."""

    def __init__(self) -> None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(ROOT)}
        milliseconds = str(int(PATIENCE * 1000))
        os.environ |= {"RAY_worker_register_timeout_seconds": str(int(PATIENCE))}
        os.environ |= {"RAY_agent_register_timeout_ms": milliseconds}
        from ray.cluster_utils import Cluster  # noqa: TID251 (Ray reads them when it is imported)

        _be_patient()
        self._temporary = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: it is part of sockets' names
        head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
        head |= {"temp_dir": str(self._temporary), "object_store_memory": MEMORY}
        self.cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self, cpus: int = 1) -> Any:
        """A new node, which is there when this returns."""
        return self.cluster.add_node(wait=False, num_cpus=cpus, object_store_memory=MEMORY)

    def processes(self, node: Any) -> list[int]:
        """Of a node's workers, and of what serves it."""
        import psutil

        try:
            return [child.pid for child in psutil.Process(raylet(node)).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, node: Any) -> None:
        """All of its processes at once, as when a machine loses its power."""
        for pid in (*self.processes(node), raylet(node)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        for node in self.cluster.list_all_nodes()[::-1]:
            self.kill(node)
        shutil.rmtree(self._temporary, ignore_errors=True)


def raylet(node: Any) -> int:
    """The process that is the node."""
    return int(node.all_processes["raylet"][0].process.pid)


def _be_patient() -> None:
    """Ray gives a node 30 s to start, and cannot be told otherwise."""
    from ray._private import services  # noqa: TID251

    once = services.get_node

    def get_node(*arguments: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return once(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    services.get_node = get_node
