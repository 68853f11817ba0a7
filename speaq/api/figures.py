"""Figures of runs and searches, for a notebook or a file: `figure.savefig("curves.png")`."""

from __future__ import annotations

from collections.abc import Sequence

from speaq.charts import picture
from speaq.drawing import ShownFigure
from speaq.study import charts
from speaq.study.board import Board
from speaq.study.series import BoardSeries
from speaq.table import Row
from speaq.training import curves as of_training

FIRST = 3  # charts of a training: loss, recall, mean recall


def curves(history: Sequence[Row], title: str) -> ShownFigure:
    """Training loss, and recall and mean recall on val, over the steps.

    Args:
        history: lines of metrics.jsonl.
        title: of the figure.
    """
    return picture.draw(of_training.charts(history)[:FIRST], title)


def plane(board: Board, title: str) -> ShownFigure:
    """Trials over recall and mean recall, or two objectives: the front, and by name the references and the best."""
    return picture.draw([charts.plane(BoardSeries(board), lambda entry: "")], title)
