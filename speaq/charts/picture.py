"""Charts as a picture, drawn by matplotlib: beside each other in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.ticker import StrMethodFormatter
from matplotlib.transforms import Bbox

from speaq.charts.chart import COLOURS, Bars, Chart, Line, Mark
from speaq.drawing import ShownFigure, drawing
from speaq.files.atomic import replaced
from speaq.plain_text import visible

COLUMNS = 3
WIDTH, HEIGHT = 4.6, 3.1  # of a chart, inches
DPI = 100
MARKED = ("published", "baseline", "best")  # kinds that stand out
AROUND = 4.0  # points around a mark that no name covers
# Places of a name beside its mark, those first that are read best: points to the right and up, and what lies there.
SPOTS = tuple(
    (across, up, ha, va)
    for far in (1.0, 2.6, 4.2)
    for across, up, ha, va in (
        (6, 4 * far, "left", "bottom"),
        (-6, 4 * far, "right", "bottom"),
        (6, -4 * far, "left", "top"),
        (-6, -4 * far, "right", "top"),
        (0, 7 * far, "center", "bottom"),
        (0, -7 * far, "center", "top"),
    )
)


def write(path: Path, charts: Sequence[Chart], title: str, *, dpi: int = DPI) -> None:
    """Writes the charts as PNG, in one step over an older one. Raises OSError."""
    with drawing(_texts(charts, title)), replaced(path) as temporary:
        _drawn(charts, title).savefig(temporary, format="png", dpi=dpi)


def write_bars(path: Path, bars: Bars, *, dpi: int = DPI) -> None:
    """Writes bars with their intervals as PNG, the first one on top. Raises OSError."""
    with drawing([bars.title, *(bar.name for bar in bars.bars)]), replaced(path) as temporary:
        figure = ShownFigure(figsize=(6.4, max(2.6, 1.4 + 0.34 * len(bars.bars))), layout="constrained")
        FigureCanvasAgg(figure)
        axes, shown = figure.subplots(), bars.bars[::-1]
        below = [0.0 if bar.low is None else max(0.0, bar.value - bar.low) for bar in shown]
        above = [0.0 if bar.high is None else max(0.0, bar.high - bar.value) for bar in shown]
        style: dict[str, Any] = {"color": COLOURS["c1"], "alpha": 0.75, "ecolor": "#16191d", "capsize": 3}
        axes.barh([visible(bar.name) for bar in shown], [bar.value for bar in shown], xerr=[below, above], **style)
        _dress(axes, bars.title, bars.x, "")
        figure.savefig(temporary, format="png", dpi=dpi)


def draw(charts: Sequence[Chart], title: str) -> ShownFigure:
    """The charts as a figure, which shows itself in a notebook."""
    with drawing(_texts(charts, title)):
        return _drawn(charts, title)


def _texts(charts: Sequence[Chart], title: str) -> list[str]:
    lines = [line.name for chart in charts for line in chart.lines]
    return [title, *(chart.title for chart in charts), *lines, *(mark.label for c in charts for mark in c.marks)]


def _drawn(charts: Sequence[Chart], title: str) -> ShownFigure:
    columns = min(COLUMNS, max(len(charts), 1))
    rows = -(-max(len(charts), 1) // columns)
    figure = ShownFigure(figsize=(WIDTH * columns, HEIGHT * rows + 0.4))
    FigureCanvasAgg(figure)
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
        _line(axes, line)
    for mark in chart.marks:
        size = 40 if mark.kind in MARKED else 22
        axes.scatter(
            [mark.x], [mark.y], s=size, color=COLOURS[mark.kind], marker="x" if mark.cross else "o", zorder=3, lw=1
        )
    _dress(axes, chart.title, f"{chart.x}   ({chart.about})" if chart.about else chart.x, chart.y)
    if chart.x.startswith("step") or chart.x == "trial":
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.get_major_locator().set_params(nbins=6, integer=True)
    if chart.x.startswith("step"):
        axes.set_xlim(left=0)
    if chart.from_zero and min((y for _, y in chart.points), default=0.0) >= 0:
        axes.set_ylim(bottom=0)
    listed = [line for line in chart.lines if line.listed]
    legend = None
    if len(listed) > 1 or (listed and chart.marks):
        legend = axes.legend(fontsize=7, frameon=False, ncols=1 + (len(listed) > 4))
    if any(mark.label for mark in chart.marks):
        _name(axes, chart.marks, [] if legend is None else [legend.get_window_extent()])


def _line(axes: Any, line: Line) -> None:
    wide = 2.0 if line.kind in MARKED and not line.stairs else 0.8 if line.kind == "other" else 1.3
    style: dict[str, Any] = {
        "color": COLOURS[line.kind],
        "linewidth": wide,
        "alpha": 0.6 if line.kind == "other" else 1.0,
    }
    style |= {"label": visible(line.name) if line.listed else "_"}  # what begins so, no legend has
    more = {"marker": "o", "markersize": 2.5} if line.dots or len(line.points) == 1 else {}
    axes.plot(*zip(*line.points, strict=True), drawstyle="steps-post" if line.stairs else None, **style, **more)


def _dress(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(visible(title), fontsize=10, loc="left")
    axes.set_xlabel(visible(x), fontsize=8)
    axes.set_ylabel(visible(y), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)


def _name(axes: Any, marks: Sequence[Mark], taken: list[Bbox]) -> None:
    """Names beside their marks, inside the plane, where they hide least; of other trials only where they hide nothing.

    Args:
        taken: what lies there besides, in pixels.
    """
    axes.margins(0.12)  # room for the names of marks at the edge
    axes.autoscale_view()  # matplotlib puts that off until it draws
    plane, point = axes.get_window_extent(), axes.figure.dpi / 72
    places = axes.transData.transform([(mark.x, mark.y) for mark in marks])
    taken += [Bbox.from_bounds(*(at - AROUND * point), *[2 * AROUND * point] * 2) for at in places]
    for mark in sorted((mark for mark in marks if mark.label), key=lambda mark: mark.kind == "other"):
        best, least = None, len(taken) + 1
        for across, up, ha, va in SPOTS:
            text = axes.annotate(
                visible(mark.label),
                (mark.x, mark.y),
                xytext=(across, up),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=7.5,
                color=COLOURS[mark.kind],
                zorder=4,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
            box = text.get_window_extent()
            inside = plane.x0 <= box.x0 and box.x1 <= plane.x1 and plane.y0 <= box.y0 and box.y1 <= plane.y1
            hidden = sum(map(box.overlaps, taken)) if inside else len(taken) + 1
            if hidden < least:
                if best is not None:
                    best.remove()
                best, least = text, hidden
            else:
                text.remove()
            if least == 0:
                break
        if best is not None and mark.kind == "other" and least:
            best.remove()
        elif best is not None:
            taken.append(best.get_window_extent())
