"""Is the head of the cluster still there? Where it is lost, the process ends with one line, and can be resumed.

Ray's own end comes after a minute, from a thread of its compiled code, with pages of text and no way to say anything.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from speaq.terminal import FAILED

LOOK = 2.0  # seconds between looks
LIMIT = 30.0  # seconds without an answer; a head that is started again at its address may come back before


@contextlib.contextmanager
def watched(address: str) -> Iterator[None]:
    """For the time of the block; `address`: host:port of the head's global control service."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(address, ended), name="head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(address: str, ended: threading.Event) -> None:
    seen = time.monotonic()
    while not ended.wait(LOOK):
        if _answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > LIMIT and not ended.is_set():
            _end(f"Ray: the head at {address} has not answered for {LIMIT:g} s; --resume goes on on another cluster")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
    except OSError:
        return False
    return True


def _end(line: str) -> None:
    """At once: the ledger and the checkpoints are on disk, and Ray's shutdown would wait for the head."""
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live table hides it
    with contextlib.suppress(OSError):  # nobody reads it any more: the process has to end all the same
        os.write(sys.stderr.fileno(), f"{show_cursor}speaq: {line}\n".encode())
    os._exit(FAILED)
