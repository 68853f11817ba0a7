"""How people see a study's trials: its status, its table, and what a search shows while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from speaq.cli.tables import console, fitting, show, table
from speaq.cli.terminal import echo, echo_json, echo_words
from speaq.evaluation.protocol import common_protocol
from speaq.plain_text import spell, visible
from speaq.study import board, seal
from speaq.study.board import Board, TrialStatus, as_trained, starving, state_of
from speaq.study.decoding import AS_TRAINED
from speaq.study.ledger import Entry
from speaq.study.plan import Listener, Plan, length, max_steps
from speaq.study.snapshot import Snapshot

FAILURES = 5  # shown while a search runs: the last ones
LEAST_ROWS = 6  # of a table on a screen, however low that is
AROUND = 14  # lines of a screen that are of other things than the table
TALL = 40  # lines of a screen that has room for several failures
BAR = 10  # columns of a bar
Now = Callable[[], Snapshot]


def print_status(snapshot: Snapshot, name: str, *, as_json: bool = False, wide: bool = False) -> None:
    """Prints a study's status on stdout. Raises ConfigError where its trials' protocols differ.

    Args:
        name: the study's folder or URL, as the user gave it.
        wide: all rows and columns, on a terminal too.
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
    screen = None if wide else _screen()
    listed = trials if screen is None else worth_showing(trials, made, screen.rows)
    content, is_whole = trial_table(listed, snapshot.plan.objective, None if screen is None else screen.columns)
    show(content)
    _print_rest([trial.state for trial in trials if trial not in listed], name, whole=is_whole)
    if snapshot.protocol is not None:
        echo(f"protocol: {snapshot.protocol}")
    if made.measured is not None:
        echo(f"measured: {made.measured}")
    reasons = [f"trial {trial.trial} {trial.state}: {trial.reason}" for trial in trials if trial.reason]
    _print_reasons(reasons, screen)
    hungry = board.starving_line({trial.trial: starving(snapshot, trial.trial) for trial in trials})
    if hungry is not None:
        echo_words(hungry)
    for forced in snapshot.study.forced:
        echo(f"resumed with --force at {forced['at']}: {'; '.join(forced['changes'])}")
    echo_words(seal.summary(snapshot.folder))
    echo_words(board.totals_line(board.totals(trials, snapshot), snapshot.active))


@dataclasses.dataclass(frozen=True)
class _Screen:
    """How much of a table a terminal has room for."""

    columns: int
    rows: int


def _screen() -> _Screen | None:
    """The terminal of standard output; None where it is none, and nothing need fit."""
    out = console()
    return _Screen(out.width, max(LEAST_ROWS, out.height - AROUND)) if out.is_terminal else None


def worth_showing(trials: Sequence[TrialStatus], made: Board, most: int) -> list[TrialStatus]:
    """Those that run, references, the best ones and the latest, in the order of asking."""
    ranks = {entry.id: rank for rank, entry in enumerate(made.top(len(made.finished)))}
    order = sorted(
        range(len(trials)),
        key=lambda at: (
            trials[at].state not in ("running", "interrupted"),
            trials[at].label not in made.plan.references,
            ranks.get(trials[at].trial, len(ranks)),
            -at,
        ),
    )
    return [trials[at] for at in sorted(order[:most])]


def _print_reasons(reasons: Sequence[str], screen: _Screen | None) -> None:
    """Says why trials failed or were paused; on a screen the last one, and how many more there are."""
    for line in reasons if screen is None else reasons[-1:]:
        echo(line)
    if screen is not None and len(reasons) > 1:
        echo(f"{len(reasons) - 1} more reasons: --wide")


def _print_rest(states: Sequence[str], name: str, *, whole: bool) -> None:
    """Says what a table leaves out of rows and columns, and how to see it."""
    if not states and whole:
        return
    counts = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    left = ([f"{len(states)} more trials ({counts})"] if states else []) + ([] if whole else ["more columns"])
    echo(f"{' and '.join(left)}: speaq status {name} --wide")


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


def trial_table(
    trials: Sequence[TrialStatus], objective: Sequence[str], width: int | None = None, *, bars: bool = False
) -> tuple[Table, bool]:
    """Makes a table with a row for each trial: state, progress, time left, objectives, and what they were as trained.

    Args:
        width: columns that there are; None: as many as it takes.
        bars: draw how far each trial is.

    Returns:
        The table, and whether it has all columns.
    """
    decoded = [as_trained(name) for name in objective] if any(t.decoding for t in trials) else []
    rows = []
    for t in trials:
        values = [t.metrics.get(name) for name in objective]
        if decoded:
            values += [(t.decoding or {}).get("trained", {}).get(name) for name in objective]
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        left = "" if t.eta_seconds is None else spell(t.eta_seconds)
        progress = (bar(t.step / t.max_steps),) if bars else ()
        rows.append((t.trial, t.label or "", t.state, *progress, t.steps_text, spell(t.seconds), left, *numbers))
    header = ("trial", "", "state", *(("progress",) if bars else ()), "step", "time", "left", *objective, *decoded)
    shown = (header, rows) if width is None else fitting(header, rows, width, [*decoded[::-1], "time", "progress", ""])
    return table(*shown, numbers=header[3 + bars :]), len(shown[0]) == len(header)


def bar(share: float) -> str:
    """A bar that is full at 1."""
    full = round(BAR * min(max(share, 0.0), 1.0))
    return "━" * full + "─" * (BAR - full)


