"""A search on two hosts, one of which loses its network and gets it back: `python -m tests.helpers.cut_network FOLDER`.

In a process of its own, for its environment. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.hosts import Hosts
from tests.soak.study import DECAYS, INTERVAL, Control, Driver, Log, Trials, endings, write_study

STEP = 0.3  # seconds
PATIENCE = 1200.0  # seconds


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    Control.new(folder / "control", STEP)
    hosts = Hosts()
    try:
        print(json.dumps(search(hosts, folder)))
    finally:
        hosts.close()


def search(hosts: Hosts, folder: Path) -> dict[str, Any]:
    hosts.join()
    lost = hosts.join()
    number = write_study(folder / "study", folder / "data", DECAYS)
    trials = Trials(folder / "study")
    driver = Driver(folder / "study", lambda: hosts.address, Log(folder / "log"))
    _wait(driver, lambda: len(trials.running()) == 2 and all(trials.last(t) > INTERVAL for t in trials.running()))
    hosts.cut(lost)
    begin, before = time.time(), trials.running()
    _wait(driver, lambda: any(row["event"] == "running" and row["attempt"] > 1 for row in trials.rows()))
    hosts.heal(lost)
    _wait(driver, lambda: False)
    again = [row["trial"] for row in trials.rows() if row["event"] == "running" and row["attempt"] > 1]
    back = [steps for trial in again for _, steps in trials.starts(trial)]
    went_on = [_after_start(trials, trial) - begin for trial in again]
    results = endings(trials.rows())
    return {
        "code": driver.process.returncode,
        "trials": number,
        "ended": sorted(row["event"] for row in results.values()),
        "metrics": {row["trial"]: row["metrics"] for row in results.values()},
        "cut off": len(before),
        "again": sorted(set(again)),
        "steps back": max(back),
        "seconds until it went on": round(min(went_on), 1),
        "unclean": driver.unclean,
    }


def _after_start(trials: Trials, trial: str) -> float:
    """When the last attempt of a trial made its first step."""
    lines = trials.steps(trial)
    start = max(at for at, line in enumerate(lines) if line[0] == "from")
    return float(lines[start + 1][2])


def _wait(driver: Driver, happened: Callable[[], bool]) -> None:
    """Until it has, or the driver has ended."""
    deadline = time.monotonic() + PATIENCE
    while driver.ended() is None and not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


if __name__ == "__main__":
    main()
