"""The report's leader board."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speaq.config.user_groups import label
from speaq.space import GROUPS
from speaq.study.board import Board, TrialStatus, as_trained
from speaq.study.snapshot import Snapshot

from . import html

ORDER = ("finished", "infeasible", "paused", "pruned", "running", "interrupted", "asked", "failed")


def leader_board(snapshot: Snapshot, board: Board, trials: Sequence[TrialStatus], home: Path) -> list[str]:
    """All trials: finished ones by rank, then the others; each leads to its folder from `home`, that of the page."""
    if not trials:
        return [html.text("No trial has been asked for yet.")]

    def key(trial: TrialStatus) -> tuple[int, int, float]:
        rung = 0 if board.ladder is None else -board.ladder.reached(trial.step)
        return ORDER.index(trial.state), rung, -board.score(trial.metrics)

    decoded = board.plan.objective if board.plan.settings.decoding else ()
    folders = {entry.id: snapshot.run_folder(entry) for entry in board.entries}
    rows, classes = [], []
    for rank, trial in enumerate(sorted(trials, key=key), start=1):
        place = rank if trial.state == "finished" else None
        rows.append([place, _led(trial.trial, folders[trial.trial], home), *_row(trial, board, decoded)])
        best = board.best is not None and trial.trial == board.best.id
        classes.append(f"{trial.label or ''} {'best' if best else ''}")
    header = ["rank", "trial", "", "state", *board.columns, *map(as_trained, decoded), "steps"]
    note = "The best trial is bold; the published setting has an orange edge, the baseline a blue one. "
    note += "Metrics are of the kept checkpoint; trials that were pruned or paused are not ranked. "
    note += "A click on the head of a column sorts."
    note += f" Measured: {board.measured}." if board.measured else ""
    parameters = board.parameters[trials[0].trial]
    return [html.text(note), html.table([*header, *parameters], rows, classes, sortable=True)]


def _row(trial: TrialStatus, board: Board, decoded: Sequence[str]) -> list[Any]:
    """A trial's columns behind its name."""
    values = dict(board.parameters[trial.trial])
    if GROUPS in values:
        values[GROUPS] = label(values[GROUPS])
    numbers = [trial.metrics.get(name) for name in board.columns]
    numbers += [(trial.decoding or {}).get("trained", {}).get(name) for name in decoded]
    return [trial.label or "", trial.state, *numbers, trial.rung or trial.step, *values.values()]


def _led(trial: str, folder: Path, home: Path) -> str | html.Link:
    """The trial's name, which leads to its folder where there is one."""
    return html.Link(trial, f"{os.path.relpath(folder, home)}/") if folder.is_dir() else trial
