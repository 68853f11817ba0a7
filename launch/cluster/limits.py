"""Limits on what knows none: the process ends with one line where compiled code hangs or heeds no signal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from speaq.training.endings import FAILED, INTERRUPTED

PATIENCE = 3.0  # seconds in which a block of compiled code must have ended after a signal


def end_now(line: str, code: int = FAILED) -> None:
    """Ends the process at once: what is on disk stays, and nothing waits for what hangs."""
    above = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a live table hides it, and ends amid a line
    with contextlib.suppress(OSError):  # nobody reads it any more: the process has to end all the same
        os.write(sys.stderr.fileno(), f"{above}speaq: {line}\n".encode())
    os._exit(code)


@contextlib.contextmanager
def bounded(limit: float, line: str) -> Iterator[None]:
    """Around calls of compiled code, which may heed no signal and know no end.

    Python's own handlers run when such a call returns. Here the process ends with one line where that takes longer than
    PATIENCE after Ctrl-C or SIGTERM, and with `line` where the block takes longer than `limit` seconds.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    main = threading.current_thread() is threading.main_thread()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False) if main else -1
    thread = threading.Thread(target=_end_in_time, args=(ours, limit, line), name="limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if main:
            signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()  # it has seen the end
        ours.close()


def _end_in_time(signals: socket.socket, limit: float, line: str) -> None:
    """Reads the numbers of signals as they arrive, until the other end is closed."""
    deadline, interrupted = time.monotonic() + limit, False
    while True:
        signals.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            number = signals.recv(1)
        except TimeoutError:
            return end_now("interrupted", INTERRUPTED) if interrupted else end_now(line)
        if not number:
            return None
        if number[0] in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) and not interrupted:
            deadline, interrupted = min(deadline, time.monotonic() + PATIENCE), True
