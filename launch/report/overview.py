"""search.png: the objective over trials and over steps, and the plane of recall and mean recall."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speaq.files.atomic import replaced
from speaq.plain_text import visible
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.plan import Plan
from speaq.study.results import pareto, score, table_k

COLOURS = {"published": "#c2410c", "baseline": "#1d4ed8"}


def write_results(output: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """All that a search leaves behind in its folder: trials.csv, best.yaml and search.png."""
    Board(entries, plan).write(output)
    draw(output / "search.png", entries, plan)


def draw(path: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """Objective over trials and over steps, and the recall–mean-recall plane; references marked by colour."""
    keep_out_of_home()
    from speaq.drawing import drawing

    shown = [replace(entry, label=visible(entry.label)) if entry.label else entry for entry in entries]
    with drawing(entry.label or "" for entry in shown):
        _draw(path, shown, plan)


def _draw(path: Path, entries: Sequence[Entry], plan: Plan) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    history, curves, plane = figure.subplots(1, 3)
    _draw_history(history, entries, plan)
    _draw_curves(curves, entries, plan)
    _draw_plane(plane, entries, plan)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def keep_out_of_home() -> None:
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
    front = pareto(entries, (x, y))
    for entry in entries:
        if entry.metrics:
            finished = entry.state == "finished"
            point = (entry.metrics.get(x) or 0.0, entry.metrics.get(y) or 0.0)
            axes.scatter(*point, color=_colour(entry), marker="o" if finished else "x", zorder=3)
            if entry.label or entry in front:
                axes.annotate(entry.label or entry.id, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    points = [(e.metrics.get(x) or 0.0, e.metrics.get(y) or 0.0) for e in front]
    axes.plot(*zip(*points, strict=True) if points else ([], []), color="#111827", linewidth=1, label="Pareto front")
    axes.set(title="Recall and mean recall", xlabel=x, ylabel=y)
    axes.legend(fontsize=8)
