"""Charts as a picture, drawn by matplotlib: beside each other in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import StrMethodFormatter

from speaq.charts.chart import COLOURS, Chart
from speaq.drawing import ShownFigure, drawing
from speaq.files.atomic import replaced
from speaq.plain_text import visible

COLUMNS = 3
WIDTH, HEIGHT = 4.6, 3.1  # of a chart, inches
DPI = 100


def write(path: Path, charts: Sequence[Chart], title: str) -> None:
    """Writes the charts as PNG, in one step over an older one. Raises OSError."""
    with drawing(_texts(charts, title)), replaced(path) as temporary:
        figure = _drawn(charts, title)
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=DPI)


def draw(charts: Sequence[Chart], title: str) -> ShownFigure:
    """The charts as a figure, which shows itself in a notebook."""
    with drawing(_texts(charts, title)):
        return _drawn(charts, title)


def _texts(charts: Sequence[Chart], title: str) -> list[str]:
    return [title, *(text for chart in charts for text in (chart.title, *(line.name for line in chart.lines)))]


def _drawn(charts: Sequence[Chart], title: str) -> ShownFigure:
    columns = min(COLUMNS, max(len(charts), 1))
    rows = -(-max(len(charts), 1) // columns)
    figure = ShownFigure(figsize=(WIDTH * columns, HEIGHT * rows + 0.4))
    high, wide = HEIGHT * rows + 0.4, WIDTH * columns
    figure.subplots_adjust(
        left=0.62 / wide, right=1 - 0.15 / wide, bottom=0.5 / high, top=1 - 0.75 / high, wspace=0.22, hspace=0.48
    )
    figure.suptitle(visible(title), fontsize=11, x=0.62 / wide, ha="left", y=1 - 0.12 / high, va="top")
    for axes, chart in zip(figure.subplots(rows, columns, squeeze=False).flat, [*charts, *[None] * 8], strict=False):
        if chart is None:
            axes.set_axis_off()
        else:
            _chart(axes, chart)
    return figure


def _chart(axes: Any, chart: Chart) -> None:
    for line in chart.lines:
        style = {"color": COLOURS[line.kind], "linewidth": 1.3, "label": visible(line.name)}
        more = {"marker": "o", "markersize": 2.5} if line.dots else {}
        axes.plot(*zip(*line.points, strict=True), drawstyle="steps-post" if line.stairs else None, **style, **more)
    axes.set_title(visible(chart.title), fontsize=10, loc="left")
    axes.set_xlabel(visible(chart.x), fontsize=8)
    axes.set_ylabel(visible(chart.y), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.get_major_locator().set_params(nbins=6, integer=True)
    if chart.x.startswith("step"):
        axes.set_xlim(left=0)
    if chart.from_zero and min((y for _, y in chart.points), default=0.0) >= 0:
        axes.set_ylim(bottom=0)
    if len(chart.lines) > 1:
        axes.legend(fontsize=7, frameon=False, ncols=1 + (len(chart.lines) > 4))
