"""What a search costs beside training: many trials of a training function that costs nothing.

    python -m tests.bench.overhead FOLDER [TRIALS]

Prints seconds a trial (two or more at once, as the machine has cores), the sampler's part of it at the end, and the
driver's memory; FOLDER must be new.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from launch.jobs import tune as studies
from launch.search import searcher
from speaq import config as configs
from speaq import space as spaces
from speaq.data.toy.world import make_toy
from speaq.study import creation, snapshot
from tests.helpers.shared import ROOT
from tests.helpers.tiny import TINY

SHORT = {"training.max_steps": 2, "training.eval_every": 2, "training.decay_steps": [1]}  # one report each


def run(folder: Path, trials: int) -> dict[str, float]:
    """Seconds and MiB of one search over `search_spaces/speaq.yaml`."""
    os.environ["PYTHONPATH"] = str(ROOT)  # of the workers
    make_toy(folder / "data", 60, seed=0)
    config = configs.apply(configs.Config(), TINY | SHORT)
    space = spaces.load(ROOT / "search_spaces" / "speaq.yaml").with_search({"scheduler": "none"})
    study = creation.create(config, space, folder / "data", trials=trials, train="tests.helpers.cheap_training:train")
    asking: list[float] = []
    begin = time.perf_counter()
    original = searcher.Search.suggest

    def timed(self: searcher.Search, trial_id: str) -> object:
        start = time.perf_counter()
        try:
            return original(self, trial_id)
        finally:
            asking.append(time.perf_counter() - start)

    searcher.Search.suggest = timed  # type: ignore[assignment, method-assign]
    entries = studies.start(study, folder / "study")
    seconds = time.perf_counter() - begin
    assert [entry.state for entry in entries] == ["finished"] * trials
    begin = time.perf_counter()
    snapshot.read(folder / "study")
    last = asking[-max(trials // 10, 1) :]
    return {
        "trials": trials,
        "seconds": seconds,
        "seconds_per_trial": seconds / trials,
        "asking_seconds_first_tenth": sum(asking[: len(last)]) / len(last),
        "asking_seconds_last_tenth": sum(last) / len(last),
        "status_seconds": time.perf_counter() - begin,
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ledger_mib": (folder / "study" / "ledger.jsonl").stat().st_size / 2**20,
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000), indent=1))
