"""What a trial tells the search: its evaluations, and how it ended."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.store.claim import FencedError
from speaq.data import LoaderDied
from speaq.files import atomic
from speaq.files.locks import Busy, Gone
from speaq.study.errors import Halted, is_of_storage, one_line
from speaq.training.callbacks import Metrics, plain


def outcome_of(error: BaseException, folder: Path) -> dict[str, str]:
    """What a trial in `folder` tells of `error`; the traceback is kept in error.txt there."""
    reason = one_line(error)
    if isinstance(error, FencedError | Busy):
        return {"again": reason}
    if isinstance(error, LoaderDied):
        return {"died": reason}
    if isinstance(error, Gone | Halted):  # sentences of their own
        return {"halted": str(error)}
    if is_of_storage(error):
        return {"halted": reason}
    try:
        atomic.write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
    except OSError as second:  # libraries wrap the first one beyond recognition
        if is_of_storage(second):
            return {"halted": f"{one_line(second)} ({reason})"}
    return {"failure": reason}


def trial_result(step: int, metrics: Metrics, value: float | None, seconds: float) -> dict[str, Any]:
    """What a trial sends to Tune at an evaluation: plain values at the top, everything else as text."""
    report = {"step": step, "metrics": plain(metrics), "seconds": seconds}
    return {"step": step, "value": math.nan if value is None else value, "report": json.dumps(report)}


def final_result(last: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial sends at its end: its last evaluation and how it ended."""
    if "metrics" in outcome:
        outcome = {**outcome, "metrics": plain(outcome["metrics"])}
    return {"step": 0, "value": math.nan, **last, "outcome": json.dumps(outcome), "done": True}
