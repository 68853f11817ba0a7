"""A tiny actor between the workers of one run and the process that started it. It imports nothing heavy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from speaq.training.callbacks import Metrics

POLL = 1.0  # seconds between looks at whether the run has ended
TICK = 0.02  # seconds between looks inside the relay

Answer = Literal["go on", "stop", "again"]  # again: end here, to start with more workers
Fault = Literal["user", "run", "memory", "diverged", "storage", "code"]  # what a run has failed of


@dataclass(frozen=True)
class Trained:
    """The run has come to its end."""

    result: dict[str, Any]  # as the training function returns it


@dataclass(frozen=True)
class Broken:
    """The run has failed in a way that another attempt would not change."""

    fault: Fault
    message: str


Ending = Trained | Broken


class Relay:
    """Keeps what the workers and their starter have to say until the other side asks for it.

    It holds state only, so that a lost call loses nothing: one offer at a time, numbered, and the answer to it.
    """

    def __init__(self) -> None:
        self._offer: tuple[int, int, Metrics] | None = None  # number, step, metrics: what rank 0 waits with
        self._answer: tuple[int, Answer] | None = None
        self._number = 0
        self._ending: Ending | None = None
        self._progress: tuple[int, int, str] | None = None

    async def offer(self, step: int, metrics: Metrics) -> Answer:
        """Called by rank 0 at an evaluation; returns the answer when there is one."""
        self._number += 1
        number = self._number
        self._offer = number, step, metrics
        while self._answer is None or self._answer[0] != number:
            await asyncio.sleep(TICK)
        return self._answer[1]

    async def take(self, seen: int) -> tuple[int, int, Metrics] | None:
        """The offer after number `seen`, or None where none comes within POLL seconds."""
        deadline = time.monotonic() + POLL
        while self._offer is None or self._offer[0] <= seen:
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(TICK)
        return self._offer

    async def answer(self, number: int, answer: Answer) -> None:
        """Called by the starter: lets rank 0 go on from its offer of this number."""
        self._answer = number, answer

    async def end(self, ending: Ending) -> None:
        """Called by a worker that has ended; the first one counts, since the others end because of it."""
        self._ending = self._ending or ending

    async def ending(self) -> Ending | None:
        """How the run ended; None where no worker could say."""
        return self._ending

    async def set_progress(self, progress: tuple[int, int, str]) -> None:
        """Called by rank 0 now and then: steps done, steps in all, text."""
        self._progress = progress

    async def progress(self) -> tuple[int, int, str] | None:
        """The last progress; None before the first step."""
        return self._progress
