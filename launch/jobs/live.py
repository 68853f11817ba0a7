"""A table of the search that renews itself in the terminal: the best so far, what is running, what has failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from launch.jobs import status
from speaq.plain_text import visible
from speaq.study import board
from speaq.study.snapshot import Snapshot

FAILURES = 5  # shown: the last ones


@contextlib.contextmanager
def live(console: Console, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    """Shows the search on `console` while it runs, below the printed lines; nothing where it is no terminal."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    shown = [Group()]

    def renew() -> Group:
        with contextlib.suppress(RuntimeError):  # the search wrote to a dictionary just now: next time
            shown[0] = render(snapshot())
        return shown[0]

    with Live(console=console, get_renderable=renew, refresh_per_second=1, transient=True):
        yield


def render(snapshot: Snapshot) -> Group:
    """Best of each objective, a row for each running trial, the last failures, the sums."""
    trials = board.trial_statuses(snapshot)
    running = [trial for trial in trials if trial.state == "running"]
    failed = [trial for trial in trials if trial.reason][-FAILURES:]
    return Group(
        *(Text(visible(line)) for line in board.Board.of(snapshot).best_lines()),
        status.trial_table(running, snapshot.plan.objective),
        *(Text(visible(f"trial {trial.trial} {trial.state}: {trial.reason}"), style="red") for trial in failed),
        Text(board.totals_line(board.totals(trials, snapshot), snapshot.active)),
    )
