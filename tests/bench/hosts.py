"""Two workers on two hosts against the same two on one: `python -m tests.bench.hosts FOLDER` (root).

Prints seconds of training for each and their ratio, from one run of this program.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from speaq.data.toy.world import make_toy
from tests.helpers.hosts import Hosts
from tests.helpers.tiny import tiny

STEPS = 60
CONFIG = tiny(
    resources__num_workers=2,
    training__max_steps=STEPS,
    training__eval_every=STEPS,
    training__decay_steps=[50],
    training__num_threads=1,
)


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    make_toy(folder / "data", 60, seed=1)
    hosts = Hosts()
    try:
        os.environ["RAY_ADDRESS"] = hosts.address
        alone = hosts.join(2)
        one = seconds(folder, "one")
        hosts.kill(alone)
        hosts.add(2)
        two = seconds(folder, "two")
        print(f"{STEPS} steps on two workers: {one:.1f} s on one host, {two:.1f} s on two, ratio {two / one:.2f}")
    finally:
        hosts.close()


def seconds(folder: Path, name: str) -> float:
    """Of training, without the start of the workers."""
    from launch.cluster import connection
    from launch.trials.worker import train_distributed

    with connection.connected():
        result = train_distributed(CONFIG, folder / "data", folder / name)
    return float(result["seconds"])


if __name__ == "__main__":
    main()
