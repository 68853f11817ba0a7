"""What an evaluation says, as a value that shows itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.data.records import SplitName
from speaq.runs.run import RunEvaluation, evaluate_run
from speaq.table import Table, facts_html


@dataclass(frozen=True, eq=False)
class RunResult:
    """An evaluation of a run on a split."""

    found: RunEvaluation

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """By name; None where no image defines one."""
        return self.found.evaluation.metrics

    @property
    def protocol(self) -> str:
        """How they are counted; numbers of different protocols are not comparable."""
        return self.found.evaluation.protocol

    @property
    def checkpoint(self) -> Path:
        """The file that was evaluated."""
        return self.found.checkpoint

    def to_json(self) -> dict[str, Any]:
        """Everything that it says, as `speaq evaluate --json` has it in `report`. Raises ConfigError of a detector."""
        return self.found.report()

    @property
    def predicates(self) -> Table:
        """A row for each predicate: in how many images it is, its recalls. Raises ConfigError of a detector."""
        rows = self.to_json()["predicates"]
        return Table(tuple({name: row[name] for name in row if name != "train_count"} for row in rows))  # not counted

    def __repr__(self) -> str:
        known = [(name, value) for name, value in self.metrics.items() if value is not None]
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in known[:4])
        return f"RunResult({self.found.split}, {self.found.images} images, {self.protocol}: {numbers})"

    def _repr_html_(self) -> str:
        known = {name: value for name, value in self.metrics.items() if value is not None}
        facts = {"images": self.found.images, "protocol": self.protocol, "step": self.found.step}
        return facts_html(f"{self.checkpoint} on {self.found.split}", {**facts, **known})


def evaluated(folder: Path, split: SplitName, data: str | os.PathLike[str] | None, **others: Any) -> RunResult:
    """Evaluates a run; `others` and what is raised as of `evaluate_run`."""
    return RunResult(evaluate_run(folder, split, None if data is None else Path(data), **others))
