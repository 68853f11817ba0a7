"""Where each trial of a study stands, what they cost, and which is best: made once, shown by table, page and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speaq.study.budget import Kind, device_seconds
from speaq.study.ledger import MAX_NUMBER, Entry
from speaq.study.plan import max_steps as max_steps
from speaq.study.results import best_entry
from speaq.study.snapshot import Snapshot
from speaq.training.callbacks import Metrics
from speaq.training.metrics import read_lines

RECENT = 1 << 16  # bytes of a trial's metrics that are looked at: some 20 lines


NAMED = 8  # trials in one line


@dataclass(frozen=True)
class TrialStatus:
    """One trial. `state`: asked, running, interrupted (to be resumed), finished, pruned (stopped early) or failed."""

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


@dataclass(frozen=True)
class Totals:
    """A study's trials by state, and what they cost."""

    trials: int  # wanted in all
    finished: int
    pruned: int
    infeasible: int
    failed: int
    running: int
    seconds: float  # trials' own, summed up
    wall_seconds: float  # with a driver at work
    device: str  # GPU or CPU: what the hours are of
    device_hours: float
    steps: int
    saved_steps: int  # that stopped trials did not make
    saved_share: float  # of the steps that finished and stopped trials would have made without early stopping
    projected_seconds: float | None  # trials' time still to be spent if they cost what ended ones did on average


def trial_statuses(snapshot: Snapshot) -> list[TrialStatus]:
    """All trials in the order of asking; a running trial's step and time are read from its metrics.jsonl."""
    return [_status(snapshot, entry) for entry in snapshot.entries]


def _status(snapshot: Snapshot, entry: Entry) -> TrialStatus:
    state: str = entry.state
    step, seconds, full = entry.step, entry.seconds, max_steps(entry, snapshot.plan)
    eta = None
    if state == "running":
        state = "running" if snapshot.active else "interrupted"
        step, seconds = _progress(snapshot.trial_folder(entry), step, seconds)
        if snapshot.active and step > entry.first_step:
            eta = round((full - step) * seconds / (step - entry.first_step), 1)
    metrics = entry.metrics if entry.ended else entry.reports.get(entry.step, {})
    return TrialStatus(
        entry.id,
        entry.remark or None,
        state,
        step,
        entry.first_step,
        full,
        round(seconds, 1),
        eta,
        dict(metrics),
        entry.reason or None,
    )


def _progress(folder: Path, step: int, seconds: float) -> tuple[int, float]:
    """The last step and training time that a run has written, where it is further than its last report."""
    for line in reversed(read_lines(folder / "metrics.jsonl", RECENT)):
        at, spent = line.get("step"), line.get("train/seconds", line.get("val/seconds"))
        if type(at) is not int or at <= step:
            break
        if isinstance(spent, int | float) and 0 <= spent < MAX_NUMBER:
            return at, spent
    return step, seconds


def starving(snapshot: Snapshot, trial: str) -> int:
    """How many predicate groups of a trial starved when it last logged a step (`speaq.training.health`)."""
    for line in reversed(read_lines(snapshot.folder / "trials" / trial / "metrics.jsonl", RECENT)):
        number = line.get("train/starving_groups")
        if isinstance(number, int | float) and 0 <= number < MAX_NUMBER:
            return int(number)
    return 0


def starving_line(groups: Mapping[str, int]) -> str | None:
    """Trial → starving groups in one line; None where no group starves."""
    found = [f"{trial} ({number})" for trial, number in groups.items() if number]
    if not found:
        return None
    named = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    return f"groups whose queries get no target: trial {named}; speaq logs names them, the report shows them"


def totals(trials: Sequence[TrialStatus], snapshot: Snapshot) -> Totals:
    """Sums over all trials."""
    plan = snapshot.plan
    kind: Kind = "gpu" if plan.base.resources.gpus_per_worker else "cpu"
    states = ("finished", "pruned", "infeasible", "failed", "running")
    by_state = {state: [t for t in trials if t.state == state] for state in states}
    judged = by_state["finished"] + by_state["infeasible"] + by_state["pruned"]
    saved = sum(t.max_steps - t.step for t in by_state["pruned"])
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
    )


def best_by_objective(snapshot: Snapshot) -> dict[str, Entry | None]:
    """Objective → the finished trial that is best in it. Raises ConfigError where protocols differ."""
    return {name: best_entry(snapshot.entries, (name,)) for name in snapshot.plan.objective}


def best_lines(best: Mapping[str, Entry | None]) -> list[str]:
    """One line for each objective that a finished trial has."""
    return [
        f"best {name} {entry.metrics[name]:.4f} · trial {entry.id}{f' ({entry.label})' if entry.label else ''}"
        for name, entry in best.items()
        if entry is not None
    ]


def totals_line(sums: Totals, active: bool) -> str:
    parts = [
        f"{sums.finished} finished, {sums.pruned} stopped early, "
        + (f"{sums.infeasible} infeasible, " if sums.infeasible else "")
        + f"{sums.failed} failed, {sums.running} running of {sums.trials} trials",
        f"{sums.wall_seconds:.0f} s, {sums.device_hours:.3g} {sums.device} hours in trials, {sums.steps} steps",
        f"{sums.saved_share:.0%} of the steps saved by early stopping",
    ]
    if sums.projected_seconds:
        parts.append(f"about {sums.projected_seconds:.0f} s of trials to come")
    return " · ".join([*parts, "a search is running" if active else "no search is running"])
