"""Processes below others, their end, and what they listen on, from /proc (Linux); free ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")  # as /proc/net has it


def free_port(address: str = "127.0.0.1") -> int:
    """One that nobody listens on, for now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def descendants(ancestor: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for folder in PROC.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found, more = {ancestor}, {ancestor}
    while more:
        more = {child for child, parent in parents.items() if parent in more} - found
        found |= more
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    """It and all below it, at once, as when a machine is lost: Ray takes half a minute to end by itself."""
    for one in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def open_to_others(processes: Iterable[int]) -> Iterator[str]:
    """What of theirs listens on more than loopback: address, port, command."""
    owners = dict(_sockets(processes))
    for name in ("tcp", "tcp6"):
        for line in (PROC / "net" / name).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            address, _, port = local.partition(":")
            owner = owners.get(rest[5])
            if state == "0A" and owner is not None and address not in LOOPBACK:  # 0A: listening
                command = (PROC / str(owner) / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
                yield f"{address} port {int(port, 16)}: {command}"


def _sockets(processes: Iterable[int]) -> Iterator[tuple[str, int]]:
    """(inode, process) of open sockets."""
    for process in processes:
        with contextlib.suppress(OSError):
            for entry in os.scandir(PROC / str(process) / "fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    if target.startswith("socket:["):
                        yield target[8:-1], process
