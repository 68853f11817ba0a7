"""A search as `speaq explore` shows it: the trials of its board, and which of them have images to look at."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.config import ConfigError, DataConfig
from speaq.data.records import SplitName
from speaq.evaluation.predictions import newest_predictions
from speaq.plain_text import shown
from speaq.study import file, snapshot
from speaq.study.board import REFERENCES, Board, TrialStatus, trial_statuses
from speaq.study.file import Study
from speaq.study.ledger import Entry
from speaq.study.snapshot import FEATURES, Snapshot
from speaq.training.origins import find_data


@dataclass(frozen=True)
class ExploredStudy:
    """The folder of a search, and its study.yaml as it was when the server began."""

    folder: Path
    study: Study

    @property
    def objective(self) -> tuple[str, ...]:
        """The one or two metrics that the search is for."""
        return self.study.plan.objective

    @property
    def images(self) -> DataConfig:
        """Which images its trials train and validate on."""
        return self.study.plan.base.data

    def data(self) -> Path:
        """Where the data of the search are now. Raises ConfigError."""
        return find_data(self.study.data, self.study.data_digest, self.folder)

    def read(self) -> Snapshot:
        """The search as its folder tells it now. Raises ConfigError where a file of it cannot be read."""
        return snapshot.read(self.folder)

    def begun(self) -> dict[str, Path]:
        """The run folder of each trial that has begun, by its name: on a ladder at first that from features."""
        trials = self.folder / "trials"
        below = {path.parent.parent.name: path.parent for path in trials.glob(f"*/{FEATURES}/config.yaml")}
        return below | {path.parent.name: path.parent for path in trials.glob("*/config.yaml")}

    def trial(self, name: str) -> Path | None:
        """The folder of a trial that has begun; None where there is none."""
        return self.begun().get(name)

    def facts(self, trial: str) -> tuple[dict[str, str], dict[str, str]]:
        """What the search knows of a trial: how it stands there, and its settings; nothing where it knows none."""
        now = self.read()
        status = next((status for status in trial_statuses(now) if status.trial == trial), None)
        if status is None:
            return {}, {}
        found = {"state": status.state, "in the search": status.label or "", "because": status.reason or ""}
        settings = Board.of(now).parameters[trial]
        return {key: value for key, value in found.items() if value}, {k: shown(v) for k, v in settings.items()}

    def trials(self, now: Snapshot, split: SplitName) -> list[dict[str, Any]]:
        """A row for each trial: the board's columns, `kind`, `folder` (None: not begun), `predictions`, `settings`.

        Raises DataError where a file of predictions cannot be read.
        """
        board, begun = Board.of(now), self.begun()
        best = best_of(board)
        rows = []
        for row, status in zip(board.rows, trial_statuses(now), strict=True):
            settings = board.parameters[status.trial]
            folder = begun.get(status.trial)
            rows.append(
                {
                    **{name: value for name, value in row.items() if name not in settings},
                    "status": status.state,
                    "kind": _kind(best, status),
                    "settings": {name: "" if value is None else str(value) for name, value in settings.items()},
                    "folder": folder,
                    "predictions": None if folder is None else newest_predictions(folder, split),
                }
            )
        return rows

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Metrics and cost that a trial has: the objective first, then the others in the board's order."""
        names = [name for row in rows for name, value in row.items() if isinstance(value, int | float)]
        known = list(dict.fromkeys(names))
        return [n for n in self.objective if n in known] + [n for n in known if n not in self.objective]


def best_of(board: Board) -> Entry | None:
    """The best finished trial; None also where trials of different protocols cannot be ranked."""
    with contextlib.suppress(ConfigError):
        return board.best
    return None


def _kind(best: Entry | None, status: TrialStatus) -> str:
    """By which colour charts know a trial; "" where it is one of many."""
    if status.label in REFERENCES:
        return str(status.label)
    return "best" if best is not None and best.id == status.trial else ""


def open_study(folder: Path) -> ExploredStudy:
    """Raises ConfigError where `folder` holds no search."""
    if not (folder / "study.yaml").exists():
        raise ConfigError(f"{folder}: is no search (it has no study.yaml)")
    return ExploredStudy(folder, file.read(folder / "study.yaml"))
