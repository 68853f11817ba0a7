"""`speaq status`: what a study has done and is doing, from its files alone; a search that runs is not disturbed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from launch import copies
from launch import study as studies
from launch.budget import Kind, device_seconds
from launch.ledger import MAX_NUMBER, Entry, Ledger, LedgerError
from launch.results import best_entry
from launch.seam import Metrics
from launch.search import Plan
from launch.search import max_steps as max_steps
from launch.study import Study
from speaq.evaluation.protocol import common_protocol
from speaq.files.locks import holder
from speaq.files.regular import check_regular
from speaq.terminal import echo, echo_json, show, shown, table
from speaq.training import seal
from speaq.training.metrics import read_lines

RECENT = 1 << 16  # bytes of a trial's metrics that are looked at: some 20 lines
NAMED = 8  # trials in one line


@dataclass(frozen=True)
class Snapshot:
    """A study as its folder tells it now."""

    folder: Path
    study: Study
    entries: list[Entry]
    active: bool  # a search is working on it
    wall_seconds: float  # with a driver at work

    @property
    def plan(self) -> Plan:
        return self.study.plan

    @property
    def protocol(self) -> str | None:
        """How all metrics are counted. Raises ConfigError where trials differ in it."""
        return common_protocol(entry.protocol for entry in self.entries)

    def trial_folder(self, entry: Entry) -> Path:
        return self.folder / "trials" / entry.id


class _Rows(Ledger):
    """A ledger that is only read: it may be growing, so there is no lock, and a torn last line is left alone."""

    def __init__(self, path: Path) -> None:
        self.path, self.entries = path, {}
        try:
            content = check_regular(path).read_bytes() if path.exists() else b""
        except OSError as error:
            raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error
        self._read(content[: content.rfind(b"\n") + 1])


def read(folder: Path) -> Snapshot:
    """Raises ConfigError where `folder` is no study, LedgerError where its ledger cannot be read."""
    works = copies.looked_at_again(folder)  # at a URL
    study = studies.read(folder / "study.yaml")
    path = folder / "ledger.jsonl"
    rows = _Rows(path)
    rows.check_objectives(study.plan.objective)
    return Snapshot(folder, study, list(rows.entries.values()), works or holder(folder) is not None, rows.wall_seconds)


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


def print_status(folder: Path, *, as_json: bool = False) -> None:
    """Prints a study's status on stdout. Raises as `read`."""
    snapshot = read(folder)
    trials = trial_statuses(snapshot)
    best = {name: entry for name, entry in best_by_objective(snapshot).items() if entry is not None}
    if as_json:
        echo_json(_to_json(snapshot, trials, best))
        return
    for line in best_lines(best):
        echo(line)
    if not best:
        echo("no trial has finished")
    show(trial_table(trials, snapshot.plan.objective))
    if snapshot.protocol is not None:
        echo(f"protocol: {snapshot.protocol}")
    for trial in trials:
        if trial.reason:
            echo(f"trial {trial.trial} {trial.state}: {trial.reason}")
    hungry = starving_line({trial.trial: starving(snapshot, trial.trial) for trial in trials})
    if hungry is not None:
        echo(hungry)
    for forced in snapshot.study.forced:
        echo(f"resumed with --force at {forced['at']}: {'; '.join(forced['changes'])}")
    echo(seal.summary(folder))
    echo(totals_line(totals(trials, snapshot), snapshot.active))


def _to_json(snapshot: Snapshot, trials: Sequence[TrialStatus], best: Mapping[str, Entry]) -> dict[str, Any]:
    return {
        "study": shown(snapshot.folder),
        "active": snapshot.active,
        "objective": list(snapshot.plan.objective),
        "protocol": snapshot.protocol,
        "test_split": seal.summary(snapshot.folder),
        "forced": list(snapshot.study.forced),
        "best": {name: {"trial": entry.id, "value": entry.metrics[name]} for name, entry in best.items()},
        "totals": dataclasses.asdict(totals(trials, snapshot)),
        "trials": [
            {**dataclasses.asdict(trial), "starving_groups": starving(snapshot, trial.trial)} for trial in trials
        ],
    }


def trial_table(trials: Sequence[TrialStatus], objective: Sequence[str]) -> Table:
    """One row a trial: state, progress, ETA, objectives."""
    rows = []
    for t in trials:
        values = (t.metrics.get(name) for name in objective)
        numbers = ("-" if value is None else f"{value:.4f}" for value in values)
        eta = "" if t.eta_seconds is None else f"{t.eta_seconds:.0f} s"
        rows.append((t.trial, t.label or "", t.state, f"{t.step}/{t.max_steps}", f"{t.seconds:.0f}", eta, *numbers))
    return table(("trial", "", "state", "step", "s", "ETA", *objective), rows, left=3)


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
