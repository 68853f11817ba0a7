"""A search as its folder tells it, read without Ray or Optuna: study.yaml, trials.csv, trials/NNNN."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.config import ConfigError, DataConfig, from_dict, read_yaml
from speaq.data.records import SplitName
from speaq.explore.stored import find_predictions
from speaq.files.regular import check_regular
from speaq.runs import files
from speaq.training.origins import find_data

# Columns of trials.csv that hold words; the others are numbers and, behind `reason`, settings.
TEXT = ("trial", "label", "status", "protocol", "reason")


@dataclass(frozen=True)
class StudyFolder:
    """What `speaq tune` wrote."""

    folder: Path
    data: Path
    objective: tuple[str, ...]
    config: DataConfig  # which images its trials train and validate on

    def trial(self, name: str) -> Path | None:
        """The folder of a trial that has begun; None where there is none."""
        return self._begun().get(name)

    def _begun(self) -> dict[str, Path]:
        found = sorted((self.folder / "trials").glob("*/config.yaml"))
        return {path.parent.name: path.parent for path in found}

    def trials(self, split: SplitName) -> list[dict[str, Any]]:
        """A row for each trial: the columns of trials.csv, `folder` (None: not begun), `predictions`, `settings`.

        A search writes trials.csv when it ends; for trials that it does not list yet rows hold what their results say.
        Raises ConfigError where a file cannot be read.
        """
        begun = self._begun()
        rows = self._table()
        listed = {row["trial"] for row in rows}
        rows += [self._result(name, folder) for name, folder in begun.items() if name not in listed]
        for row in rows:
            folder = begun.get(row["trial"])
            row["folder"] = folder
            row["predictions"] = None if folder is None else find_predictions(folder, split)
        return rows

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Metrics and cost: the objective first, then the others in the order of the file."""
        names = [name for row in rows for name, value in row.items() if isinstance(value, int | float)]
        known = list(dict.fromkeys(names))
        return [n for n in self.objective if n in known] + [n for n in known if n not in self.objective]

    def _table(self) -> list[dict[str, Any]]:
        path = self.folder / "trials.csv"
        if not path.exists():
            return []
        with check_regular(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if any("trial" not in row or None in row for row in rows):
            raise ConfigError(f"{path}: is no table of trials")
        return [_typed(row) for row in rows]

    def _result(self, name: str, folder: Path) -> dict[str, Any]:
        row = {"trial": name, "label": "", "status": "not ended", "reason": "", "settings": {}}
        result = files.read(folder / files.RESULT)
        if result is None:
            return row
        if not result.get("best"):
            raise ConfigError(f"{folder / files.RESULT}: is no result of a run (it has no best)")
        metrics = {key: value for key, value in result["best"]["metrics"].items() if value is not None}
        return row | {"status": "ended", **{key: metrics[key] for key in self.objective if key in metrics}}


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    """Numbers as numbers, and what stands behind `reason`, the trial's parameters, as `settings`."""
    names = list(row)
    behind = names.index("reason") + 1 if "reason" in names else len(names)
    values: dict[str, Any] = {name: row[name] if name in TEXT else _number(row[name]) for name in names[:behind]}
    return values | {"settings": {name: row[name] for name in names[behind:]}}


def _number(text: str) -> float | int | None:
    """Raises ConfigError for what is none."""
    if not text:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise ConfigError(f"trials.csv: {text!r} is no number") from error


def open_study(folder: Path) -> StudyFolder:
    """Raises ConfigError where `folder` holds no search."""
    file = folder / "study.yaml"
    if not file.exists():
        raise ConfigError(f"{folder}: is no search (it has no study.yaml)")
    content: Any = read_yaml(file)
    try:
        config = from_dict(content["config"], str(file)).data
        return StudyFolder(folder, Path(content["data"]["directory"]), tuple(content["objective"]), config)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file}: does not say data.directory, objective and config") from error


def data_of(study: StudyFolder) -> Path:
    """Where the data of a search are now. Raises ConfigError."""
    return find_data(study.data, read_yaml(study.folder / "study.yaml")["data"].get("digest"), study.folder)
