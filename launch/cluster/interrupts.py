"""Ctrl-C, SIGTERM and SIGHUP that do not get lost while Ray runs."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from ray import tune

from speaq.training.endings import count_hang_up_once, ending_signals, restore

GRACE = 1.0  # seconds in which an exception reaches us, where it does


class Interrupts(tune.Callback):
    """Raises KeyboardInterrupt at once and, where that came to nothing, at Tune's next step.

    A signal that arrives while Ray's compiled code calls back into Python raises an exception that nobody sees.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._received: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in ending_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        restore(self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received = time.monotonic()
        count_hang_up_once(number)
        raise KeyboardInterrupt

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raises KeyboardInterrupt for a signal whose own exception got lost."""
        if self._received is not None and time.monotonic() - self._received >= self._grace:
            self._received = None
            raise KeyboardInterrupt
