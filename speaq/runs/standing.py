"""How far a training is, as its folder tells it while it trains and afterwards; nothing in the folder is disturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speaq.charts.chart import Bar, Bars, Chart
from speaq.config import Config, from_dict, read_yaml
from speaq.files.locks import holder
from speaq.plain_text import shown, spell
from speaq.runs import files
from speaq.training import curves
from speaq.training.callbacks import is_number
from speaq.training.metrics import read_lines

METRICS = "metrics.jsonl"
TOLD = ("R", "mR", "F")


@dataclass(frozen=True)
class Standing:
    """A run as its folder tells it now."""

    folder: Path
    config: Config
    rows: Sequence[Mapping[str, Any]]  # of metrics.jsonl
    state: str  # running, interrupted (to be resumed), or how it ended: finished, stopped
    step: int
    seconds: float  # of training and evaluating so far
    best_step: int | None  # of the kept checkpoint; before there is one of the best evaluation so far
    best: Mapping[str, float | None]  # its metrics
    protocol: str | None  # how they are counted

    @property
    def max_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.training.max_steps

    @property
    def seconds_left(self) -> float | None:
        """How long a running training takes yet at its pace so far; None where that is not known."""
        if self.state != "running" or not self.step:
            return None
        return self.seconds / self.step * (self.max_steps - self.step)

    @property
    def facts(self) -> dict[str, str]:
        """What a page says of it above its charts, by name."""
        left = "" if self.seconds_left is None else f", about {spell(self.seconds_left)} left"
        found = {
            "state": self.state,
            "steps": f"{self.step:,} of {self.max_steps:,}, {spell(self.seconds)}{left}",
        }
        if self.best_step is not None:
            found["best so far" if self.state == "running" else "best"] = f"{self._best} at step {self.best_step:,}"
        if self.protocol:
            found["protocol"] = self.protocol
        return found

    @property
    def charts(self) -> list[Chart | Bars]:
        """Its curves, and the recall of each predicate where that is noted of the best checkpoint.

        Raises ConfigError where the note is something else.
        """
        found: list[Chart | Bars] = [*curves.charts(self.rows)]
        noted = files.read(self.folder / files.PREDICATES)
        return found if noted is None or noted["step"] != self.best_step else [*found, _by_predicate(noted)]

    @property
    def _best(self) -> str:
        name = self.config.training.best_metric
        _, _, k = name.partition("@")
        names = dict.fromkeys((name, *(f"{told}@{k}" for told in TOLD if k)))
        known = {one: self.best.get(one) for one in names}
        return ", ".join(f"{one} {shown(value)}" for one, value in known.items() if value is not None)


def standing(folder: Path) -> Standing:
    """Reads a run's folder. Raises ConfigError where a file in it is not what speaq writes."""
    config = from_dict(read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    rows = read_lines(folder / METRICS)
    result = files.read(folder / files.RESULT) or {}
    works = holder(folder) is not None
    best = _best_of(rows, config.training.best_metric) if works or not result.get("best") else result["best"]
    last: Mapping[str, Any] = next((row for row in reversed(rows) if type(row.get("step")) is int), {})
    return Standing(
        folder=folder,
        config=config,
        rows=rows,
        state="running" if works else result.get("status") or "interrupted",
        step=max(last.get("step", 0), 0 if works else result.get("step", 0)),
        seconds=_seconds(last),
        best_step=best.get("step"),
        best=best.get("metrics", {}),
        protocol=result.get("protocol") or best.get("protocol"),
    )


def _seconds(row: Mapping[str, Any]) -> float:
    found = row.get("val/seconds", row.get("train/seconds"))
    return float(found) if isinstance(found, int | float) and is_number(found) and found >= 0 else 0.0


def _best_of(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Step, protocol and metrics of the best evaluation, the earliest of equal ones; empty before the first."""
    values = [(row.get(f"val/{name}"), row) for row in rows if type(row.get("step")) is int]
    known = [(value, row) for value, row in values if isinstance(value, int | float) and is_number(value)]
    if not known:
        return {}
    row = max(known, key=lambda pair: pair[0])[1]
    metrics = {key[4:]: value for key, value in row.items() if key.startswith("val/") and key != "val/seconds"}
    return {"step": row["step"], "protocol": row.get("protocol"), "metrics": metrics}


def _by_predicate(noted: Mapping[str, Any]) -> Bars:
    rows = noted["report"]["predicates"]
    recall = min((name for name in rows[0] if name.startswith("R@")), key=lambda name: int(name[2:]))
    known = [(row["predicate"], row[recall]) for row in rows if row[recall] is not None]
    bars = tuple(Bar(name, value) for name, value in sorted(known, key=lambda pair: -pair[1]))
    left_out = len(rows) - len(known)
    about = f"{left_out} predicates that no image of {noted['split']} has are left out." if left_out else ""
    return Bars(f"{recall} of each predicate, {noted['split']}", recall, bars, about)
