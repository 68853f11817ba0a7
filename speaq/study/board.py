"""What the trials came to, where they stand and what they cost; whatever shows a study takes it from here."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config
from speaq.files.atomic import write_text
from speaq.plain_text import spell
from speaq.space.ladder import Ladder
from speaq.study import results
from speaq.study.budget import Kind, device_seconds
from speaq.study.decoding import AS_TRAINED
from speaq.study.ledger import MAX_NUMBER, STOPPED, Entry
from speaq.study.plan import Plan, ladder_of, max_steps
from speaq.study.snapshot import FEATURES, Snapshot
from speaq.training.callbacks import Metrics
from speaq.training.metrics import read_lines

COSTS = ("peak_memory_mib", "data_wait_share", "latency_ms", "micro_batch_size")
RECENT = 1 << 16  # bytes of a trial's metrics that are looked at: some 20 lines
NAMED = 8  # trials in one line
REFERENCES = ("published", "baseline")  # labels that every picture marks


@dataclass(frozen=True, eq=False)
class Board:
    """What trials came to. Tables, pages and files take from here what they show, so that they show the same.

    What ranks trials (`best`, `best_by_objective`, `front`) raises ConfigError where their protocols differ.
    """

    entries: Sequence[Entry]  # in the order of asking
    plan: Plan
    active: bool = True  # a search is working on them

    @classmethod
    def of(cls, snapshot: Snapshot) -> Board:
        """The board of a study as its folder tells it."""
        return cls(snapshot.entries, snapshot.plan, snapshot.active)

    @cached_property
    def columns(self) -> list[str]:
        """Names of the metrics that a table has; objectives come first where they are not among the usual ones."""
        return results.metric_columns(self.plan)

    @cached_property
    def ladder(self) -> Ladder | None:
        """The ladder of the search, whose axis steps are then counted on; None without one."""
        return ladder_of(self.plan)

    def steps_text(self, entry: Entry) -> str:
        """How far a trial has come: `240`, or on a ladder `features 120/360`."""
        return str(entry.step) if self.ladder is None else self.ladder.text(entry.step)

    @cached_property
    def finished(self) -> list[Entry]:
        """Trials that have finished, in the order of asking."""
        return [entry for entry in self.entries if entry.state == "finished"]

    @cached_property
    def best(self) -> Entry | None:
        """The finished trial with the best objective, or of two objectives the best harmonic mean."""
        return results.best_entry(self.entries, self.plan.objective)

    @cached_property
    def best_by_objective(self) -> dict[str, Entry]:
        """Objective → the finished trial that is best in it; empty where no trial has finished."""
        found = {name: results.best_entry(self.entries, (name,)) for name in self.plan.objective}
        return {name: entry for name, entry in found.items() if entry is not None}

    def best_lines(self) -> list[str]:
        """One line for each objective that a finished trial has."""
        return [
            f"best {name} {entry.metrics[name]:.4f} · trial {entry.id}{f' ({entry.label})' if entry.label else ''}"
            for name, entry in self.best_by_objective.items()
        ]

    def top(self, number: int) -> list[Entry]:
        """The best finished trials, best first, and the published setting behind them."""
        return results.best_and_published(self.entries, self.plan.objective, number)

    def front(self, plane: Sequence[str]) -> list[Entry]:
        """Finished trials that no other one beats in both metrics of a plane, in the order of the first metric."""
        return results.pareto(self.entries, plane)

    def score(self, metrics: Metrics) -> float:
        """By what trials are ranked: the objective, or the harmonic mean of two."""
        return results.score(metrics, self.plan.objective)

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Trial → its config values of the space's keys, and of the keys that a reference changes besides."""
        flat = configs.flatten(configs.to_dict(self.plan.base))
        searched = self.plan.space.parameters
        keys = [*searched, *(key for key in _reference_keys(self.plan, flat) if key not in searched)]
        found = {e.id: {key: e.overrides.get(key, flat[key]) for key in keys} for e in self.entries}
        if self.plan.settings.scheduler == "pbt":
            for entry in self.entries:
                found[entry.id]["losses.schedule"] = schedule_text(entry.overrides.get("losses.schedule", ()))
        return found

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One row a trial: who, how it ended, metrics of its kept checkpoint, cost, `reason`, parameters behind it."""
        return [
            {
                "trial": entry.id,
                "label": entry.remark,
                "status": state_of(entry, self.active),
                "protocol": entry.protocol or "",
                **{name: entry.metrics.get(name) for name in self.columns},
                **self._decoding(entry),
                "best_step": entry.best_step,
                "steps": entry.step,
                **({} if self.ladder is None else {"rung": self.ladder.text(entry.step)}),
                "seconds": round(entry.seconds, 1),
                **{name: entry.cost.get(name) for name in COSTS},
                "attempts": entry.attempts,
                "promotions": entry.promotions,
                "reason": entry.reason or "",
                **self.parameters[entry.id],
            }
            for entry in self.entries
        ]

    def _decoding(self, entry: Entry) -> dict[str, Any]:
        """Columns of what decoding gave, and the same metrics as trained; none where the search does not decode."""
        if not self.plan.settings.decoding:
            return {}
        found = entry.decoding
        trained = {} if found is None else found.trained
        return {
            "decoding": "" if found is None else found.text,
            **{as_trained(name): trained.get(name) for name in self.columns},
            "decoding_seconds": None if found is None else round(found.seconds, 1),
        }

    @property
    def measured(self) -> str | None:
        """On which images, and how decoded, metrics were measured, in one line; None where it is the same for all."""
        found = next((entry.decoding for entry in self.finished if entry.decoding is not None), None)
        if found is None:
            return None
        images = found.searched + found.judged
        return (
            f"finished trials at their best decoding, found on {found.searched} images of val, judged on the other "
            f"{found.judged}; other trials, and evaluations on the way, {AS_TRAINED}, on all {images}"
        )

    def config_of(self, entry: Entry) -> Config:
        """The config of a trial, with its start where that is now and the decoding that was found for it."""
        found = {} if entry.decoding is None else entry.decoding.found
        return self.plan.placed(configs.apply(self.plan.base, {**entry.overrides, **found}))

    def write(self, output: Path) -> None:
        """Writes trials.csv into a folder and, where a trial has finished, best.yaml. Raises OSError, ConfigError."""
        write_text(output / "trials.csv", to_csv(self.rows))
        best = self.best
        if best is not None:
            config = self.config_of(best)
            if (fits := best.cost.get("micro_batch_size")) is not None:  # smaller than asked for, which was too much
                config = configs.apply(config, {"training.micro_batch_size": int(fits)})
            write_text(output / "best.yaml", self._header(best) + configs.dump(config))

    def _header(self, best: Entry) -> str:
        names = ", ".join(f"{n} {v:.4f}" for n in self.columns if (v := best.metrics.get(n)) is not None)
        label = f" ({best.label})" if best.label else ""
        names += f" · {best.protocol}" if best.protocol else ""
        names += f" · decoded with {best.decoding.text}" if best.decoding else ""
        objective = " and ".join(self.plan.objective)
        return f"# Best of {self.plan.trials} trials by {objective}: trial {best.id}{label}, {names}\n"


def state_of(entry: Entry, active: bool) -> str:
    """The word for how a trial stands, the same wherever it is shown.

    As the ledger has it, but for a trial that runs in a search that does not: it is interrupted, to be resumed.
    """
    return "interrupted" if entry.state == "running" and not active else entry.state


def as_trained(name: str) -> str:
    """The column of a metric with the decoding of training, beside that of the best decoding."""
    return f"{name} {AS_TRAINED}"


def _reference_keys(plan: Plan, base: Mapping[str, Any]) -> list[str]:
    """The keys, in the order of the config, in which a reference differs from the study's config."""
    others = [configs.flatten(configs.to_dict(config)) for config in plan.references.values()]
    return [key for key, value in base.items() if any(other[key] != value for other in others)]


