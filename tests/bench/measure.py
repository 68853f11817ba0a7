"""How a row is timed: every run of the work beside a run of the calibration, medians of both."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], object]
Values = dict[str, Any]  # seconds, ratio_to_calibration, and what else a row says
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """`quick` reduces sizes as well as repeats; then the figures say nothing, but every row runs in seconds."""

    repeats: int
    threads: int
    quick: bool = False


class LeftOut(Exception):
    """Why a row cannot be measured here."""


def calibration() -> Work:
    """A 2048 × 2048 float32 product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return lambda: a @ b


def measure(work: Work, repeats: int, *, warm_up: bool = True) -> Values:
    """Median wall seconds of `repeats` runs, and their ratio to the calibration's, run in turn with them."""
    calibrate = calibration()
    calibrate()
    if warm_up:
        work()
    pairs = [(seconds(calibrate), seconds(work)) for _ in range(repeats)]
    return row(statistics.median(b for _, b in pairs), statistics.median(a for a, _ in pairs))


def beside(taken: Callable[[], float], repeats: int) -> Values:
    """The same for work that times itself, such as another process."""
    calibrate = calibration()
    calibrate()
    pairs = [(seconds(calibrate), taken()) for _ in range(repeats)]
    return row(statistics.median(b for _, b in pairs), statistics.median(a for a, _ in pairs))


def row(taken: float, calibrated: float) -> Values:
    return {"seconds": taken, "ratio_to_calibration": taken / calibrated}


def seconds(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def apart(function: Callable[..., Values], threads: int, *arguments: object) -> Values:
    """`function(*arguments)` in a process of its own, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(torch.set_num_threads, threads).result()
        return pool.submit(function, *arguments).result()


def memory_now_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / MIB


def peak_growth_mib(before_mib: float) -> float:
    """By how much the largest resident memory of this process so far exceeds what it was.

    Of the process as it is, not `ru_maxrss`, which a child has from its parent.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return max(peak / 1024 - before_mib, 0.0)


def times_faster(values: Mapping[str, Any], reference_ratio: float) -> float:
    """Than the reference, by the ratios of both to the calibration beside them."""
    return reference_ratio / float(values["ratio_to_calibration"])
