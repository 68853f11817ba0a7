"""CPU seconds of a process and of all that it starts, Ray's included, from Linux's /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

TICK = os.sysconf("SC_CLK_TCK")  # a second
EVERY = 0.5  # seconds between looks: what a process does after the last one is lost


class CpuSeconds:
    """Counts while it is entered."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], float] = {}  # (process, start) → seconds at the last look
        self._before: dict[tuple[int, str], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self) -> CpuSeconds:
        """Begins to count."""
        self._before = _used()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stops counting."""
        self._ended.set()
        self._thread.join()
        self._known |= _used()

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return sum(used - self._before.get(process, 0.0) for process, used in self._known.items())

    def _look_again(self) -> None:
        while not self._ended.wait(EVERY):
            self._known |= _used()


def _used() -> dict[tuple[int, str], float]:
    """(process, start) → CPU seconds, of this process and its descendants that are alive."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _fields(folder)):
            process = int(folder.name)
            parents[process] = int(fields[1])
            used[process] = (fields[19], (int(fields[11]) + int(fields[12])) / TICK)
    return {(process, start): spent for process, (start, spent) in used.items() if _descends(process, parents)}


def _fields(folder: Path) -> list[str]:
    """Of /proc/PID/stat, from the state on; empty where the process has ended."""
    try:
        return (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _descends(process: int, parents: dict[int, int]) -> bool:
    while process in parents and process != os.getpid():
        process = parents[process]
    return process == os.getpid()
