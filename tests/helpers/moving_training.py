"""A training function under which the study's folder is moved away once, and an empty one is left in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import Config
from tests.helpers import cheap_training
from tests.helpers.cheap_training import Report

MARK = "take me away"  # file in the study


def train(config: Config, data: Path, output: Path, *, report: Report, **options: Any) -> dict[str, Any]:
    study = output.parents[1]

    def moving(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
        if step == 2 and (study / MARK).exists():
            (study / MARK).unlink()
            study.rename(study.with_name("moved"))
            study.mkdir()  # as an empty mount point
        report(step, metrics, checkpoint)

    return cheap_training.train(config, data, output, report=moving, **options)
