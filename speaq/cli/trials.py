"""How people see a study's trials: its status, its table, and what a search shows while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from speaq.cli.tables import console, show, table
from speaq.cli.terminal import echo, echo_json
from speaq.evaluation.protocol import common_protocol
from speaq.plain_text import visible
from speaq.study import board, seal
from speaq.study.board import Board, TrialStatus, as_trained, starving
from speaq.study.decoding import AS_TRAINED
from speaq.study.ledger import Entry
from speaq.study.plan import Listener, Plan, length, max_steps
from speaq.study.snapshot import Snapshot

FAILURES = 5  # shown while a search runs: the last ones
Now = Callable[[], Snapshot]


def print_status(snapshot: Snapshot, name: str, *, as_json: bool = False) -> None:
    """Prints a study's status on stdout. Raises ConfigError where its trials' protocols differ.

    Args:
        name: the study's folder or URL, as the user gave it.
    """
    trials = board.trial_statuses(snapshot)
    made = Board.of(snapshot)
    best = made.best_by_objective
    if as_json:
        echo_json({"study": name, **_to_json(snapshot, trials, best)})
        return
    for line in made.best_lines():
        echo(line)
    if not best:
        echo("no trial has finished")
    show(trial_table(trials, snapshot.plan.objective))
    if snapshot.protocol is not None:
        echo(f"protocol: {snapshot.protocol}")
    if made.measured is not None:
        echo(f"measured: {made.measured}")
    for trial in trials:
        if trial.reason:
            echo(f"trial {trial.trial} {trial.state}: {trial.reason}")
    hungry = board.starving_line({trial.trial: starving(snapshot, trial.trial) for trial in trials})
    if hungry is not None:
        echo(hungry)
    for forced in snapshot.study.forced:
        echo(f"resumed with --force at {forced['at']}: {'; '.join(forced['changes'])}")
    echo(seal.summary(snapshot.folder))
    echo(board.totals_line(board.totals(trials, snapshot), snapshot.active))


def _to_json(snapshot: Snapshot, trials: Sequence[TrialStatus], best: Mapping[str, Entry]) -> dict[str, Any]:
    return {
        "active": snapshot.active,
        "objective": list(snapshot.plan.objective),
        "protocol": snapshot.protocol,
        "test_split": seal.summary(snapshot.folder),
        "forced": list(snapshot.study.forced),
        "best": {name: {"trial": entry.id, "value": entry.metrics[name]} for name, entry in best.items()},
        "totals": dataclasses.asdict(board.totals(trials, snapshot)),
        "trials": [_trial_json(snapshot, trial) for trial in trials],
    }


def _trial_json(snapshot: Snapshot, trial: TrialStatus) -> dict[str, Any]:
    content = {**dataclasses.asdict(trial), "starving_groups": starving(snapshot, trial.trial)}
    if not snapshot.plan.settings.decoding:
        del content["decoding"]
    if trial.rung is None:
        del content["rung"]
    return content


def trial_table(trials: Sequence[TrialStatus], objective: Sequence[str]) -> Table:
    """Makes a table with a row for each trial: state, progress, ETA, objectives, and what they were as trained."""
    decoded = [as_trained(name) for name in objective] if any(t.decoding for t in trials) else []
    rows = []
    for t in trials:
        values = [t.metrics.get(name) for name in objective]
        if decoded:
            values += [(t.decoding or {}).get("trained", {}).get(name) for name in objective]
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        eta = "" if t.eta_seconds is None else f"{t.eta_seconds:.0f} s"
        rows.append((t.trial, t.label or "", t.state, t.steps_text, f"{t.seconds:.0f}", eta, *numbers))
    return table(("trial", "", "state", "step", "s", "ETA", *objective, *decoded), rows, left=3)


def print_trials(entries: Sequence[Entry], plan: Plan) -> None:
    """Prints the trials, the best one marked, then the protocol of the metrics and failures with their reason.

    Raises ConfigError where the trials' protocols differ: they are not ranked together.
    """
    protocol = common_protocol(entry.protocol for entry in entries)
    made = Board(entries, plan)
    best, columns = made.best, made.columns
    decoded = [as_trained(name) for name in plan.objective] if plan.settings.decoding else []
    header = ("", "trial", "", "status", *columns, *decoded, "steps", "s", "parameters")
    marked = next((row for row, entry in enumerate(entries) if best is not None and entry.id == best.id), -1)
    rows = [
        (
            "*" if row == marked else "",
            entry.id,
            entry.remark,
            entry.state,
            *(_number(made.rows[row][name]) for name in (*columns, *decoded)),
            made.steps_text(entry),
            f"{entry.seconds:.0f}",
            _parameters_text(made.parameters[entry.id], plan) + _decoding_text(entry),
        )
        for row, entry in enumerate(entries)
    ]
    show(table(header, rows, numbers=(*columns, *decoded, "steps", "s"), best=marked))
    if protocol is not None:
        echo(f"protocol: {protocol}")
    if made.measured is not None:
        echo(f"measured: {made.measured}")
    for entry in entries:
        if entry.reason:
            echo(f"trial {entry.id} {entry.state}: {entry.reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _decoding_text(entry: Entry) -> str:
    return "" if entry.decoding is None else f", decoding {entry.decoding.text}"


def _parameters_text(values: Mapping[str, Any], plan: Plan) -> str:
    """Short names (the last part of the key), without what is not searched."""
    names = [key.rpartition(".")[2] for key in plan.space.parameters]

    def short(key: str) -> str:
        section, _, name = key.rpartition(".")
        return name if names.count(name) == 1 else f"{section}.{name}"

    return " ".join(f"{short(k)}={_plain(values[k])}" for k in plan.space.parameters)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def watched(now: Now) -> Iterator[Listener]:
    """Shows a search while it runs, on stderr: a line for each end of a trial, in a terminal also a table below."""
    screen = console(stderr=True)
    lines = Lines(now, screen)
    with live(screen, now):
        yield lines


@contextlib.contextmanager
def told(now: Now) -> Iterator[Listener]:
    """Shows a search while it runs, on stderr: a line for each end of a trial."""
    yield Lines(now, console(stderr=True))


@contextlib.contextmanager
def live(screen: Console, now: Now) -> Iterator[None]:
    """Shows the search below the printed lines, renewed every second; nothing where `screen` is no terminal."""
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield
        return
    shown = [Group()]

    def renew() -> Group:
        with contextlib.suppress(RuntimeError):  # the search wrote to a dictionary just now: next time
            shown[0] = render(now())
        return shown[0]

    with Live(console=screen, get_renderable=renew, refresh_per_second=1, transient=True):
        yield


def render(snapshot: Snapshot) -> Group:
    """Makes what `live` shows: best of each objective, a row for each running trial, the last failures, the sums."""
    trials = board.trial_statuses(snapshot)
    running = [trial for trial in trials if trial.state == "running"]
    failed = [trial for trial in trials if trial.reason][-FAILURES:]
    return Group(
        *(Text(visible(line)) for line in Board.of(snapshot).best_lines()),
        trial_table(running, snapshot.plan.objective),
        *(Text(visible(f"trial {trial.trial} {trial.state}: {trial.reason}"), style="red") for trial in failed),
        Text(board.totals_line(board.totals(trials, snapshot), snapshot.active)),
    )


class Lines:
    """Prints one line for each end of a trial; where there is no table, as in a log file, also for each report."""

    def __init__(self, now: Now, screen: Console) -> None:
        self._now, self._screen = now, screen
        self._begin = time.monotonic()
        self._work_before = _work(now())

    def __call__(self, entry: Entry, event: str) -> None:
        """Prints the line of an event, where it has one."""
        if event in ("asked", "running") or (event == "reported" and self._screen.is_terminal):
            return  # in a terminal the table shows how far a trial is
        style = {"reported": "dim", "failed": "red"}.get(event)
        self._screen.print(visible(self._line(entry, event, self._now())), style=style, soft_wrap=True)

    def _line(self, entry: Entry, event: str, snapshot: Snapshot) -> str:
        plan, entries = snapshot.plan, snapshot.entries
        metrics = entry.metrics if entry.ended else entry.reports.get(entry.step, {})
        made = Board(entries, plan)
        names = list(dict.fromkeys([*plan.objective, *made.columns[:3]]))
        values = " ".join(f"{name} {value:.3f}" for name in names if (value := metrics.get(name)) is not None)
        if entry.decoding is not None:
            trained = entry.decoding.trained.get(plan.objective[0]) or 0.0
            values += f" ({plan.objective[0]} {trained:.3f} {AS_TRAINED})"
        parts = [
            f"{entry.id}{' ' + entry.label if entry.label else ''} {event}",
            f"step {entry.step}/{max_steps(entry, plan)}" if made.ladder is None else made.steps_text(entry),
            entry.reason or values,
            f"{sum(e.ended for e in entries)}/{plan.trials} trials",
        ]
        best = made.best
        if best is not None:
            parts.append(f"best {plan.objective[0]} {best.metrics.get(plan.objective[0]) or 0:.3f} ({best.id})")
        return " · ".join([*parts, self._eta(snapshot)])

    def _eta(self, snapshot: Snapshot) -> str:
        plan, entries = snapshot.plan, snapshot.entries
        to_come = max(plan.trials - len(entries), 0)
        total = sum(max_steps(e, plan) for e in entries) + to_come * length(plan)
        done, elapsed = _work(snapshot), time.monotonic() - self._begin
        fresh = done - self._work_before
        if fresh <= 0:
            return f"{elapsed:.0f} s"
        left = (total - done) / fresh * elapsed
        return f"{elapsed:.0f} s, about {left:.0f} s left"


def _work(snapshot: Snapshot) -> float:
    """Steps that are done or need not be done any more."""
    return float(sum(max_steps(e, snapshot.plan) if e.ended else e.step for e in snapshot.entries))
