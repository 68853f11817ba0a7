"""By what trials are ranked, and which are best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from speaq.config import Config
from speaq.evaluation.protocol import common_protocol
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.training.callbacks import Metrics, is_number

CONFIRMATION = Path("confirm", "confirm.json")  # in a study: what `speaq confirm` found
SHOWN = ("R", "mR", "F", "head", "body", "tail")
Values = Sequence[float]  # of a trial's objectives


def table_k(objective: Sequence[str], config: Config) -> int:
    """K of the table's columns: the first objective's."""
    _, _, k = objective[0].partition("@")
    return int(k) if k.isdigit() else config.evaluation.recall_at[0]


def plane(objective: Sequence[str], config: Config) -> tuple[str, str]:
    """The two metrics over which trials are drawn: the objectives where there are two, else recall and mean recall."""
    if len(objective) == 2:
        return objective[0], objective[1]
    k = table_k(objective, config)
    return f"R@{k}", f"mR@{k}"


def metric_columns(plan: Plan) -> list[str]:
    """Objectives first where they are not among the usual ones."""
    k = table_k(plan.objective, plan.base)
    usual = [f"{name}@{k}" for name in SHOWN]
    return [name for name in plan.objective if name not in usual] + usual


def best_entry(entries: Sequence[Entry], objective: Sequence[str]) -> Entry | None:
    """The finished trial with the best objective; of two objectives the knee: the best harmonic mean.

    Ties go to the earlier trial; None where no trial has finished. Raises ConfigError where protocols differ.
    """
    finished = [entry for entry in entries if entry.state == "finished"]
    common_protocol(entry.protocol for entry in finished)
    return max(finished, key=lambda entry: score(entry.metrics, objective), default=None)


def values(metrics: Metrics, objective: Sequence[str]) -> tuple[float, ...] | None:
    """The values of the objectives; None where one of them is not a number."""
    found = [value for name in objective if is_number(value := metrics.get(name))]
    return tuple(found) if len(found) == len(objective) else None


def score(metrics: Metrics, objective: Sequence[str]) -> float:
    """One number to compare trials by: the objective, or the harmonic mean of two."""
    values = [metrics.get(name) or 0.0 for name in objective]
    if len(values) == 1:
        return values[0]
    return 2 * values[0] * values[1] / total if (total := sum(values)) > 0 else 0.0


def metric_name(objective: Sequence[str]) -> str:
    """Names what trials are compared by: the objective, or the harmonic mean of two."""
    return objective[0] if len(objective) == 1 else f"harmonic mean of {' and '.join(objective)}"


def points(interval: Mapping[str, float], metric: str) -> str:
    """Writes a difference (value, low and high, each of recalls in [0, 1]) in points of 100."""
    value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} {metric} [{low:.1f}, {high:.1f}]"


def pareto(entries: Sequence[Entry], objective: Sequence[str]) -> list[Entry]:
    """Finished trials that no other one beats in both objectives, in the order of the first.

    Raises ConfigError where protocols differ.
    """
    finished = [entry for entry in entries if entry.state == "finished"]
    common_protocol(entry.protocol for entry in finished)
    return next(_fronts_of(finished, objective), [])


def _fronts_of(entries: Sequence[Entry], objective: Sequence[str]) -> Iterator[list[Entry]]:
    """The trials front after front, each in the order of the first objective."""
    points = [[entry.metrics.get(name) or 0.0 for name in objective] for entry in entries]
    for front in fronts(points):
        yield [entries[at] for at in sorted(front, key=lambda at: (points[at][0], at))]


def fronts(points: Sequence[Values]) -> list[list[int]]:
    """Non-dominated sorting: places of the points that no other one beats, then of those that only these beat, …

    Equal points share a front. A front is in falling order of the first objective.
    """
    pairs = [(values[0], values[-1]) for values in points]
    made: list[list[int]] = []
    for place in sorted(range(len(pairs)), key=lambda at: (-pairs[at][0], -pairs[at][1], at)):
        low, high = 0, len(made)  # the first front that does not beat it; the fronts before all do
        while low < high:
            middle = (low + high) // 2
            last = pairs[made[middle][-1]]  # of those so far, which are no worse in the first, the best in the second
            if last[1] >= pairs[place][1] and last != pairs[place]:
                low = middle + 1
            else:
                high = middle
        if low == len(made):
            made.append([])
        made[low].append(place)
    return made


def ranked(entries: Sequence[Entry], objective: Sequence[str]) -> list[Entry]:
    """Finished trials, the best first; ties go to the earlier trial.

    With two objectives those that no other one beats come first, then those that only these beat, and so on; among
    equals the knee first, the best of each objective behind it. Raises ConfigError where protocols differ.
    """
    finished = [entry for entry in entries if entry.state == "finished"]
    common_protocol(entry.protocol for entry in finished)
    if len(objective) == 1:
        return sorted(finished, key=lambda entry: -score(entry.metrics, objective))
    found: list[Entry] = []
    for front in _fronts_of(finished, objective):
        knee = sorted(front, key=lambda entry: -score(entry.metrics, objective))
        ends = [max(knee, key=lambda entry, name=name: entry.metrics.get(name) or 0.0) for name in objective]  # type: ignore[misc]
        found += {entry.id: entry for entry in (knee[0], *ends, *knee)}.values()
    return found


def best_and_published(entries: Sequence[Entry], objective: Sequence[str], number: int) -> list[Entry]:
    """The best finished trials, best first, and the published setting behind them where it is not among them."""
    finished = [entry for entry in entries if entry.state == "finished"]
    ranked = sorted(finished, key=lambda entry: -score(entry.metrics, objective))
    return ranked[:number] + [entry for entry in ranked[number:] if entry.label == "published"]
