"""A search as its folder tells it, read without Ray or Optuna: study.yaml and the folders of the trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.config import ConfigError, read_yaml


@dataclass(frozen=True)
class StudyFolder:
    """STUDY/study.yaml, trials/NNNN."""

    folder: Path
    data: Path

    def trial(self, name: str) -> Path | None:
        """The folder of a trial that has begun; None where there is none."""
        names = {path.name for path in (self.folder / "trials").glob("*") if (path / "config.yaml").is_file()}
        return self.folder / "trials" / name if name in names else None


def open_study(folder: Path) -> StudyFolder:
    """Raises ConfigError where `folder` holds no search."""
    file = folder / "study.yaml"
    if not file.exists():
        raise ConfigError(f"{folder}: is no search (it has no study.yaml)")
    content: Any = read_yaml(file)
    try:
        return StudyFolder(folder, Path(content["data"]["directory"]))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file}: data.directory: does not say where the data is") from error
