"""A run's folder as a value: its config, what it came to, its curves, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq.config import Config, ConfigError, from_dict, read_yaml
from speaq.files.urls import place
from speaq.runs import files
from speaq.table import Table, facts_html
from speaq.training.metrics import read_lines

if TYPE_CHECKING:  # with PyTorch and matplotlib, which take seconds
    from speaq.api.evaluation import RunResult
    from speaq.data.records import SplitName
    from speaq.drawing import ShownFigure
    from speaq.prediction.predictor import Predictor

AnyPath = str | os.PathLike[str]


def local_folder(given: AnyPath) -> Path:
    """The path of a folder of this machine, given as such or as a file:// URL. Raises ConfigError for another URL."""
    found = Path(given) if Path(given).exists() else place(os.fspath(given))
    if isinstance(found, Path):
        return found
    raise ConfigError(
        f"{found}: is no folder of this machine; copy it here, or use the command line, whose speaq "
        "status, report, export and evaluate take URLs"
    )


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run as its folder tells it when it is loaded; `load_run` makes it."""

    folder: Path
    config: Config = field(repr=False)
    status: str  # finished, stopped, …; `unfinished` while it trains, and where it was interrupted
    step: int  # steps that it has made
    best_step: int | None  # of the kept checkpoint
    metrics: Mapping[str, float | None]  # of the kept checkpoint, on val
    protocol: str | None  # how they are counted
    data: Path | None  # the data set, where the run has noted it

    @cached_property
    def history(self) -> Table:
        """metrics.jsonl: a row for each line that training logged (`train/loss`, …) or evaluated (`val/R@50`, …)."""
        return Table(tuple(read_lines(self.folder / "metrics.jsonl")))

    def predictor(self, device: str = "auto") -> Predictor:
        """The kept checkpoint, ready to look at photos. Raises ConfigError, CheckpointError."""
        from speaq.prediction.predictor import Predictor

        return Predictor.load(self.folder, device=device)

    def evaluate(self, split: SplitName = "val", data: AnyPath | None = None) -> RunResult:
        """Evaluates the kept checkpoint on a split, as `speaq.evaluate` does."""
        from speaq.api.evaluation import evaluated

        return evaluated(self.folder, split, data)

    def figure(self) -> ShownFigure:
        """Loss and recalls over the steps, as a figure of matplotlib."""
        from speaq.api.figures import curves

        return curves(self.history.rows, self.folder.name)

    def __repr__(self) -> str:
        return f"LoadedRun({self.folder}: {self.status} at step {self.step}{_best(self)})"

    def _repr_html_(self) -> str:
        names = [name for name, value in self.metrics.items() if value is not None]
        facts = {"status": self.status, "steps": self.step, "best step": self.best_step, "protocol": self.protocol}
        return facts_html(str(self.folder), {**facts, **{name: self.metrics[name] for name in names}})


def _best(run: LoadedRun) -> str:
    name = run.config.training.best_metric
    value = run.metrics.get(name)
    return "" if value is None else f", best {name} {value:.4f}"


def load_run(run: AnyPath) -> LoadedRun:
    """Opens the folder of a run, finished or not, or of a search's trial. Nothing is trained or changed.

    Raises ConfigError where there is no run, in one line that says what to do.
    """
    folder = local_folder(run)
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}: {_not_a_run(folder)}")
    config = from_dict(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    result, data = files.read(folder / files.RESULT) or {}, files.read(folder / files.DATA) or {}
    best = result.get("best") or _last_evaluation(folder)
    return LoadedRun(
        folder=folder,
        config=config,
        status=result.get("status", "unfinished"),
        step=result.get("step", _last_step(folder)),
        best_step=best.get("step"),
        metrics=best.get("metrics", {}),
        protocol=result.get("protocol", best.get("protocol")),
        data=Path(data["directory"]) if data.get("directory") else None,
    )


def _not_a_run(folder: Path) -> str:
    if (folder / "study.yaml").exists():
        return f'is a search; load_study("{folder}").run() is its best trial'
    return "no such folder" if not folder.exists() else "is no run (it has no config.yaml)"


def _last_step(folder: Path) -> int:
    return max((line.get("step", 0) for line in read_lines(folder / "metrics.jsonl")), default=0)


def _last_evaluation(folder: Path) -> dict[str, Any]:
    """Of a run without a result: step, protocol and metrics of the last evaluation on val; empty before the first."""
    for line in reversed(read_lines(folder / "metrics.jsonl")):
        metrics = {name[4:]: value for name, value in line.items() if name.startswith("val/") and name != "val/seconds"}
        if metrics:
            return {"step": line.get("step"), "protocol": line.get("protocol"), "metrics": metrics}
    return {}
