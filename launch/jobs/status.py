"""`speaq status`: what a study has done and is doing, from its files alone; a search that runs is not disturbed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from speaq.cli.terminal import echo, echo_json, show, shown, table
from speaq.evaluation.protocol import common_protocol
from speaq.study import seal
from speaq.study.board import Board, TrialStatus, starving, starving_line, totals, totals_line, trial_statuses
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.study.snapshot import Snapshot, read


def print_status(folder: Path, *, as_json: bool = False) -> None:
    """Prints a study's status on stdout. Raises as `read`."""
    snapshot = read(folder)
    trials = trial_statuses(snapshot)
    board = Board.of(snapshot)
    if as_json:
        echo_json(_to_json(snapshot, trials, board))
        return
    for line in board.best_lines():
        echo(line)
    if not board.best_by_objective:
        echo("no trial has finished")
    show(trial_table(trials, snapshot.plan.objective))
    if snapshot.protocol is not None:
        echo(f"protocol: {snapshot.protocol}")
    for trial in trials:
        if trial.reason:
            echo(f"trial {trial.trial} {trial.state}: {trial.reason}")
    hungry = starving_line({trial.trial: starving(snapshot, trial.trial) for trial in trials})
    if hungry is not None:
        echo(hungry)
    for forced in snapshot.study.forced:
        echo(f"resumed with --force at {forced['at']}: {'; '.join(forced['changes'])}")
    echo(seal.summary(folder))
    echo(totals_line(totals(trials, snapshot), snapshot.active))


def _to_json(snapshot: Snapshot, trials: Sequence[TrialStatus], board: Board) -> dict[str, Any]:
    return {
        "study": shown(snapshot.folder),
        "active": snapshot.active,
        "objective": list(snapshot.plan.objective),
        "protocol": snapshot.protocol,
        "test_split": seal.summary(snapshot.folder),
        "forced": list(snapshot.study.forced),
        "best": {
            name: {"trial": entry.id, "value": entry.metrics[name]} for name, entry in board.best_by_objective.items()
        },
        "totals": dataclasses.asdict(totals(trials, snapshot)),
        "trials": [
            {**dataclasses.asdict(trial), "starving_groups": starving(snapshot, trial.trial)} for trial in trials
        ],
    }


def trial_table(trials: Sequence[TrialStatus], objective: Sequence[str]) -> Table:
    """One row a trial: state, progress, ETA, objectives."""
    rows = []
    for t in trials:
        values = (t.metrics.get(name) for name in objective)
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        eta = "" if t.eta_seconds is None else f"{t.eta_seconds:.0f} s"
        rows.append((t.trial, t.label or "", t.state, f"{t.step}/{t.max_steps}", f"{t.seconds:.0f}", eta, *numbers))
    return table(("trial", "", "state", "step", "s", "ETA", *objective), rows, left=3)


def print_table(entries: Sequence[Entry], plan: Plan) -> None:
    """The trials on stdout, the best one marked, then the protocol of the metrics and failures with their reason.

    Raises ConfigError where the trials' protocols differ: they are not ranked together.
    """
    protocol = common_protocol(entry.protocol for entry in entries)
    board = Board(entries, plan)
    best, columns = board.best, board.columns
    header = ("", "trial", "", "status", *columns, "steps", "s", "parameters")
    marked = next((row for row, entry in enumerate(entries) if best is not None and entry.id == best.id), -1)
    rows = [
        (
            "*" if row == marked else "",
            entry.id,
            entry.remark,
            entry.state,
            *(_number(entry.metrics.get(name)) for name in columns),
            str(entry.step),
            f"{entry.seconds:.0f}",
            _parameters_text(board.parameters[entry.id], plan),
        )
        for row, entry in enumerate(entries)
    ]
    show(table(header, rows, numbers=(*columns, "steps", "s"), best=marked))
    if protocol is not None:
        echo(f"protocol: {protocol}")
    for entry in entries:
        if entry.reason:
            echo(f"trial {entry.id} {entry.state}: {entry.reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parameters_text(values: Mapping[str, Any], plan: Plan) -> str:
    """Short names (the last part of the key), without what is not searched."""
    names = [key.rpartition(".")[2] for key in plan.space.parameters]

    def short(key: str) -> str:
        section, _, name = key.rpartition(".")
        return name if names.count(name) == 1 else f"{section}.{name}"

    return " ".join(f"{short(k)}={_plain(values[k])}" for k in plan.space.parameters)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
