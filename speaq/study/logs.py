"""What a trial has logged, read from its folder while it runs or afterwards; `launch.trials.logs` writes it.

One row: {"time": ISO 8601 in UTC, "level", "trial", "step": training step or null, "message"}, with "traceback" where
an exception was logged. The trial's process writes log.jsonl; of several workers the first one writes log.worker.jsonl,
where they train from features in the folder of that training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from speaq.plain_text import visible
from speaq.study.snapshot import FEATURES
from speaq.training.metrics import read_lines

LOG, WORKER_LOG = "log.jsonl", "log.worker.jsonl"


def read(folder: Path, seen: Counter[str]) -> list[dict[str, Any]]:
    """Reads the rows of a trial's folder, oldest first; a torn last line is left out.

    Args:
        seen: file → number of its rows that were read before and are left out; counted on.
    """
    rows = []
    for name in (LOG, WORKER_LOG, f"{FEATURES}/{WORKER_LOG}"):
        found = read_lines(folder / name)
        rows += found[seen[name] :]
        seen[name] = len(found)
    return sorted(rows, key=lambda row: str(row.get("time")))


def line(row: Mapping[str, Any]) -> str:
    """Writes a row as people read it: local time, level, step, message, and the lines of a traceback."""
    try:
        moment = datetime.fromisoformat(str(row.get("time"))).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        moment = str(row.get("time"))
    where = "" if row.get("step") is None else f"step {row['step']} "
    text = f"{moment} {row.get('level', '')} {where}{row.get('message', '')}"
    return "\n".join(visible(part, keep="\t") for part in [text, *str(row.get("traceback", "")).splitlines()])
