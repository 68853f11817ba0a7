"""What a trial tells the search: its evaluations, and how it ended.

Tune carries results between processes. It compares plain values at their top; everything else travels as JSON text
under one key. The types here are what both sides work with.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speaq.training.callbacks import Metrics, plain

DIED = "the process of the trial died (killed, out of memory, or its node was lost)"
_REPORT, _OUTCOME = "report", "outcome"  # keys of a result of Tune's


@dataclass(frozen=True)
class Report:
    """An evaluation in the middle of a trial."""

    step: int
    metrics: Metrics
    seconds: float  # of training so far


@dataclass(frozen=True)
class Finished:
    """The trial has come to its end; the search judges whether what it measured is usable."""

    metrics: Metrics  # of the checkpoint that it keeps
    best_step: int | None  # the step of that checkpoint
    step: int
    seconds: float
    cost: Metrics = field(default_factory=dict)
    decoding: Mapping[str, Any] | None = None  # at which it was measured (`speaq.study.decoding`); None: as trained

    def row(self) -> dict[str, Any]:
        """What the ledger keeps; without a cost where none was measured, without a decoding where none was searched."""
        values = dataclasses.asdict(self) | {"metrics": plain(self.metrics)}
        lacking = {"cost": not self.cost, "decoding": self.decoding is None}
        return {name: value for name, value in values.items() if not lacking.get(name)}


@dataclass(frozen=True)
class Stopped:
    """The scheduler has stopped the trial at its last evaluation."""


@dataclass(frozen=True)
class Failed:
    """The trial has failed by itself, and would do so again."""

    reason: str


@dataclass(frozen=True)
class TooLarge:
    """The memory of the device is too small for the trial."""

    reason: str


@dataclass(frozen=True)
class Died:
    """A process of the trial has died. The trial goes on from its last checkpoint, unless it dies there again."""

    reason: str


@dataclass(frozen=True)
class Displaced:
    """An earlier attempt of the trial still has its folder. The trial is tried again as often as that takes."""

    reason: str


@dataclass(frozen=True)
class Crowded:
    """The memory of a GPU that the trial shares is too small: it is tried again with one of its own."""

    reason: str


@dataclass(frozen=True)
class Halt:
    """The search cannot go on where it is, through no fault of the trial; it can be resumed."""

    reason: str


Ended = Finished | Failed | TooLarge | Died | Displaced | Crowded | Halt  # what a trial can say of its own end
Outcome = Ended | Stopped
_NAMES: Mapping[type[Ended], str] = {
    Finished: "finished",
    Failed: "failed",
    TooLarge: "too large",
    Died: "died",
    Displaced: "displaced",
    Crowded: "crowded",
    Halt: "halt",
}
_TYPES: Mapping[str, type[Ended]] = {name: kind for kind, name in _NAMES.items()}


def report_result(report: Report, value: float | None) -> dict[str, Any]:
    """A result for Tune from an evaluation; `value` is the one number that Tune shows, None where it is not defined."""
    text = json.dumps({"step": report.step, "metrics": plain(report.metrics), "seconds": report.seconds})
    return {"step": report.step, "value": math.nan if value is None else value, _REPORT: text}


def final_result(last: Mapping[str, Any], ended: Ended) -> dict[str, Any]:
    """The last result for Tune: the last evaluation's, if there was one, and how the trial ended."""
    values = ended.row() if isinstance(ended, Finished) else dataclasses.asdict(ended)
    text = json.dumps({"kind": _NAMES[type(ended)], **values})
    return {"step": 0, "value": math.nan, **last, _OUTCOME: text, "done": True}


def is_final(result: Mapping[str, Any]) -> bool:
    """Whether a result says how the trial ended."""
    return _OUTCOME in result


def report_of(result: Mapping[str, Any]) -> Report | None:
    """The evaluation that a result holds; None for a trial that ended before its first one."""
    return Report(**json.loads(result[_REPORT])) if _REPORT in result else None


def outcome_of(result: Mapping[str, Any] | None, *, died: bool) -> Outcome:
    """How a trial ended, by its last result.

    Args:
        result: None, or empty, where the trial never sent one.
        died: Tune says that the trial's process failed.
    """
    if died or not result:
        return Died(DIED)
    if not is_final(result):
        return Stopped()
    told = json.loads(result[_OUTCOME])
    kind = _TYPES.get(told.pop("kind", None))
    return Halt(f"it says what this version does not know: {result[_OUTCOME]}") if kind is None else kind(**told)
