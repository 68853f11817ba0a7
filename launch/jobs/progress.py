"""One line of ours for each end of a trial, on stderr, instead of Ray's tables; and for each report in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from speaq.cli.terminal import console
from speaq.plain_text import visible
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.plan import Plan, max_steps


class Lines:
    """Listens to the search and prints."""

    def __init__(self, plan: Plan, entries: Mapping[str, Entry], concurrent: int) -> None:
        self.console = console(stderr=True)
        self._plan, self._entries, self._concurrent = plan, entries, concurrent
        self._begin = time.monotonic()
        self._work_before = self._work()

    def __call__(self, entry: Entry, event: str) -> None:
        if event in ("asked", "running") or (event == "reported" and self.console.is_terminal):
            return  # in a terminal the table shows how far a trial is
        style = {"reported": "dim", "failed": "red"}.get(event)
        self.console.print(visible(self._line(entry, event)), style=style, soft_wrap=True)

    def _line(self, entry: Entry, event: str) -> str:
        plan = self._plan
        metrics = entry.reports.get(entry.step, {}) if event == "reported" else entry.metrics
        board = Board(list(self._entries.values()), plan)
        names = list(dict.fromkeys([*plan.objective, *board.columns[:3]]))
        values = " ".join(f"{name} {value:.3f}" for name in names if (value := metrics.get(name)) is not None)
        ended = [e for e in board.entries if e.ended]
        parts = [
            f"{entry.id}{' ' + entry.label if entry.label else ''} {event}",
            f"step {entry.step}/{max_steps(entry, plan)}",
            entry.reason or values,
            f"{len(ended)}/{plan.trials} trials",
        ]
        if (best := board.best) is not None:
            parts.append(f"best {plan.objective[0]} {best.metrics.get(plan.objective[0]) or 0:.3f} ({best.id})")
        return " · ".join([*parts, self._eta()])

    def _work(self) -> float:
        """Steps that are done or need not be done any more."""
        return float(sum(max_steps(e, self._plan) if e.ended else e.step for e in self._entries.values()))

    def _eta(self) -> str:
        plan, entries = self._plan, self._entries.values()
        to_come = max(plan.trials - len(entries), 0)
        total = sum(max_steps(e, plan) for e in entries) + to_come * plan.base.training.max_steps
        done, elapsed = self._work(), time.monotonic() - self._begin
        fresh = done - self._work_before
        if fresh <= 0:
            return f"{elapsed:.0f} s"
        left = (total - done) / fresh * elapsed
        return f"{elapsed:.0f} s, about {left:.0f} s left"
