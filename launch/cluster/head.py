"""Is the head of the cluster there? Where it is lost, the process ends with one line, and can be resumed.

Ray's own end comes after minutes, from a thread of its compiled code, with pages of text and no way to say anything.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from .limits import end_now

LOOK = 2.0  # seconds between looks
ANSWER = 5.0  # seconds that a head is given for an answer
SETTINGS = 4  # type of the first frame that an HTTP/2 server sends
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0))  # RFC 9113, section 3.4
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
        if answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > LIMIT and not ended.is_set():
            end_now(f"Ray: the head at {address} has not answered for {LIMIT:g} s; --resume goes on on another cluster")


def answers(address: str) -> bool:
    """Whether a gRPC server speaks at host:port. The port of a process that hangs is open as well, so that a connection
    says nothing.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return True  # a word in clear would be refused
            connection.sendall(HELLO)
            frame = connection.recv(9)  # length (3 bytes), type, …
            return len(frame) > 3 and frame[3] == SETTINGS
    except (OSError, ValueError, OverflowError):  # the last two: what stands for the port is none
        return False


def found(address: str, limit: float) -> bool:
    """Whether a head answers at host:port within `limit` seconds, from now on: it may be about to start.

    Ctrl-C is heeded meanwhile, also where the look-up of the name hangs.
    """
    there, given_up = threading.Event(), threading.Event()

    def look() -> None:
        while not answers(address):
            if given_up.wait(min(LOOK, limit / 10)):
                return
        there.set()

    threading.Thread(target=look, name="look for the head", daemon=True).start()
    try:
        return there.wait(limit)
    finally:
        given_up.set()
