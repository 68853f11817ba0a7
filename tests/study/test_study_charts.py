"""Charts of a search show what its board says."""

from __future__ import annotations

from pathlib import Path

import pytest

from speaq.charts.svg import draw
from speaq.study import charts, snapshot
from speaq.study.board import Board
from speaq.study.ledger import Entry
from speaq.study.series import BoardSeries
from tests.helpers.searched import HOSTILE, Search, searched

pytest.importorskip("optuna")


def nowhere(entry: Entry) -> str:
    return ""


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")])
def test_a_search_is_drawn_as_its_board_has_it(tmp_path: Path, objective: tuple[str, ...]) -> None:
    board = Board.of(snapshot.read(searched(tmp_path / "study", objective)))
    plane, history, curves = charts.charts(BoardSeries(board), nowhere)
    assert (plane.x, plane.y) == ("R@50", "mR@50")
    front = board.front(("R@50", "mR@50"))
    corners = tuple((e.metrics["R@50"], e.metrics["mR@50"]) for e in front)
    assert [line.points for line in plane.lines] == ([corners] if len(corners) > 1 else [])
    assert {mark.label for mark in plane.marks if mark.kind != "other"} >= {"published", "baseline"}
    assert sum(mark.cross for mark in plane.marks) == 1  # the paused one; the failed one has no metrics
    assert [y for _, y in history.lines[0].points] == BoardSeries(board).best_so_far
    assert len(curves.lines) == len([entry for entry in board.entries if entry.reports])
    assert board.best is not None
    best = [mark for mark in history.marks if mark.kind == "best" or mark.label.startswith("best")]
    assert [mark.y for mark in best] == [board.score(board.best.metrics)]
    assert all(HOSTILE not in draw(chart) for chart in (plane, history, curves))


def test_marks_lead_where_the_page_says(tmp_path: Path) -> None:
    board = Board.of(snapshot.read(searched(tmp_path / "study", finished=3)))
    plane = charts.plane(BoardSeries(board), lambda entry: f"/trial/{entry.id}")
    assert sorted(mark.link for mark in plane.marks) == [f"/trial/{n:04}" for n in range(4)]


def test_a_search_without_a_result_has_charts_without_one(tmp_path: Path) -> None:
    search = Search(tmp_path / "study", 4)
    search.run("running")
    search.ledger.close()
    board = Board.of(snapshot.read(tmp_path / "study"))
    plane, history, curves = charts.charts(BoardSeries(board), nowhere)
    assert (plane.lines, history.lines) == ((), ())
    assert len(curves.lines) == 1
    assert "interrupted" in curves.lines[0].name or curves.lines[0].kind == "published"


def test_the_most_important_parameter_comes_first(tmp_path: Path) -> None:
    board = Board.of(snapshot.read(searched(tmp_path / "study")))
    bars = charts.importance(BoardSeries(board), {"a": 0.25, "b": 0.75}, {"b": (0.5, 1.0)})
    assert [(bar.name, bar.low, bar.high) for bar in bars.bars] == [("b", 0.5, 1.0), ("a", 0.25, 0.25)]
