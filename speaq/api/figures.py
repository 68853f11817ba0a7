"""Figures of runs and searches, for a notebook or a file: `figure.savefig("curves.png")`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speaq.drawing import ShownFigure, drawing
from speaq.plain_text import visible
from speaq.study.board import COLOURS, Board
from speaq.study.ledger import Entry
from speaq.table import Row

OTHER, LINE = "#6b7280", "#374151"
RECALLS = ("val/R@", "val/mR@")


def curves(history: Sequence[Row], title: str) -> ShownFigure:
    """Training loss, and recall and mean recall on val, over the steps.

    Args:
        history: lines of metrics.jsonl.
        title: of the figure.
    """
    with drawing([title]):
        figure = ShownFigure(figsize=(10, 3.6), layout="constrained")
        loss, recall = figure.subplots(1, 2)
        _line(loss, history, "train/loss", marker=None)
        names = dict.fromkeys(name for row in history for name in row if name.startswith(RECALLS))
        for name in names:
            _line(recall, history, name)
        loss.set(title=visible(title), xlabel="step", ylabel="loss")
        recall.set(title="on val", xlabel="step", ylabel="recall")
        if names:
            recall.legend(fontsize=8)
        return figure


def _line(axes: Any, history: Sequence[Row], name: str, marker: str | None = ".") -> None:
    points = [(row["step"], row[name]) for row in history if row.get(name) is not None and "step" in row]
    if points:
        axes.plot(*zip(*points, strict=True), marker=marker, label=name.removeprefix("val/"), linewidth=1.2)


def plane(board: Board, names: tuple[str, str], title: str) -> ShownFigure:
    """Finished trials over two metrics: the front named by trial, the references by label and colour."""
    with drawing([title, *(entry.label or "" for entry in board.entries)]):
        figure = ShownFigure(figsize=(6, 4.5), layout="constrained")
        axes = figure.subplots()
        front = board.front(names)
        corners = [_point(entry, names) for entry in front]
        if corners:
            style: dict[str, Any] = {
                "color": LINE,
                "linewidth": 1,
                "marker": "o",
                "markersize": 10,
                "markerfacecolor": "none",
            }
            axes.plot(*zip(*corners, strict=True), label="front", zorder=1, **style)
        for entry in board.finished:
            axes.scatter(*_point(entry, names), color=COLOURS.get(entry.label or "", OTHER), zorder=2)
            name = entry.label or (entry.id if entry in front else None)
            if name:
                offset: dict[str, Any] = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(visible(name), _point(entry, names), **offset)
        axes.set(title=visible(title), xlabel=names[0], ylabel=names[1])
        if corners:
            axes.legend(fontsize=8)
        return figure


def _point(entry: Entry, names: tuple[str, str]) -> tuple[float, float]:
    return entry.metrics.get(names[0]) or 0.0, entry.metrics.get(names[1]) or 0.0
