"""What a search leaves behind, made from the ledger alone: the table, trials.csv, best.yaml, search.png."""

from __future__ import annotations

import atexit
import csv
import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.ledger import Entry, Metrics
from launch.search import Plan
from speaq import config as configs
from speaq.config import Config

SHOWN = ("R", "mR", "F", "head", "body", "tail")
COLOURS = {"published": "#c2410c", "baseline": "#1d4ed8"}


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

    Ties go to the earlier trial; None where no trial has finished.
    """
    finished = [entry for entry in entries if entry.state == "finished"]
    return max(finished, key=lambda entry: score(entry.metrics, objective), default=None)


def score(metrics: Metrics, objective: Sequence[str]) -> float:
    """One number to compare trials by: the objective, or the harmonic mean of two."""
    values = [metrics.get(name) or 0.0 for name in objective]
    if len(values) == 1:
        return values[0]
    return 2 * values[0] * values[1] / total if (total := sum(values)) > 0 else 0.0


def pareto(entries: Sequence[Entry], objective: Sequence[str]) -> list[Entry]:
    """Finished trials that no other one beats in both objectives, in the order of the first."""
    finished = [entry for entry in entries if entry.state == "finished"]
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
            "label": entry.label or "",
            "status": entry.state,
            **{name: entry.metrics.get(name) for name in metric_columns(plan)},
            "best_step": entry.best_step,
            "steps": entry.step,
            "seconds": round(entry.seconds, 1),
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
    return {key: entry.overrides.get(key, flat[key]) for key in keys}


def _reference_keys(plan: Plan) -> list[str]:
    before = configs.flatten(configs.to_dict(plan.base))
    changed = {
        key
        for config in plan.references.values()
        for key, value in configs.flatten(configs.to_dict(config)).items()
        if value != before[key]
    }
    return [key for key in before if key in changed]


def write(output: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """Writes trials.csv and, where a trial has finished, best.yaml and search.png."""
    _write_text(output / "trials.csv", _csv(rows(entries, plan)))
    best = best_entry(entries, plan.objective)
    if best is not None:
        config = configs.apply(plan.base, best.overrides)
        _write_text(output / "best.yaml", _header(best, plan) + configs.dump(config))
    draw(output / "search.png", entries, plan)


def _csv(content: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    if content:
        writer = csv.DictWriter(buffer, fieldnames=list(content[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
    return buffer.getvalue()


def _header(best: Entry, plan: Plan) -> str:
    names = ", ".join(f"{n} {v:.4f}" for n in metric_columns(plan) if (v := best.metrics.get(n)) is not None)
    label = f" ({best.label})" if best.label else ""
    return f"# Best of {plan.trials} trials by {' and '.join(plan.objective)}: trial {best.id}{label}, {names}\n"


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def print_table(entries: Sequence[Entry], plan: Plan) -> None:
    """The trials on stdout, the best one marked, then failures with their reason."""
    from rich.console import Console
    from rich.table import Table

    best = best_entry(entries, plan.objective)
    columns = metric_columns(plan)
    table = Table("", "trial", "", "status", *columns, "steps", "s", "parameters", box=None, pad_edge=False)
    for name in (*columns, "steps", "s"):
        next(c for c in table.columns if c.header == name).justify = "right"
    for entry in entries:
        values = [_number(entry.metrics.get(name)) for name in columns]
        mark = "*" if best is not None and entry.id == best.id else ""
        cells = (mark, entry.id, entry.label or "", entry.state, *values, str(entry.step), f"{entry.seconds:.0f}")
        table.add_row(*cells, _parameters_text(entry, plan), style="bold" if mark else None)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240
    console.print(table)
    for entry in entries:
        if entry.reason:
            console.print(f"trial {entry.id} {entry.state}: {entry.reason}", markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parameters_text(entry: Entry, plan: Plan) -> str:
    """Short names (the last part of the key), without what is not searched."""
    names = [key.rpartition(".")[2] for key in plan.space.parameters]
    values = parameters(entry, plan)

    def short(key: str) -> str:
        section, _, name = key.rpartition(".")
        return name if names.count(name) == 1 else f"{section}.{name}"

    return " ".join(f"{short(k)}={_plain(values[k])}" for k in plan.space.parameters)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(path: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """Objective over trials and over steps, and the recall–mean-recall plane; references marked by colour."""
    _keep_out_of_home()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    history, curves, plane = figure.subplots(1, 3)
    _draw_history(history, entries, plan)
    _draw_curves(curves, entries, plan)
    _draw_plane(plane, entries, plan)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)


def _keep_out_of_home() -> None:
    """matplotlib writes a font cache: into a folder that goes with the process."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="speaq-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _colour(entry: Entry) -> str:
    return COLOURS.get(entry.label or "", "#6b7280")


def _title(plan: Plan) -> str:
    return plan.objective[0] if len(plan.objective) == 1 else f"harmonic mean of {' and '.join(plan.objective)}"


def _draw_history(axes: Any, entries: Sequence[Entry], plan: Plan) -> None:
    best, line = 0.0, []
    for entry in entries:
        value = score(entry.metrics, plan.objective)
        finished = entry.state == "finished"
        if finished:
            best = max(best, value)
        line.append(best)
        if entry.metrics:
            axes.scatter(int(entry.id), value, color=_colour(entry), marker="o" if finished else "x", zorder=3)
        if entry.label:
            axes.annotate(entry.label, (int(entry.id), value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.step([int(e.id) for e in entries], line, where="post", color="#111827", linewidth=1, label="best so far")
    axes.set(title="Search", xlabel="trial (x: stopped early)", ylabel=_title(plan))
    axes.legend(fontsize=8)


def _draw_curves(axes: Any, entries: Sequence[Entry], plan: Plan) -> None:
    for entry in entries:
        steps = sorted(entry.reports)
        values = [score(entry.reports[step], plan.objective) for step in steps]
        axes.plot(
            steps,
            values,
            color=_colour(entry),
            marker=".",
            linewidth=2 if entry.label else 0.8,
            zorder=3 if entry.label else 2,
            label=entry.label,
        )
    axes.set(title="Learning curves", xlabel="step", ylabel=_title(plan))
    if any(entry.label and entry.reports for entry in entries):
        axes.legend(fontsize=8)


def _draw_plane(axes: Any, entries: Sequence[Entry], plan: Plan) -> None:
    k = table_k(plan.objective, plan.base)
    x, y = plan.objective if len(plan.objective) == 2 else (f"R@{k}", f"mR@{k}")
    for entry in entries:
        if entry.metrics:
            finished = entry.state == "finished"
            point = (entry.metrics.get(x) or 0.0, entry.metrics.get(y) or 0.0)
            axes.scatter(*point, color=_colour(entry), marker="o" if finished else "x", zorder=3)
            axes.annotate(entry.label or entry.id, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    front = pareto(entries, (x, y))
    points = [(e.metrics.get(x) or 0.0, e.metrics.get(y) or 0.0) for e in front]
    axes.plot(*zip(*points, strict=True) if points else ([], []), color="#111827", linewidth=1, label="Pareto front")
    axes.set(title="Recall and mean recall", xlabel=x, ylabel=y)
    axes.legend(fontsize=8)
