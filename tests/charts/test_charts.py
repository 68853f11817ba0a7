"""Charts as SVG: what is drawn where, and that names of others are text; curves of a run from its metrics."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speaq.charts.axis import Axis
from speaq.charts.chart import MOST, Bar, Bars, Chart, Line, Mark, thinned
from speaq.charts.svg import draw
from speaq.training import curves

HOSTILE = '</svg><script>alert("x")</script>\u202e'


def test_names_in_a_picture_stay_inside_and_hide_neither_each_other_nor_a_mark() -> None:
    pytest.importorskip("matplotlib")
    from speaq.charts import picture

    corners = [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.99, 0.98), (0.5, 0.5), (0.51, 0.5)]
    kinds = ["published", "baseline", "best", "other", "other", "other", "other"]
    marks = tuple(
        Mark(x, y, "about", kind=kind, label=f"{kind} ({number:04})", cross=kind == "other")
        for number, ((x, y), kind) in enumerate(zip(corners, kinds, strict=True))
    )
    line = Line("front: no trial beats these", tuple(corners[:2]), "front")
    figure = picture.draw([Chart("R and mR", x="R@50", y="mR@50", lines=(line,), marks=marks)], "study")
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    names = {text.get_text() for text in axes.texts}
    assert {f"{kind} ({number:04})" for number, kind in enumerate(kinds[:3])} <= names
    plane = axes.get_window_extent()
    places = axes.transData.transform(corners)
    for number, box in enumerate(boxes):
        assert plane.x0 <= box.x0 < box.x1 <= plane.x1
        assert plane.y0 <= box.y0 < box.y1 <= plane.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(*at) for at in places)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(1, 9))
def test_an_axis_has_all_values_and_few_round_marks(values: list[float], most: int) -> None:
    axis = Axis.over(values, most)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert len(axis.marks) <= most + 1
    assert axis.marks == sorted(set(axis.marks))


@pytest.mark.parametrize(
    ("values", "most", "texts"),
    [
        ((0.0, 1000.0), 5, ["0", "250", "500", "750", "1,000"]),
        ((0.0, 0.31), 4, ["0.0", "0.1", "0.2", "0.3"]),
        ((0.0, 0.001), 5, ["0.00000", "0.00025", "0.00050", "0.00075", "0.00100"]),
        ((0.0, 3.0), 9, ["0", "1", "2", "3"]),
    ],
)
def test_marks_are_written_with_the_digits_that_part_them(
    values: tuple[float, ...], most: int, texts: list[str]
) -> None:
    axis = Axis.over(values, most, from_zero=True, whole=most == 9)
    assert [axis.text(mark) for mark in axis.marks] == texts


def test_equal_values_and_none_have_an_axis_too() -> None:
    assert Axis.over([3.0, 3.0], 4).place(3.0) == pytest.approx(0.5)
    assert Axis.over([], 4).marks[0] == 0.0
    assert Axis.over([0.0], 4, from_zero=True).low == 0.0


def test_a_long_line_is_thinned_to_means() -> None:
    points = [(float(x), 2.0 * x) for x in range(10 * MOST)] + [(math.pi, math.nan)]
    kept = thinned(points)
    assert len(kept) == MOST
    assert all(y == 2 * x for x, y in kept)
    assert thinned(points[:3]) == tuple(points[:3])


def test_a_chart_is_drawn_as_it_is_described_and_names_are_text() -> None:
    line = Line(HOSTILE, ((0.0, 0.0), (1.0, 1.0), (2.0, math.nan), (3.0, 0.5)), "best", link="/trial/0001/training")
    marks = (Mark(1, 1, HOSTILE, label="published", kind="published"), Mark(2, 0.5, "one", cross=True, link='/a?b="'))
    drawn = draw(Chart(HOSTILE, "x", "y", (line,), marks, about=HOSTILE))
    root = ElementTree.fromstring(drawn)
    assert [element.tag for element in root.iter() if "script" in str(element.tag)] == []
    assert "\u202e" not in drawn
    path = next(e for e in root.iter("path") if e.get("class") == "stroke").get("d") or ""
    assert path.count("M") == 2  # broken where the value is none
    assert [element.get("href") for element in root.iter("a")] == ["/trial/0001/training", '/a?b="']
    assert "published" in [element.text for element in root.iter("text")]
    assert [element.get("style") for element in root.iter() if element.get("style")] == []
    heights = [float(circle.get("cy") or 0) for circle in root.iter("circle") if circle.get("r") == "4.2"]
    assert heights == [pytest.approx(20 + (1 - 1.05 / 1.1) * 210, abs=0.1)]  # 5 % of the axis is left above it


def test_a_chart_without_points_says_so() -> None:
    assert "Nothing to draw yet" in draw(Chart("Loss", "step", "loss"))


def test_bars_are_as_long_as_their_values() -> None:
    bars = Bars("Importance", "share", (Bar(HOSTILE, 0.5, 0.25, 1.0), Bar("b", 0.25, 0.2, 0.3)))
    root = ElementTree.fromstring(draw(bars))
    widths = [float(rect.get("width") or 0) for rect in root.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)


@pytest.mark.parametrize("name", ["x" * 200, "\u7403" * 20, "a"])
def test_the_longest_name_leaves_room_for_its_bar(name: str) -> None:
    root = ElementTree.fromstring(draw(Bars("Recall", "R@20", (Bar(name, 0.5), Bar("b", 1.0)))))
    half, whole = (float(rect.get("width") or 0) for rect in root.iter("rect"))
    assert whole > 100
    assert half == pytest.approx(whole / 2, abs=0.2)
    text = next(text for text in root.iter("text") if text.get("text-anchor") == "end")
    letters = len(text.text or "") * (11 if name[0] == "\u7403" else 6)
    assert float(text.get("x") or 0) > letters
    assert f"{name}: 0.5" in [title.text for title in root.iter("title")]


def test_labels_hide_no_other_label() -> None:
    marks = tuple(Mark(0.01 * n, 0.01 * n, "", label=f"trial {n}") for n in range(30))
    drawn = draw(Chart("Many", "x", "y", marks=marks))
    places = re.findall(r'class="label k-other" x="([\d.]+)" y="([\d.]+)"', drawn)
    spots = [(float(x), float(y)) for x, y in places]
    assert spots
    assert not any(abs(a[1] - b[1]) < 12 and abs(a[0] - b[0]) < 40 for i, a in enumerate(spots) for b in spots[:i])


def test_curves_are_those_of_the_metrics_that_there_are() -> None:
    rows: list[dict[str, object]] = [
        {"step": 10, "train/loss": 2.0, "train/k_log_layer1": 1.5, "train/matched_share_group1": 0.1},
        {"step": 20, "train/loss": None, "train/overflow_group1": 0.0, "train/overflow_group2": 0.5},
        {"step": 20, "val/R@50": 0.5, "val/R@20": 0.25, "val/head@20": 0.5},
        {"no step": 1},
    ]
    found = {chart.title: chart for chart in curves.charts(rows)}
    assert list(found) == [
        "Loss",
        "Recall on val",
        "Frequent to rare predicates, mR@20",
        "Repeats k, by decoder layer",
        "Relation queries with a target",
        "Targets that other groups' queries got",
    ]
    assert found["Loss"].lines[0].points == ((10.0, 2.0),)
    assert [line.name for line in found["Recall on val"].lines] == ["R@20", "R@50"]
    assert curves.charts([]) == []


def test_a_mark_in_the_corner_has_its_name_inside_the_plane() -> None:
    pytest.importorskip("matplotlib")
    from speaq.charts import picture

    others = (Mark(0.49, 0.28, "", "other"), Mark(0.79, 0.57, "", "other"))
    named = (Mark(0.72, 0.50, "", "published", "published"), Mark(0.80, 0.61, "", "best", "best (0003)"))
    (axes,) = picture.draw([Chart("", "R@20", "mR@20", marks=(*others, *named))], "").axes
    plane = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] == ["published", "best (0003)"]
    assert all(plane.contains(*corner) for text in axes.texts for corner in text.get_window_extent().corners())
