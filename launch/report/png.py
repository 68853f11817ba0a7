"""Figures as PNG files, drawn by matplotlib: search.png, and Optuna's own of the report, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speaq.files.atomic import replaced
from speaq.files.home import keep_out_of_home
from speaq.plain_text import visible
from speaq.study.board import COLOURS, Board
from speaq.study.decoding import AS_TRAINED
from speaq.study.ledger import Entry
from speaq.study.plan import Plan

from ..search.optuna_study import quiet
from .series import Series

LINE = "#111827"


def write_results(output: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """All that a search leaves behind in its folder: trials.csv, best.yaml and search.png."""
    board = Board(entries, plan)
    board.write(output)
    draw_search(output / "search.png", board)


def draw_search(path: Path, board: Board) -> None:
    """Objective over trials and over steps, and the recall–mean-recall plane; references marked by colour."""
    keep_out_of_home()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from speaq.drawing import drawing

    shown = [replace(entry, label=visible(entry.label)) if entry.label else entry for entry in board.entries]
    series = Series(Board(shown, board.plan))
    with drawing(entry.label or "" for entry in shown):
        figure = Figure(figsize=(15, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        history, curves, plane = figure.subplots(1, 3)
        _draw_history(history, series)
        _draw_curves(curves, series)
        _draw_plane(plane, series)
        with replaced(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png")


def _draw_history(axes: Any, series: Series) -> None:
    entries = series.board.entries
    for entry in series.comparable:
        point = (int(entry.id), series.board.score(entry.metrics))
        _draw_point(axes, entry, point, entry.label)
    numbers = [int(entry.id) for entry in entries]
    axes.step(numbers, series.best_so_far, where="post", color=LINE, linewidth=1, label="best so far")
    crosses = "" if series.decoded else " (x: pruned or paused)"
    axes.set(title="Search", xlabel=f"trial{crosses}", ylabel=series.ranked_by)
    axes.legend(fontsize=8)


def _draw_curves(axes: Any, series: Series) -> None:
    for entry in series.board.entries:
        width, order = (2, 3) if entry.label else (0.8, 2)
        line = {"color": _colour(entry), "marker": ".", "linewidth": width, "zorder": order, "label": entry.label}
        axes.plot(*series.curve(entry), **line)
    axes.set(
        title=f"Learning curves{f', {AS_TRAINED}' if series.decoded else ''}",
        xlabel=series.step_name,
        ylabel=series.ranked_by,
    )
    if any(entry.label and entry.reports for entry in series.board.entries):
        axes.legend(fontsize=8)


def _draw_plane(axes: Any, series: Series) -> None:
    board, names = series.board, series.plane
    front = board.front(names)
    points = {e.id: tuple(e.metrics.get(name) or 0.0 for name in names) for e in board.entries}
    for entry in series.comparable:
        if entry.metrics:
            _draw_point(axes, entry, points[entry.id], entry.label or (entry.id if entry in front else None))
    corners = zip(*(points[entry.id] for entry in front), strict=True) if front else ([], [])
    axes.plot(*corners, color=LINE, linewidth=1, label="Pareto front")
    _draw_decodings(axes, series)
    axes.set(title="Recall and mean recall", xlabel=names[0], ylabel=names[1])
    axes.legend(fontsize=8)


def _draw_decodings(axes: Any, series: Series) -> None:
    """The curves of the best trials, where trials were decoded."""
    for name, curve in series.decoded.items():
        line = {"color": COLOURS.get(name, "#6b7280"), "linewidth": 0.8, "marker": ".", "markersize": 3}
        axes.plot(*zip(*curve, strict=True), label=f"decodings of {name}", **line)


def _draw_point(axes: Any, entry: Entry, point: tuple[float, ...], name: str | None) -> None:
    """A trial with metrics as a point, a cross where it has not finished, and its name beside it."""
    if entry.metrics:
        axes.scatter(*point, color=_colour(entry), marker="o" if entry.state == "finished" else "x", zorder=3)
    if name:
        axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=8)


def _colour(entry: Entry) -> str:
    return COLOURS.get(entry.label or "", "#6b7280")


def draw_figures(folder: Path, series: Series) -> None:
    """Draws into a folder what a study with a finished trial has enough trials for. Raises OSError."""
    keep_out_of_home()
    import matplotlib

    matplotlib.use("Agg")  # pyplot, which Optuna draws with, would look for a screen
    from optuna.visualization import matplotlib as drawn

    folder.mkdir(parents=True, exist_ok=True)
    study, ranked, name = series.study, series.score_of(series.board.entries), series.ranked_by
    objective = list(series.board.plan.objective)
    with quiet():
        drawn.plot_optimization_history(study, target=ranked, target_name=name)
        _save(folder / "history.png")
        if len(objective) == 2:
            front = drawn.plot_pareto_front(study, target_names=objective)
            _draw_decodings(front, series)
            if series.decoded:
                front.legend(fontsize=8)
            _save(folder / "front.png")
        if series.drawn:
            drawn.plot_slice(study, params=sorted(series.drawn), target=ranked, target_name=name)
            _save(folder / "slices.png", 3.4 * len(series.drawn))
        if series.too_few is None:
            _draw_parameters(folder, series)


def _draw_parameters(folder: Path, series: Series) -> None:
    """Which parameters matter, and the pairs of those that matter most."""
    from optuna.visualization import matplotlib as drawn

    study, ranked = series.study_inside, series.score_of(series.inside)
    worst = series.score_of(series.inside, -1)  # PED-ANOVA looks for the smallest
    drawn.plot_param_importances(study, evaluator=series.evaluator, target=worst, target_name=series.ranked_by)
    _save(folder / "importance.png")
    for number, pair in enumerate(series.pairs, start=1):
        drawn.plot_contour(study, params=list(pair), target=ranked)
        _save(folder / f"pair-{number}.png")


def _save(path: Path, width: float = 8) -> None:
    """Writes pyplot's figure, which Optuna has just drawn; it returns axes alone. `width` in inches."""
    from matplotlib import pyplot

    figure = pyplot.gcf()
    figure.set_size_inches(width, 5)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    pyplot.close(figure)
