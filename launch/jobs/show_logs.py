"""`speaq logs`: what a trial has logged, for people, while it runs or afterwards."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from launch.store import workspace
from launch.trials.logs import LOG, WORKER_LOG
from speaq.cli.terminal import can_print, echo, echo_lines
from speaq.config import ConfigError
from speaq.plain_text import visible
from speaq.training.metrics import read_lines

POLL = 0.5  # seconds between looks with --follow


def print_logs(study: Path, trial: str, *, follow: bool = False, as_json: bool = False) -> None:
    """Prints the rows of a trial in the order of their times; with `follow` also what comes, until the trial ends.

    Raises:
        ConfigError: no study, or no such trial in it.
    """
    snapshot = workspace.read_study(study)
    entries = {entry.id: entry for entry in snapshot.entries}
    if trial not in entries:
        known = ", ".join(entries) or "none yet"
        raise ConfigError(f"{study}: trial {trial}: no such trial (there are {known})")
    folder = snapshot.trial_folder(entries[trial])
    seen: Counter[str] = Counter()
    while True:
        working = follow and _works(study, trial)  # asked first: what is written until then is read below
        for row in read(folder, seen):
            echo_lines(json.dumps(row) if as_json else line(row))
        if not working or not can_print():
            break
        time.sleep(POLL)
    if not seen.total():
        echo(f"trial {trial} ({entries[trial].state}) has logged nothing yet", err=True)


def _works(study: Path, trial: str) -> bool:
    snapshot = workspace.read_study(study)
    entry = next(entry for entry in snapshot.entries if entry.id == trial)
    return snapshot.active and not entry.ended


def read(folder: Path, seen: Counter[str]) -> list[dict[str, Any]]:
    """The rows of a trial's folder, oldest first; a torn last line is left out.

    Args:
        seen: file → number of its rows that were read before and are left out; counted on.
    """
    rows = []
    for name in (LOG, WORKER_LOG):
        found = read_lines(folder / name)
        rows += found[seen[name] :]
        seen[name] = len(found)
    return sorted(rows, key=lambda row: str(row.get("time")))


def line(row: Mapping[str, Any]) -> str:
    """A row as people read it: local time, level, step, message."""
    try:
        moment = datetime.fromisoformat(str(row.get("time"))).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        moment = str(row.get("time"))
    where = "" if row.get("step") is None else f"step {row['step']} "
    text = f"{moment} {row.get('level', '')} {where}{row.get('message', '')}"
    return "\n".join(visible(part, keep="\t") for part in [text, *str(row.get("traceback", "")).splitlines()])
