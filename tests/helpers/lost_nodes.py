"""Runs on two workers that lose a worker, then a node; and an elastic one, which goes on with what is left.

`python -m tests.helpers.lost_nodes FOLDER DATA`, in a process of its own: Ray keeps the first token that it sees.
Prints what happened as JSON. The hosts: tests/helpers/hosts.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config
from tests.helpers.hosts import Host, Hosts
from tests.helpers.tiny import tiny

STEPS, INTERVAL = 20, 4
CONFIG = tiny(
    resources__num_workers=2,
    training__max_steps=STEPS,
    training__eval_every=INTERVAL,
    training__decay_steps=[15],
    training__log_every=1,
    model__dropout=0.1,
)


def workers(hosts: Hosts) -> dict[int, Host]:
    """Processes of the run → their host."""
    return {
        pid: host
        for host in hosts.hosts
        for pid in host.processes()
        if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def main() -> None:
    folder, data = (Path(argument) for argument in sys.argv[1:])
    hosts = Hosts()
    try:
        hosts.add(3)
        os.environ["RAY_ADDRESS"] = hosts.address
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
        print(json.dumps(lose(hosts, folder, data)))
    finally:
        hosts.close()


class Watch:
    """Takes something away while the workers wait for the answer to a report."""

    def __init__(self, hosts: Hosts, faults: Mapping[int, Callable[[Hosts], None]]) -> None:
        self.hosts, self.faults = hosts, faults
        self.steps: list[int] = []
        self.workers: list[int] = []
        self.recovery: list[float] = []  # seconds from a fault to the next report
        self._struck: float | None = None

    def report(self, step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
        self.steps.append(step)
        self.workers.append(len(workers(self.hosts)))
        if self._struck is not None:
            self.recovery.append(round(time.monotonic() - self._struck, 1))
            self._struck = None
        if step in self.faults:
            self._struck = time.monotonic()
            self.faults[step](self.hosts)


def kill_worker(hosts: Hosts) -> None:
    os.kill(max(workers(hosts)), signal.SIGKILL)


def kill_node(hosts: Hosts) -> None:
    running = workers(hosts)
    hosts.kill(running[max(running)])


def join(hosts: Hosts) -> None:
    hosts.join()


def lose(hosts: Hosts, folder: Path, data: Path) -> dict[str, Any]:
    from launch.cluster import connection
    from launch.trials.worker import train_distributed
    from speaq.training.callbacks import Callbacks

    def run(name: str, config: Config, faults: Mapping[int, Callable[[Hosts], None]]) -> Watch:
        watch = Watch(hosts, faults)
        train_distributed(config, data, folder / name, Callbacks(watch.report))
        return watch

    with connection.connected():
        run("undisturbed", CONFIG, {})
        lost = run("disturbed", CONFIG, {INTERVAL: kill_worker, 3 * INTERVAL: kill_node})  # two nodes are left
        elastic = configs.apply(CONFIG, {"resources.min_workers": 1})
        grown = run("elastic", elastic, {INTERVAL: kill_node, 3 * INTERVAL: join})
    return {
        "lost": lost.steps,
        "recovery": lost.recovery + grown.recovery,
        "elastic": grown.steps,
        "workers": grown.workers,
    }


if __name__ == "__main__":
    main()
