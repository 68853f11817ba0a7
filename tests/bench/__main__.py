"""`python -m tests.bench [--only NAME,…] [--json FILE] [--quick]`: every figure beside a calibration of the same run.

A row has `name`, `seconds` (median) and `ratio_to_calibration`: its seconds over those of a 2048 × 2048 float32
product, run in turn with it. Some say more; their functions document it:

- `matching_losses_b4`, `_b20`: `batch`, `relations` of an image, and times_faster_than_reference, as `training_step`,
  `decoding_b8` and the `evaluation_*` have it: the reference's ratio of `shared/golden/timings.json` over ours.
- `evaluation_test_split` (one core): `images`, `peak_memory_growth_mib`; the scenes are a pool of 500 in turn.
- `data_open_108k`: `images`, `first_seconds`, `peak_memory_growth_mib`. `data_decode`: of a 500 × 375 photo, with
  `large_` of one of 3000 × 2000: seconds a photo, `to_decoding_alone`, `share_decoding`, `large_reduced_*`
  (`data.reduced_decoding`), `device_enlarges_*`: what is left for a worker on a machine with a GPU.
- `trial_start`: `parts` in seconds. `scaling_2`, `scaling_4`: `efficiency` and its parts.
- `training_step_matmuls`: `share_of_step`. `step_*`: `points` of [size, seconds, ratio to the smallest].
- `memory`: MiB kept for each image, and the largest batch that follows. `*_gpu`: the same work on a CUDA device.

Rows that cannot be measured here are named with the reason and are not in the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.bench import data, memory, scaling, start, steps, workloads
from tests.bench.measure import (
    LeftOut,
    Settings,
    Values,
    Work,
    calibration,
    measure,
    times_faster,
)

CALIBRATION = "calibration"
# The reference's ratios to the calibration of 0.104 s (timings.json of the golden numbers, least wall time).
REFERENCE = {
    "matching_losses_b4": 2.2,
    "evaluation_500": 5.0 / 0.104,
    "evaluation_test_split": 26_446 / 500 * 5.0 / 0.104,
    "decoding_b8": 8 * 0.02 / 0.104,
    "training_step": 4.1 / 0.104,
}


def timed(make: Callable[[], Work], settings: Settings, **extra: Any) -> Values:
    return measure(make(), settings.repeats) | extra


def matching(batch: int, relations: int, settings: Settings) -> Values:
    make = partial(workloads.matching_losses, batch, relations)
    return timed(make, settings, batch=batch, relations=relations)


ROWS: dict[str, Callable[[Settings], Values]] = {
    CALIBRATION: partial(timed, calibration),
    "matching_losses_b4": partial(matching, 4, 20),
    "matching_losses_b20": partial(matching, 20, 60),
    "evaluation_500": partial(timed, partial(workloads.evaluation, 500)),
    "evaluation_test_split": workloads.evaluation_test_split,
    "decoding_b8": partial(timed, partial(workloads.decoding, 8)),
    "training_step": steps.training_step,
    "training_step_matmuls": steps.training_step_matmuls,
    **{name: partial(steps.growth, name) for name in steps.GROWTH},
    "memory": memory.memory,
    "data_open_108k": data.data_open,
    "data_decode": data.data_decode,
    "trial_start": start.trial_start,
    "help": start.show_help,
    "scaling_2": partial(scaling.scaling, 2),
    "scaling_4": partial(scaling.scaling, 4),
    "training_step_gpu": steps.training_step_gpu,
    "matching_losses_b20_gpu": steps.matching_losses_gpu,
    "decoding_b8_gpu": steps.decoding_gpu,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), help="names with commas between")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; figures are comparable with 2")
    parser.add_argument("--quick", action="store_true", help="one run of reduced sizes: shows that every row works")
    arguments = parser.parse_args()
    names = list(dict.fromkeys([CALIBRATION, *arguments.only.split(",")]))
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        print(f"no such workload: {unknown[0]} (there are {', '.join(ROWS)})", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    settings = Settings(1 if arguments.quick else arguments.repeats, arguments.threads, arguments.quick)
    rows = [{"name": name, **values} for name in names if (values := run(name, settings)) is not None]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def run(name: str, settings: Settings) -> Values | None:
    """Measures a row and prints it; None where it is left out."""
    try:
        values = ROWS[name](settings)
    except LeftOut as reason:
        print(f"{name:24} {reason}", flush=True)
        return None
    if name in REFERENCE and not settings.quick:
        values["times_faster_than_reference"] = times_faster(values, REFERENCE[name])
    print(f"{name:24} {values['seconds']:10.4f} s {values['ratio_to_calibration']:10.2f} calibrations", flush=True)
    for key, value in values.items():
        if key not in ("seconds", "ratio_to_calibration"):
            print(f"{'':26}{key}: {_short(value)}", flush=True)
    return values


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return (
            "; ".join(f"{_short(item)}" for item in value)
            if value and isinstance(value[0], list)
            else " ".join(map(_short, value))
        )
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
