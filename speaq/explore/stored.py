"""Predictions that lie in a run's folder."""

from __future__ import annotations

from pathlib import Path

from speaq.data import DataError
from speaq.data.records import SplitName
from speaq.evaluation.predictions import FORMAT
from speaq.files.foreign import ForeignError, open_h5


def find_predictions(run: Path, split: SplitName) -> Path | None:
    """The newest file of predictions for a split in a run folder, under whatever name. Raises DataError."""
    found = [path for path in run.glob("*.h5") if _split_of(path) == split]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _split_of(path: Path) -> str | None:
    try:
        with open_h5(path) as file:
            return str(file.attrs.get("split")) if file.attrs.get("format") == FORMAT else None
    except (ForeignError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
