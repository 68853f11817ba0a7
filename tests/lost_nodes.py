"""A run on two workers that loses a worker, then a node: `python -m tests.lost_nodes FOLDER DATA`, in a process of its
own, because Ray keeps the first token that it sees. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.nodes import Nodes
from tests.tiny import tiny

STEPS, INTERVAL = 20, 4
CONFIG = tiny(
    resources__num_workers=2,
    training__max_steps=STEPS,
    training__eval_every=INTERVAL,
    training__decay_steps=[15],
    training__log_every=1,
    model__dropout=0.1,
)


def workers(nodes: Nodes) -> dict[int, Any]:
    """Processes of the run → their node."""
    found = {}
    for node in nodes.cluster.worker_nodes:
        for pid in nodes.processes(node):
            if any("RayTrainWorker" in part for part in psutil.Process(pid).cmdline()):
                found[pid] = node
    return found


def main() -> None:
    folder, data = (Path(argument) for argument in sys.argv[1:])
    nodes = Nodes()
    try:
        for _ in range(3):
            nodes.join()
        os.environ["RAY_ADDRESS"] = nodes.address
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
        print(json.dumps(lose(nodes, folder, data)))
    finally:
        nodes.close()


def lose(nodes: Nodes, folder: Path, data: Path) -> dict[str, Any]:
    from launch import cluster
    from launch.worker import train_distributed

    reported: list[int] = []

    def report(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
        """Takes something away while the workers wait for the answer."""
        reported.append(step)
        running = workers(nodes)
        if step == INTERVAL:
            os.kill(max(running), signal.SIGKILL)
        if step == 3 * INTERVAL:
            nodes.kill(running[max(running)])

    with cluster.connected():
        undisturbed = train_distributed(CONFIG, data, folder / "undisturbed")
        disturbed = train_distributed(CONFIG, data, folder / "disturbed", report=report)
    return {"reported": reported, "undisturbed": undisturbed["step"], "disturbed": disturbed["step"]}


if __name__ == "__main__":
    main()
