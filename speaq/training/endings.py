"""How a run can end before its last step. Light to import: whoever runs trainings need not load torch for it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130  # exit codes


class Interrupted(Exception):
    """Ctrl-C, SIGTERM or SIGHUP: the run was saved and can be resumed."""


class StopTraining(Exception):
    """Raised by a `report` callable to end the run early; the run counts as stopped, not failed."""


class OutOfMemory(RuntimeError):
    """The device's memory is too small for a step. The run can be resumed with a smaller training.micro_batch_size:
    the images of each step stay the same, the box losses are then averaged over smaller parts of it.
    """


class DivergedError(RuntimeError):
    """The model's outputs or the loss are no longer finite; the message says what led there (`Health.explain`)."""


def ending_signals() -> list[signal.Signals]:
    """The signals that end a run after a checkpoint: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed.

    One that is ignored stays ignored: `nohup` does so with SIGHUP, a shell with the SIGINT of what it runs behind.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]


def restore(handlers: Mapping[int, Any]) -> None:
    """Puts handlers of signals back. One that is ignored by now stays so, see `count_hang_up_once`."""
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def count_hang_up_once(number: int) -> None:
    """To be called in a handler. The kernel and the shell both say that a terminal was closed: one of them counts."""
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first signal that ends a run into a flag, so that a step is never torn; the second acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before: dict[int, Any] = {s: signal.getsignal(s) for s in ending_signals()}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore(before)
        count_hang_up_once(number)

    for s in before:
        signal.signal(s, handle)
    try:
        yield lambda: bool(received)
    finally:
        restore(before)
