"""What a trial says, as JSON lines in its folder; `launch.jobs.show_logs` prints them.

One row: {"time": ISO 8601 in UTC, "level", "trial", "step": training step or null, "message"}, with "traceback" where
an exception was logged. The trial's process writes log.jsonl; of several workers the first one writes log.worker.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from speaq.files.atomic import append_text

LOG, WORKER_LOG = "log.jsonl", "log.worker.jsonl"
LOGGERS = ("speaq", "launch")


class _Rows(logging.Formatter):
    """Log records as JSON, a line each."""

    def __init__(self, trial: str, steps: Steps) -> None:
        super().__init__()
        self._trial, self._steps = trial, steps

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        row = {"time": moment, "level": record.levelname, "trial": self._trial, "step": self._steps.now}
        row["message"] = record.getMessage()
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row)


class Steps:
    """How far a run is: passed to training as its `progress`."""

    now: int | None = None

    def __call__(self, done: int, total: int, text: str) -> None:
        self.now = done


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[Steps]:
    """Copies what the library says in this process into a file of the trial's folder, and how the block failed."""
    path.parent.mkdir(exist_ok=True)  # not its parents: a study that was taken away is not made again
    steps = Steps()
    file = append_text(path)
    handler = logging.StreamHandler(file)
    handler.setFormatter(_Rows(path.parent.name, steps))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield steps
    except BaseException as error:
        loggers[-1].error("%s", " ".join(str(error).split()) or type(error).__name__, exc_info=error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
        file.close()