def schedule_text(schedule: Sequence[Mapping[str, float]]) -> str:
    """`from 40 weight_predicate 1.2, weight_l1 4; from 80 …`"""
    return "; ".join(
        f"from {change['step']:.0f} " + ", ".join(f"{name} {change[name]:.4g}" for name in change if name != "step")
        for change in schedule
    )


def to_csv(content: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header; empty without rows."""
    buffer = io.StringIO()
    if content:
        writer = csv.DictWriter(buffer, fieldnames=list(content[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
    return buffer.getvalue()


@dataclass(frozen=True)
class TrialStatus:
    """One trial. `state`: asked, running, interrupted (to be resumed), finished, paused (it may go on when it deserves
    it), pruned (stopped early for good), infeasible or failed.
    """

    trial: str
    label: str | None
    state: str
    step: int
    first_step: int  # steps that it did not have to make itself
    max_steps: int
    seconds: float
    eta_seconds: float | None  # of a running trial that has made a step
    metrics: Metrics  # of the kept checkpoint, of a running trial those of its last evaluation
    reason: str | None
    promotions: int = 0  # times that it went on after it was paused
    decoding: dict[str, Any] | None = None  # at which `metrics` were judged, see `speaq.study.decoding`
    rung: str | None = None  # on a ladder: `features 120/360`, what `step` is of the training that it belongs to

    @property
    def steps_text(self) -> str:
        """`120/360`, on a ladder with the kind of its rung."""
        return self.rung or f"{self.step}/{self.max_steps}"


@dataclass(frozen=True)
class Totals:
    """A study's trials by state, and what they cost."""

    trials: int  # wanted in all
    finished: int
    paused: int
    pruned: int
    infeasible: int
    failed: int
    running: int
    seconds: float  # trials' own, summed up
    wall_seconds: float  # with a driver at work
    device: str  # GPU or CPU: what the hours are of
    device_hours: float
    steps: int
    saved_steps: int  # that stopped and paused trials did not make
    saved_share: float  # of the steps that finished and stopped trials would have made without early stopping
    projected_seconds: float | None  # trials' time still to be spent if they cost what ended ones did on average
    promoted: tuple[str, ...] = ()  # trials that went on after they were paused
    interrupted: int = 0


def trial_statuses(snapshot: Snapshot) -> list[TrialStatus]:
    """All trials in the order of asking; a running trial's step and time are read from its metrics.jsonl."""
    return [_status(snapshot, entry) for entry in snapshot.entries]


def _status(snapshot: Snapshot, entry: Entry) -> TrialStatus:
    state = state_of(entry, snapshot.active)
    step, seconds, full = entry.step, entry.seconds, max_steps(entry, snapshot.plan)
    eta, ladder = None, ladder_of(snapshot.plan)
    if entry.state == "running":
        step, seconds = _progress(snapshot, entry)
        if snapshot.active and step > entry.first_step:
            eta = round((full - step) * seconds / (step - entry.first_step), 1)
    metrics = entry.metrics if entry.ended else entry.reports.get(entry.step, {})
    return TrialStatus(
        trial=entry.id,
        label=entry.remark or None,
        state=state,
        step=step,
        first_step=entry.first_step,
        max_steps=full,
        seconds=round(seconds, 1),
        eta_seconds=eta,
        metrics=dict(metrics),
        reason=entry.reason or None,
        promotions=entry.promotions,
        decoding=None if entry.decoding is None else entry.decoding.model_dump(mode="json"),
        rung=None if ladder is None else ladder.text(step),
    )


def _progress(snapshot: Snapshot, entry: Entry) -> tuple[int, float]:
    """The last step and training time that a trial's run has written, where it is further than its last report."""
    folder, ladder = snapshot.run_folder(entry), ladder_of(snapshot.plan)
    first = 0 if ladder is None or folder.name == FEATURES else ladder.from_features
    before = entry.seconds_at.get(first, 0.0)
    for line in reversed(read_lines(folder / "metrics.jsonl", RECENT)):
        at, spent = line.get("step"), line.get("train/seconds", line.get("val/seconds"))
        if type(at) is not int or first + at <= entry.step:
            break
        if isinstance(spent, int | float) and 0 <= spent < MAX_NUMBER:
            return first + at, before + spent
    return entry.step, entry.seconds


def starving(snapshot: Snapshot, trial: str) -> int:
    """How many predicate groups of a trial starved when it last logged a step (`speaq.training.health`)."""
    entry = next(entry for entry in snapshot.entries if entry.id == trial)
    for line in reversed(read_lines(snapshot.run_folder(entry) / "metrics.jsonl", RECENT)):
        number = line.get("train/starving_groups")
        if isinstance(number, int | float) and 0 <= number < MAX_NUMBER:
            return int(number)
    return 0


def starving_line(groups: Mapping[str, int]) -> str | None:
    """Trial → starving groups in one line; None where no group starves."""
    found = [f"{trial} ({number})" for trial, number in groups.items() if number]
    if not found:
        return None
    return f"groups whose queries get no target: trial {_named(found)}; speaq logs names them, the report shows them"


def _named(trials: Sequence[str]) -> str:
    return ", ".join(trials[:NAMED]) + (f" and {len(trials) - NAMED} more" if len(trials) > NAMED else "")


def totals(trials: Sequence[TrialStatus], snapshot: Snapshot) -> Totals:
    """Sums over all trials."""
    plan = snapshot.plan
    kind: Kind = "gpu" if plan.base.resources.gpus_per_worker else "cpu"
    states = ("finished", "paused", "pruned", "infeasible", "failed", "running", "interrupted")
    by_state = {state: [t for t in trials if t.state == state] for state in states}
    stopped = [trial for state in STOPPED for trial in by_state[state]]
    judged = by_state["finished"] + by_state["infeasible"] + stopped
    saved = sum(t.max_steps - t.step for t in stopped)
    full = sum(t.step - t.first_step for t in judged) + saved
    ended = [*judged, *by_state["failed"]]
    wanted = max(plan.trials, len(trials))
    mean = sum(t.seconds for t in ended) / len(ended) if ended else None
    spent_on_open = sum(t.seconds for t in trials) - sum(t.seconds for t in ended)
    left = None if mean is None else max(0.0, mean * (wanted - len(ended)) - spent_on_open)
    return Totals(
        trials=wanted,
        **{state: len(found) for state, found in by_state.items()},
        seconds=round(sum(t.seconds for t in trials), 1),
        wall_seconds=round(snapshot.wall_seconds, 1),
        device=kind.upper(),
        device_hours=round(device_seconds(snapshot.entries, plan.base.resources, kind) / 3600, 4),
        steps=sum(max(t.step - t.first_step, 0) for t in trials),
        saved_steps=saved,
        saved_share=round(saved / full, 4) if full else 0.0,
        projected_seconds=None if left is None else round(left, 1),
        promoted=tuple(t.trial for t in trials if t.promotions),
    )


def totals_line(sums: Totals, active: bool) -> str:
    """The sums in one line."""
    parts = [
        f"{sums.finished} finished, "
        + (f"{sums.pruned} pruned, " if sums.pruned or not sums.paused else "")
        + (f"{sums.paused} paused, " if sums.paused else "")
        + (f"{sums.infeasible} infeasible, " if sums.infeasible else "")
        + (f"{sums.interrupted} interrupted, " if sums.interrupted else "")
        + f"{sums.failed} failed, {sums.running} running of {sums.trials} trials",
        f"{spell(sums.wall_seconds)}, {sums.device_hours:.3g} {sums.device} hours in trials, {sums.steps} steps",
        f"{sums.saved_share:.0%} of the steps saved by early stopping",
    ]
    if sums.promoted:
        parts.append(f"{len(sums.promoted)} went on after a pause ({_named(sums.promoted)})")
    if sums.projected_seconds:
        parts.append(f"about {spell(sums.projected_seconds)} of trials to come")
    return " · ".join([*parts, "a search is running" if active else "no search is running"])
