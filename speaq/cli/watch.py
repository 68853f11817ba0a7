"""`speaq status --watch`: a search that goes on, drawn again and again on a terminal, told in lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from speaq.cli.tables import console
from speaq.cli.terminal import can_print, echo
from speaq.cli.trials import (
    AROUND,
    LEAST_ROWS,
    Lines,
    Now,
    bar,
    print_status,
    trial_table,
    worth_showing,
)
from speaq.plain_text import visible
from speaq.study import board
from speaq.study.board import Board, state_of
from speaq.study.snapshot import Snapshot


def watch(now: Now, name: str, pause: float) -> None:
    """Shows a search until it ends or Ctrl-C; one that is not at work is shown once.

    On a terminal the view is drawn again every `pause` seconds. Elsewhere the status is printed once, behind it a line
    for each trial that comes to an end, and at last what all of them cost.

    Args:
        now: reads the search. Raises as `snapshot.read`.
        name: the study's folder or URL, as the user gave it.
    """
    screen = console()
    with contextlib.suppress(KeyboardInterrupt):  # how a reader ends it
        if screen.is_terminal and not screen.is_dumb_terminal:
            _draw(now, screen, pause)
        else:
            _tell(now, name, pause)


def _looks(now: Now, pause: float) -> Iterator[Snapshot]:
    """The search now and every `pause` seconds, until it is not at work any more; the last look is of its end."""
    while True:
        snapshot = now()
        yield snapshot
        if not snapshot.active or not can_print():
            return
        time.sleep(pause)


def _draw(now: Now, screen: Console, pause: float) -> None:
    with Live(console=screen, auto_refresh=False) as shown:
        for snapshot in _looks(now, pause):
            shown.update(view(snapshot, screen.width, screen.height, pause), refresh=True)


def view(snapshot: Snapshot, width: int, height: int, pause: float) -> Group:
    """What a terminal of a size shows: how far the search is, the best, a row for each trial that it has room for."""
    trials, made = board.trial_statuses(snapshot), Board.of(snapshot)
    ended, wanted = sum(entry.ended for entry in snapshot.entries), max(snapshot.plan.trials, len(trials))
    listed = worth_showing(trials, made, max(LEAST_ROWS, height - AROUND))
    left_out = len(trials) - len(listed)
    failed = [trial for trial in trials if trial.reason][-1:]
    sums = board.totals_line(board.totals(trials, snapshot), snapshot.active)
    again = f"every {pause:g} s · Ctrl-C ends" if snapshot.active else ""
    return Group(
        Text(f"{bar(ended / wanted)} {ended}/{wanted} trials  {again}".rstrip()),
        *(Text(visible(line)) for line in made.best_lines() or ["no trial has finished"]),
        trial_table(listed, snapshot.plan.objective, width, bars=True)[0],
        *([Text(f"{left_out} more trials: speaq status --wide")] if left_out else []),
        *(_cut(f"trial {trial.trial} {trial.state}: {trial.reason}", 2 * width) for trial in failed),
        Text(sums),
    )


def _cut(line: str, most: int) -> Text:
    text = visible(line)
    return Text(text if len(text) <= most else f"{text[: most - 1]}…", style="red")


def _tell(now: Now, name: str, pause: float) -> None:
    looks = _looks(now, pause)
    last = next(looks)
    print_status(last, name)
    if not last.active:
        return
    seen = [last]
    lines = Lines(lambda: seen[0], console())
    for snapshot in looks:
        before = {entry.id: entry.state for entry in seen[0].entries}
        seen[0] = snapshot
        for entry in snapshot.entries:
            if entry.state != before.get(entry.id) and entry.ended:
                lines(entry, state_of(entry, snapshot.active))
    echo(board.totals_line(board.totals(board.trial_statuses(seen[0]), seen[0]), seen[0].active))
