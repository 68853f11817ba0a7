"""What a trial says, as JSON lines in its folder; `speaq.study.logs` says of which form, and reads them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from speaq.files.atomic import append_text
from speaq.study.logs import LOG as LOG
from speaq.study.logs import WORKER_LOG as WORKER_LOG

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
