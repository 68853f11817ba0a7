"""`python -m tests.gpu [--minutes 8] [--output FOLDER] [--golden DIR] [--only STAGE …] [--dry]`: see docs/gpu.md."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu.plan import NEEDED, OPTIONAL, STAGES, Settings, Stage, golden_folder, missing, remedy
from tests.gpu.record import Record
from tests.gpu.worker import work

EXIT_FAILED, EXIT_USAGE = 1, 2
LEAST_SECONDS = 45.0  # of a stage: PyTorch has to be loaded


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 every stage was done or skipped, 1 one failed or there was no time for it, 2 it cannot be begun."""
    options = parse(arguments)
    folder: Path = options.output.resolve()
    python = ".".join(platform.python_version_tuple()[:2])
    if gone := missing(NEEDED):
        print(f"missing here: {', '.join(gone)}\n{remedy(gone, python)}", file=sys.stderr)
        return EXIT_USAGE
    if gone := missing(OPTIONAL):
        print(f"not here, its stage is left out: {', '.join(gone)}\n{remedy(gone, python)}", file=sys.stderr)
    wanted = [stage for stage in STAGES if not options.only or stage.name in options.only]
    record = Record(folder, dry=options.dry, minutes=options.minutes, python=platform.python_version(), missing=gone)
    workspace = folder / "work"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    settings = Settings(workspace, golden_folder(options.golden), options.dry)
    try:
        run(wanted, settings, record, time.monotonic() + 60 * options.minutes)
    finally:
        print(record.table(), f"{record.file}", sep="\n")
        shutil.rmtree(workspace, ignore_errors=True)
    return 0 if record.good else EXIT_FAILED


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), metavar="FOLDER", help="gets gpu.json")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="golden set to compare with")
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", choices=[stage.name for stage in STAGES])
    parser.add_argument("--dry", action="store_true", help="every stage on the CPU with the smallest sizes")
    return parser.parse_args(arguments)


def run(stages: Sequence[Stage], settings: Settings, record: Record, ends: float) -> None:
    """Does the stages in a process, and in a new one after each that hangs or takes its process with it."""
    left = list(stages)
    while left and time.monotonic() < ends:
        left = attend(left, settings, record, ends)
    for stage in left:
        record.begin(stage.name)
        record.end("not run", "the time is up", 0.0)


def attend(stages: list[Stage], settings: Settings, record: Record, ends: float) -> list[Stage]:
    """Follows one process; returns the stages that it did not come to."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=work, args=([stage.name for stage in stages], settings, send))
    process.start()
    send.close()
    left = list(stages)
    try:
        while left and time.monotonic() < ends:
            begin = time.monotonic()
            part = (ends - begin) * left[0].share / sum(stage.share for stage in left)
            record.begin(left[0].name)
            status, error, alive = follow(receive, process, record, min(begin + max(part, LEAST_SECONDS), ends))
            record.end(status, error, time.monotonic() - begin)
            left.pop(0)
            if not alive:
                break
        return left
    finally:
        end(process)
        receive.close()


def follow(receive: Any, process: Any, record: Record, until: float) -> tuple[str, str, bool]:
    """Keeps what a stage says; returns how it ended, its error, and whether its process can go on."""
    begin = time.monotonic()
    while True:
        if not receive.poll(max(until - time.monotonic(), 0)):
            return "late", f"ended after its {time.monotonic() - begin:.0f} s", False
        try:
            kind, *values = receive.recv()
        except EOFError:
            process.join(10)
            return "failed", f"its process ended with code {process.exitcode}", False
        if kind == "end":
            return values[0], values[1], "CUDA error" not in values[1] and "device-side assert" not in values[1]
        record.row(values[0])


def end(process: Any) -> None:
    """The process has ended, and all that it started."""
    process.join(0.5)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # its group, which begins with `work`
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(30)


if __name__ == "__main__":
    sys.exit(main())
