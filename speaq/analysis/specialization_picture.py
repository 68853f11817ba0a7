"""The heat map of queries and predicates, one part for every run or checkpoint, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from speaq.analysis.specialization import Analysed
from speaq.drawing import drawing
from speaq.files.atomic import replaced
from speaq.plain_text import visible
from speaq.structures import FloatArray, IntArray

Kind = Literal["png", "svg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DPI = 150
WIDTH, HEIGHT = 5.0, 6.5  # inches of a part
BORDER = "#D55E00"  # of groups; Okabe and Ito's vermilion, in contrast with viridis
DEAD = "#9a9a9a"
NAMED = 60  # predicates whose names are still readable


def draw(found: Sequence[Analysed], path: Path, kind: Kind) -> None:
    """Writes the picture. Equal input, equal bytes.

    A row is a query: in colour the share of its predictions that each predicate has, grey where it is dead. Columns
    are the predicates by group, of a run without groups those of the first run that has some. Rows keep their group;
    inside it they are sorted by the predicate that they predict most.
    """
    with drawing(text for one in found for text in (*one.predicates, one.title)):
        figure = Figure(figsize=(WIDTH * len(found) + 1, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.subplots(1, len(found), squeeze=False)[0]
        order = _columns(found)
        meshes = [_draw(axes, one, order) for axes, one in zip(parts, found, strict=True)]
        parts[0].set_ylabel("relation queries, sorted by group and main predicate; grey: dead")
        figure.colorbar(meshes[-1], ax=list(parts), label="share of the query's predictions", fraction=0.03)
        with replaced(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)


def _columns(found: Sequence[Analysed]) -> list[int]:
    """Predicates by group where one run has groups, else by how often the first run predicts them."""
    grouped = next((one.groups for one in found if one.groups is not None), None)
    if grouped is not None:
        return [p for members in grouped.predicates for p in members]
    order: list[int] = np.argsort(-found[0].counts.sum(0), kind="stable").tolist()
    return order


def _draw(axes: Axes, one: Analysed, order: list[int]) -> QuadMesh:
    columns = order if one.groups is None else [p for members in one.groups.predicates for p in members]
    counts = one.counts[:, columns]
    group = np.zeros(len(counts), np.int64) if one.groups is None else one.groups.group_of_query(one.query_multiple)
    rows = np.lexsort((_main(counts), group))
    mesh = axes.pcolormesh(_shares(counts)[rows], cmap="viridis", vmin=0, vmax=1, rasterized=True)
    axes.set_facecolor(DEAD)
    axes.invert_yaxis()
    if one.groups is not None:
        _borders(axes, [len(members) for members in one.groups.predicates], np.bincount(group).tolist())
    if len(columns) <= NAMED:
        axes.set_xticks(
            np.arange(len(columns)) + 0.5, [visible(one.predicates[p]) for p in columns], rotation=90, fontsize=7
        )
    axes.set_title(f"{visible(one.title)}\n{_numbers(one)}", fontsize=9)
    return mesh


def _main(counts: IntArray) -> IntArray:
    """[R] column of the predicate that each query predicts most; dead queries come last."""
    main: IntArray = np.where(counts.sum(1) > 0, counts.argmax(1), counts.shape[1])
    return main


def _shares(counts: IntArray) -> FloatArray:
    """[R, P] each row sums to 1; a dead query's is NaN, which is not painted."""
    total = counts.sum(1, keepdims=True)
    shares: FloatArray = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return shares


def _borders(axes: Axes, predicates: list[int], queries: list[int]) -> None:
    """A box around every group's own queries and predicates: what is outside of it leaks."""
    left = top = 0
    for width, height in zip(predicates, queries, strict=True):
        corners = ([left, left + width, left + width, left, left], [top, top, top + height, top + height, top])
        axes.plot(*corners, color=BORDER, linewidth=1.5, clip_on=False)
        left, top = left + width, top + height


def _numbers(one: Analysed) -> str:
    result = one.result()
    entropy = "-" if result.mean_entropy is None else f"{result.mean_entropy:.2f}"
    leakage = "" if result.leakage is None else f" · leakage {result.leakage:.1%}"
    return f"entropy {entropy} nats{leakage} · dead {len(result.dead)} of {len(one.counts)}"
