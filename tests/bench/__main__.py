"""`python -m tests.bench [--only NAME,…] [--json FILE]`: medians of several runs, and ratios to the calibration."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.bench import workloads

Workload = Callable[[], Callable[[], object]]  # prepares; what it returns is timed
CALIBRATION = "calibration"
WORKLOADS: dict[str, Workload] = {
    CALIBRATION: workloads.calibration,
    "matching_losses_b4": lambda: workloads.matching_losses(batch=4),
    "matching_losses_b20": lambda: workloads.matching_losses(batch=20),
    "evaluation_500": lambda: workloads.evaluation(images=500),
    "decoding_b8": lambda: workloads.decoding(batch=8),
    "training_step": workloads.training_step,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="names with commas between")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    names = list(dict.fromkeys([CALIBRATION, *arguments.only.split(",")]))
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        print(f"no such workload: {unknown[0]} (there are {', '.join(WORKLOADS)})", file=sys.stderr)
        return 2
    torch.set_num_threads(2)
    rows: list[dict[str, float | str]] = []
    for name in names:
        seconds = measure(WORKLOADS[name](), arguments.repeats)
        ratio = seconds / float(rows[0]["seconds"]) if rows else 1.0
        rows.append({"name": name, "seconds": seconds, "ratio_to_calibration": ratio})
        print(f"{name:24} {seconds:10.4f} s {ratio:10.2f} calibrations", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(work: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of `repeats` runs after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