def print_trials(entries: Sequence[Entry], plan: Plan, name: str = "STUDY") -> None:
    """Prints the trials, the best one marked, then the protocol of the metrics and failures with their reason.

    On a terminal those rows and columns that it has room for, the best ones first.

    Raises ConfigError where the trials' protocols differ: they are not ranked together.
    """
    protocol = common_protocol(entry.protocol for entry in entries)
    made, screen = Board(entries, plan, active=False), _screen()
    listed = entries if screen is None else _best_first(made, screen.rows)
    is_whole = _print_entries(listed, made, screen)
    shown = {entry.id for entry in listed}
    rest = [state_of(entry, active=False) for entry in entries if entry.id not in shown]
    _print_rest(rest, name, whole=is_whole)
    if screen is not None and made.best is not None:
        echo(f"the best has {_parameters_text(made.parameters[made.best.id], plan)}{_decoding_text(made.best)}")
    if protocol is not None:
        echo(f"protocol: {protocol}")
    if made.measured is not None:
        echo(f"measured: {made.measured}")
    reasons = [f"trial {entry.id} {entry.state}: {entry.reason}" for entry in entries if entry.reason]
    _print_reasons(reasons, screen)


def _best_first(made: Board, most: int) -> list[Entry]:
    """So many trials: finished ones from the best on, then others; the references are among them."""
    ranked = made.top(len(made.finished))
    ranked += [entry for entry in made.entries if entry not in ranked]
    others = [entry for entry in ranked if entry.label not in made.plan.references]
    kept = others[: max(0, most - (len(ranked) - len(others)))]
    return [entry for entry in ranked if entry in kept or entry not in others]


def _print_entries(entries: Sequence[Entry], made: Board, screen: _Screen | None) -> bool:
    """Prints a table of trials; returns whether it has all columns."""
    plan, values = made.plan, {row["trial"]: row for row in made.rows}
    decoded = [as_trained(name) for name in plan.objective] if plan.settings.decoding else []
    others = [name for name in made.columns if name not in plan.objective]
    names = (*plan.objective, *others, *decoded) if screen else (*made.columns, *decoded)
    header = ("", "trial", "label", "state", *names, "steps", "time", "parameters")
    marked = next((row for row, entry in enumerate(entries) if made.best is not None and entry.id == made.best.id), -1)
    rows: list[tuple[object, ...]] = [
        (
            "*" if row == marked else "",
            entry.id,
            entry.remark,
            values[entry.id]["status"],
            *(_number(values[entry.id][name]) for name in names),
            made.steps_text(entry),
            spell(entry.seconds),
            _parameters_text(made.parameters[entry.id], plan) + _decoding_text(entry),
        )
        for row, entry in enumerate(entries)
    ]
    shown = (header, rows)
    if screen is not None:
        spare = ("parameters", *decoded[::-1], *others[::-1], "time", "steps", "label")
        shown = fitting(header, rows, screen.columns, spare)  # type: ignore[assignment]
    show(table(*shown, numbers=(*names, "steps", "time"), best=marked))
    return len(shown[0]) == len(header)


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
    with live(screen, now, lines.left):
        yield lines


@contextlib.contextmanager
def told(now: Now) -> Iterator[Listener]:
    """Shows a search while it runs, on stderr: a line for each end of a trial."""
    yield Lines(now, console(stderr=True))


@contextlib.contextmanager
def live(screen: Console, now: Now, left: Callable[[Snapshot], str] | None = None) -> Iterator[None]:
    """Shows the search below the printed lines, renewed every second; nothing where `screen` is no terminal.

    Args:
        left: says how long it takes yet.
    """
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield
        return
    shown = [Group()]

    def renew() -> Group:
        with contextlib.suppress(RuntimeError):  # the search wrote to a dictionary just now: next time
            snapshot = now()
            shown[0] = render(snapshot, screen.width, screen.height, left(snapshot) if left is not None else "")
        return shown[0]

    with Live(console=screen, get_renderable=renew, refresh_per_second=1, transient=True):
        yield


def render(snapshot: Snapshot, width: int = 400, height: int = 100, left: str = "") -> Group:
    """Makes what `live` shows: how far the search is, best of each objective, a row for each running trial, failures.

    Args:
        width, height: of the screen, which it fits.
        left: how long it takes yet.
    """
    trials = board.trial_statuses(snapshot)
    running = [trial for trial in trials if trial.state == "running"]
    failed = [trial for trial in trials if trial.reason][-FAILURES if height >= TALL else -1 :]
    ended, wanted = sum(entry.ended for entry in snapshot.entries), max(snapshot.plan.trials, len(trials))
    most = max(LEAST_ROWS, height - AROUND - len(failed))
    more = [Text(f"{len(running) - most} more are running")] if len(running) > most else []
    return Group(
        Text(" ".join(part for part in (bar(ended / wanted), f"{ended}/{wanted} trials", left) if part)),
        *(Text(visible(line)) for line in Board.of(snapshot).best_lines()),
        trial_table(running[:most], snapshot.plan.objective, width, bars=True)[0],
        *more,
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
        return " · ".join([*parts, self.left(snapshot)])

    def left(self, snapshot: Snapshot) -> str:
        """How long the search has been at work, and how long it takes yet at that pace."""
        plan, entries = snapshot.plan, snapshot.entries
        to_come = max(plan.trials - len(entries), 0)
        total = sum(max_steps(e, plan) for e in entries) + to_come * length(plan)
        done, elapsed = _work(snapshot), time.monotonic() - self._begin
        fresh = done - self._work_before
        if fresh <= 0:
            return spell(elapsed)
        left = (total - done) / fresh * elapsed
        return f"{spell(elapsed)}, about {spell(left)} left"


def _work(snapshot: Snapshot) -> float:
    """Steps that are done or need not be done any more."""
    return float(sum(max_steps(e, snapshot.plan) if e.ended else e.step for e in snapshot.entries))
