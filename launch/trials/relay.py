"""Between the workers of one run and the process that started it. Imports nothing heavy: it is a process of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from speaq.training.callbacks import Metrics

POLL = 1.0  # seconds between looks at whether the run has ended
TICK = 0.02  # seconds between looks inside the relay

Answer = Literal["go on", "stop", "again"]  # again: end here, to start with more workers


class Relay:
    """State only, so that a lost call loses nothing: one offer at a time, numbered, and the answer to it."""

    def __init__(self) -> None:
        self._offer: tuple[int, int, Metrics] | None = None  # number, step, metrics: what rank 0 waits with
        self._answer: tuple[int, Answer] | None = None
        self._number = 0
        self._outcome: dict[str, Any] = {}
        self._progress: tuple[int, int, str] | None = None

    async def offer(self, step: int, metrics: Metrics) -> Answer:
        """Called by rank 0; waits for the answer."""
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
        self._answer = number, answer

    async def end(self, outcome: dict[str, Any]) -> None:
        """The first outcome counts."""
        self._outcome = self._outcome or outcome

    async def outcome(self) -> dict[str, Any]:
        return self._outcome

    async def set_progress(self, progress: tuple[int, int, str]) -> None:
        self._progress = progress

    async def progress(self) -> tuple[int, int, str] | None:
        return self._progress
