"""A picture of a training while it trains: `training.png` in its folder, drawn at each evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speaq.files.home import keep_out_of_home
from speaq.training import curves
from speaq.training.callbacks import Metrics
from speaq.training.metrics import read_lines

log = logging.getLogger(__name__)

NAME = "training.png"
DRAWN = 9  # charts, those first that say most


class Picture:
    """Draws what metrics.jsonl holds at each evaluation. A picture that cannot be drawn is said once, and left out."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._fails = folder, False

    def write(self, step: int, values: Metrics) -> None:
        """Draws where the values are of an evaluation."""
        if self._fails or not any(name.startswith("val/") for name in values):
            return
        try:
            draw(self._folder / NAME, read_lines(self._folder / "metrics.jsonl"), self._folder.name)
        except Exception as error:  # whatever it is: a training is worth more than its picture
            self._fails = True
            log.warning("sinks.picture: %s is not drawn any more (%s: %s)", NAME, type(error).__name__, error)

    def close(self) -> None:
        """Nothing is left to do: the last step is evaluated."""


def draw(path: Path, rows: Iterable[Mapping[str, Any]], name: str) -> None:
    """Writes the first charts of a training as PNG. Raises OSError.

    Args:
        rows: lines of metrics.jsonl.
        name: of the run, written above them.
    """
    keep_out_of_home()
    from speaq.charts import picture  # with matplotlib, which takes a second

    picture.write(path, curves.charts(rows)[:DRAWN], name)
