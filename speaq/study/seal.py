"""The test split of a search stays sealed until someone says why it is opened; every look at it is written down.

A trial is known by its place, STUDY/trials/NNNN (or STUDY/confirm/NNNN/seed-S): a trial that was copied elsewhere, or
a run of its own, has no seal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from speaq.config import ConfigError
from speaq.files.atomic import append_line
from speaq.files.foreign import parse_json
from speaq.files.regular import check_regular

FILE = "test_looks.jsonl"


def study_of(run: Path) -> Path | None:
    """The study that a run folder, or a checkpoint in it, is a trial of."""
    run = run.resolve()
    for folder in (run, run.parent.parent):  # a checkpoint lies in RUN/checkpoints
        for place in (folder.parent, folder.parent.parent):  # STUDY/trials/NNNN, STUDY/confirm/NNNN/seed-S
            if place.name in ("trials", "confirm") and (place.parent / "study.yaml").exists():
                return place.parent
    return None


def unseal(study: Path, reason: str) -> None:
    """Opens the test split of a study for good. Raises ConfigError without a reason, or where there is no study."""
    if not (study / "study.yaml").exists():
        raise ConfigError(f"{study}: is no search (it has no study.yaml)")
    if not reason.strip():
        raise ConfigError("--reason: say why the test split is opened; the report shows it")
    _append(study, {"event": "unsealed", "reason": reason.strip()})


def look(run: Path, **what: str | int) -> None:
    """Notes that a run is about to be evaluated on the test split. Raises ConfigError where its study is sealed."""
    study = study_of(run)
    if study is None:
        return
    if not is_open(study):
        raise ConfigError(
            f"{run}: the test split of {study} is sealed, so that nothing is chosen on it; once the search is over: "
            f"speaq unseal {study} --reason TEXT"
        )
    _append(study, {"event": "look", "run": str(run.resolve().relative_to(study)), **what})


def is_open(study: Path) -> bool:
    """Whether somebody has opened the test split of a study. Raises as `rows`."""
    return any(row["event"] == "unsealed" for row in rows(study))


def rows(study: Path) -> list[dict[str, Any]]:
    """Everything that was noted, oldest first. Raises ConfigError where a row cannot be read."""
    path = study / FILE
    if not path.exists():
        return []
    try:
        text = check_regular(path).read_text(encoding="utf-8")
        noted = [parse_json(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # a torn line says nothing
        for row in noted:
            if not isinstance(row, dict) or not isinstance(row["reason"] if row["event"] == "unsealed" else "", str):
                raise ValueError(str(row)[:80])
        return noted
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path}: not a list of looks at the test split ({error})") from error


def summary(study: Path) -> str:
    """One line: sealed, or how often it was looked at and why it was opened."""
    noted = rows(study)
    reasons = [row["reason"] for row in noted if row["event"] == "unsealed"]
    if not reasons:
        return "test split: sealed"
    looks = sum(row["event"] == "look" for row in noted)
    return f"test split: looked at {looks} {'time' if looks == 1 else 'times'}; opened for: {'; '.join(reasons)}"


def _append(study: Path, row: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_line(study / FILE, json.dumps({"time": now, **row}))
