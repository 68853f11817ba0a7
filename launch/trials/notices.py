"""A tiny actor beside the driver of a queue: how far each job is. It imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from speaq.training.callbacks import Progress

Notice = tuple[int, int, str]  # done, of so many, text
SILENCE = 1.0  # seconds between two notices


class Notices:
    """Keeps the last notice of each job until the driver asks. What is lost with the actor is told again."""

    def __init__(self) -> None:
        self._told: dict[int, Notice | None] = {}

    async def tell(self, attempt: int, notice: Notice | None) -> None:
        """Called by a job's worker; None: it has begun."""
        self._told[attempt] = notice

    async def told(self) -> dict[int, Notice | None]:
        """The last notice of every attempt that has begun, by its number."""
        return self._told


def teller(notices: Any, attempt: int) -> Progress:
    """What a job on a worker is to call: tells the actor now and then, and waits for nothing."""
    return now_and_then(lambda notice: notices.tell.remote(attempt, notice))


def now_and_then(send: Callable[[Notice], object]) -> Progress:
    """A progress that sends a notice where the last one was `SILENCE` ago."""
    shown = [0.0]

    def tell(done: int, total: int, text: str) -> None:
        if time.monotonic() - shown[0] >= SILENCE:
            shown[0] = time.monotonic()
            send((done, total, text))

    return tell
