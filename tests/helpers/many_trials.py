"""As many trials at once as several nodes have places for, in a process of its own, because Ray keeps the first token
that it sees: `python -m tests.helpers.many_trials FOLDER DATA --nodes 4 --cpus 16` (64 trials at once, 0.1 GiB each).

A trial does not go on before all places are taken: where one starves, all wait, and the trials fail. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from speaq.config import Config, ConfigError
from speaq.study import creation
from tests.helpers import cheap_training
from tests.helpers.hosts import Hosts

PLACES = "MANY_TRIALS_PLACES"
PATIENCE = 900.0  # seconds that a trial waits for the others


def meet(config: Config, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Waits for as many trials as there are places, then trains for nothing."""
    deadline = time.monotonic() + PATIENCE
    while len(list(output.parent.glob("*/log.jsonl"))) < int(os.environ[PLACES]):
        if time.monotonic() > deadline:
            raise TimeoutError("the other trials have not started")
        time.sleep(0.2)
    return cheap_training.train(config, data, output, **options)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.many_trials")
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=16, help="of each node")
    given = parser.parse_args()
    os.environ[PLACES] = str(given.nodes * given.cpus)
    os.environ |= {"RAY_health_check_failure_threshold": "60"}  # few cores: a host may be silent while 64 begin
    hosts = Hosts()
    try:
        hosts.add(given.nodes, given.cpus)
        os.environ["RAY_ADDRESS"] = hosts.address
        print(json.dumps(search(given.folder / "study", given.data, given.nodes, given.cpus)))
    finally:
        hosts.close()


def search(output: Path, data: Path, nodes: int, cpus: int) -> dict[str, Any]:
    from launch.cluster import connection
    from launch.jobs import tune as studies
    from speaq import config as configs
    from speaq import space as spaces

    rate = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}
    chosen = {"sampler": "random", "scheduler": "none", "trials": nodes * cpus * 5 // 4}
    space = spaces.from_dict({"search": chosen, "parameters": {"training.learning_rate": rate}})
    config = configs.apply(Config(), {"training.max_steps": 4, "training.eval_every": 2, "training.decay_steps": [3]})
    study = creation.create(config, space, data, train="tests.helpers.many_trials:meet")
    entries = studies.start(study, output, url="none")
    too_much = configs.apply(config, {"resources.cpus_per_worker": float(cpus + 1)})
    refusal = ""
    try:
        with connection.connected():
            connection.check_fits(too_much.resources)
    except ConfigError as error:
        refusal = str(error)
    rows = [json.loads(line) for line in (output / "ledger.jsonl").read_text().splitlines()]
    return {
        "met": nodes * cpus,
        "most": most_at_once(rows),
        "ended": Counter(entry.state for entry in entries),
        "attempts": [entry.attempts for entry in entries],
        "refusal": refusal,
    }


def most_at_once(rows: list[dict[str, Any]]) -> int:
    """Trials that were running together, by the ledger."""
    running: set[str] = set()
    most = 0
    for row in rows:
        if row["event"] == "running":
            running.add(row["trial"])
        elif row["event"] in ("finished", "failed"):
            running.discard(row["trial"])
        most = max(most, len(running))
    return most


if __name__ == "__main__":
    main()
