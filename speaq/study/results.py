"""What a search leaves behind, made from the ledger alone: rows of a table, trials.csv, best.yaml."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speaq import config as configs
from speaq.config import Config
from speaq.evaluation.protocol import common_protocol
from speaq.files.atomic import write_text
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.training.callbacks import Metrics

CONFIRMATION = Path("confirm", "confirm.json")  # in a study: what `speaq confirm` found
COSTS = ("peak_memory_mib", "data_wait_share", "latency_ms", "micro_batch_size")
SHOWN = ("R", "mR", "F", "head", "body", "tail")


def table_k(objective: Sequence[str], config: Config) -> int:
    """K of the table's columns: the first objective's."""
    _, _, k = objective[0].partition("@")
    return int(k) if k.isdigit() else config.evaluation.recall_at[0]


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


def score(metrics: Metrics, objective: Sequence[str]) -> float:
    """One number to compare trials by: the objective, or the harmonic mean of two."""
    values = [metrics.get(name) or 0.0 for name in objective]
    if len(values) == 1:
        return values[0]
    return 2 * values[0] * values[1] / total if (total := sum(values)) > 0 else 0.0


def pareto(entries: Sequence[Entry], objective: Sequence[str]) -> list[Entry]:
    """Finished trials that no other one beats in both objectives, in the order of the first.

    Raises ConfigError where protocols differ.
    """
    finished = [entry for entry in entries if entry.state == "finished"]
    common_protocol(entry.protocol for entry in finished)
    points = {entry.id: [entry.metrics.get(name) or 0.0 for name in objective] for entry in finished}

    def beaten(entry: Entry) -> bool:
        mine = points[entry.id]
        return any(
            all(a >= b for a, b in zip(theirs, mine, strict=True)) and theirs != mine for theirs in points.values()
        )

    return sorted((e for e in finished if not beaten(e)), key=lambda e: points[e.id][0])


def rows(entries: Sequence[Entry], plan: Plan) -> list[dict[str, Any]]:
    """One row a trial: who, how it ended, metrics of its kept checkpoint, cost, parameters."""
    return [
        {
            "trial": entry.id,
            "label": entry.remark,
            "status": entry.state,
            "protocol": entry.protocol or "",
            **{name: entry.metrics.get(name) for name in metric_columns(plan)},
            "best_step": entry.best_step,
            "steps": entry.step,
            "seconds": round(entry.seconds, 1),
            **{name: entry.cost.get(name) for name in COSTS},
            "attempts": entry.attempts,
            "reason": entry.reason or "",
            **parameters(entry, plan),
        }
        for entry in entries
    ]


def parameters(entry: Entry, plan: Plan) -> dict[str, Any]:
    """The trial's config values of the space's keys, and of what its reference changes besides."""
    flat = configs.flatten(configs.to_dict(plan.base))
    keys = [*plan.space.parameters, *(k for k in _reference_keys(plan) if k not in plan.space.parameters)]
    values = {key: entry.overrides.get(key, flat[key]) for key in keys}
    if plan.settings.scheduler == "pbt":
        values["losses.schedule"] = schedule_text(entry.overrides.get("losses.schedule", ()))
    return values


def schedule_text(schedule: Sequence[Mapping[str, float]]) -> str:
    """`from 40 weight_predicate 1.2, weight_l1 4; from 80 …`"""
    return "; ".join(
        f"from {change['step']:.0f} " + ", ".join(f"{name} {change[name]:.4g}" for name in change if name != "step")
        for change in schedule
    )


def _reference_keys(plan: Plan) -> list[str]:
    before = configs.flatten(configs.to_dict(plan.base))
    changed = {
        key
        for config in plan.references.values()
        for key, value in configs.flatten(configs.to_dict(config)).items()
        if value != before[key]
    }
    return [key for key in before if key in changed]


def best_and_published(entries: Sequence[Entry], objective: Sequence[str], number: int) -> list[Entry]:
    """The best finished trials, best first, and the published setting behind them where it is not among them."""
    finished = [entry for entry in entries if entry.state == "finished"]
    ranked = sorted(finished, key=lambda entry: -score(entry.metrics, objective))
    return ranked[:number] + [entry for entry in ranked[number:] if entry.label == "published"]


def write(output: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """Writes trials.csv and, where a trial has finished, best.yaml."""
    write_text(output / "trials.csv", to_csv(rows(entries, plan)))
    best = best_entry(entries, plan.objective)
    if best is not None:
        config = plan.placed(configs.apply(plan.base, best.overrides))
        if (fits := best.cost.get("micro_batch_size")) is not None:  # smaller than asked for, where that was too much
            config = configs.apply(config, {"training.micro_batch_size": int(fits)})
        write_text(output / "best.yaml", _header(best, plan) + configs.dump(config))


def to_csv(content: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header; empty without rows."""
    buffer = io.StringIO()
    if content:
        writer = csv.DictWriter(buffer, fieldnames=list(content[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
    return buffer.getvalue()


def _header(best: Entry, plan: Plan) -> str:
    names = ", ".join(f"{n} {v:.4f}" for n in metric_columns(plan) if (v := best.metrics.get(n)) is not None)
    label = f" ({best.label})" if best.label else ""
    names += f" · {best.protocol}" if best.protocol else ""
    return f"# Best of {plan.trials} trials by {' and '.join(plan.objective)}: trial {best.id}{label}, {names}\n"
