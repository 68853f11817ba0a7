"""Charts as SVG with a title and a legend, for pages that have `chart.css`. Every text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from speaq.charts.axis import Axis
from speaq.charts.chart import Bar, Bars, Chart, Line, Mark, Point
from speaq.plain_text import room, shown, visible

WIDTH, HEIGHT = 420.0, 264.0  # about the size at which a page shows it: letters are as large as they say
TOP, RIGHT, BOTTOM = 20.0, 12.0, 34.0  # around the plane
SIZE, LETTER = 11.0, 6.3  # of the font, and width of a letter
LONGEST = 0.6 * WIDTH  # name of a bar
ROW = 22.0  # of bars
X_MARKS, Y_MARKS = 6, 5


class Frame(NamedTuple):
    """A box in the drawing."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Frame) -> bool:
        """Whether two boxes have area in common."""
        across = min(self.x + self.width, other.x + other.width) > max(self.x, other.x)
        return across and min(self.y + self.height, other.y + other.height) > max(self.y, other.y)


class _Plane(NamedTuple):
    """Where the values of a chart are in its drawing."""

    x: Axis
    y: Axis
    frame: Frame

    def at(self, point: Point) -> Point:
        x, y = self.x.place(point[0]), self.y.place(point[1])
        return self.frame.x + x * self.frame.width, self.frame.y + (1 - y) * self.frame.height


def draw(chart: Chart | Bars) -> str:
    """A `<figure>` of the chart; a line says so where it has nothing to show."""
    if isinstance(chart, Bars):
        return _bars(chart)
    if not chart.points:
        return _figure(chart.title, chart.about, '<p class="quiet">Nothing to draw yet.</p>')
    plane = _plane(chart)
    parts = [*_grid(chart, plane), *(_line(line, plane) for line in chart.lines)]
    parts += [*(_mark(mark, plane) for mark in chart.marks), *_labels(chart.marks, plane)]
    said = f"{chart.title}: {chart.y} over {chart.x}"
    return _figure(chart.title, chart.about, _svg(said, HEIGHT, parts) + _legend(chart))


def _bars(bars: Bars) -> str:
    names = [_cut(bar.name) for bar in bars.bars]
    left = max(map(_width, names), default=0.0) + 8
    longest = [bar.value if bar.high is None else bar.high for bar in bars.bars]
    axis = Axis.over([0.0, *longest], 4, from_zero=True)
    frame = Frame(left, 4, WIDTH - left - RIGHT, ROW * len(bars.bars))
    plane = _Plane(axis, Axis(0, 1, 1), frame)
    parts = [part for mark in axis.marks for part in _x_mark(mark, plane)]
    for number, (bar, name) in enumerate(zip(bars.bars, names, strict=True)):
        parts.append(_bar(bar, name, plane, frame.y + ROW * (number + 0.5)))
    parts.append(_text(bars.x, frame.x + frame.width / 2, frame.y + frame.height + 30, "middle", "name"))
    return _figure(bars.title, bars.about, _svg(bars.title, frame.height + 40, parts))


def _figure(title: str, about: str, content: str) -> str:
    said = f'<p class="quiet">{escaped(about)}</p>' if about else ""
    return f'<figure class="chart"><figcaption>{escaped(title)}</figcaption>{content}{said}</figure>'


def _svg(about: str, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}"'
    return f'<svg {size} role="group" aria-label="{escaped(about)}">{"".join(parts)}</svg>'


def escaped(text: str) -> str:
    """Plain text for a page: no tags, and no characters that would turn the order of letters around."""
    return html.escape(visible(text))


def _plane(chart: Chart) -> _Plane:
    y = Axis.over((point[1] for point in chart.points), Y_MARKS, from_zero=chart.from_zero)
    left = max(len(y.text(mark)) for mark in y.marks or [y.low]) * LETTER + 8
    steps = chart.x.startswith("step")
    across = [*(point[0] for point in chart.points), *([0.0] if steps else [])]
    x = Axis.over(across, X_MARKS, from_zero=steps, whole=steps or chart.x == "trial")
    return _Plane(x, y, Frame(left, TOP, WIDTH - left - RIGHT, HEIGHT - TOP - BOTTOM))


def _grid(chart: Chart, plane: _Plane) -> Iterator[str]:
    frame = plane.frame
    for mark in plane.y.marks:
        y = plane.at((plane.x.low, mark))[1]
        yield f'<path class="rule" d="M{frame.x:.1f} {y:.1f}h{frame.width:.1f}"/>'
        yield _text(plane.y.text(mark), frame.x - 5, y + 3.5, "end")
    for mark in plane.x.marks:
        yield from _x_mark(mark, plane)
    yield _text(chart.x, frame.x + frame.width / 2, HEIGHT - 4, "middle", "name")
    yield _text(chart.y, frame.x, TOP - 8, "start", "name")


def _x_mark(mark: float, plane: _Plane) -> Iterator[str]:
    frame = plane.frame
    x = plane.at((mark, plane.y.low))[0]
    yield f'<path class="rule" d="M{x:.1f} {frame.y:.1f}v{frame.height:.1f}"/>'
    text = plane.x.text(mark)
    most = WIDTH - len(text) * LETTER / 2  # not beyond the drawing's edge
    yield _text(text, min(x, most), frame.y + frame.height + 14, "middle")


def _text(text: str, x: float, y: float, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def _linked(content: str, about: str, link: str, kind: str) -> str:
    """Something that says what it is under the pointer, and leads somewhere where it has a link."""
    inside = f"<title>{escaped(about)}</title>{content}"
    if not link:
        return f'<g class="{kind}">{inside}</g>'
    return f'<a class="{kind}" href="{html.escape(link)}" aria-label="{escaped(about)}">{inside}</a>'


def _line(line: Line, plane: _Plane) -> str:
    path = "".join(_path([plane.at(point) for point in run], line.stairs) for run in line.runs)
    content = f'<path class="stroke" d="{path}"/>'
    if line.link:
        content = f'<path class="hit" d="{path}"/>{content}'
    if line.dots:
        places = [plane.at(point) for run in line.runs for point in run]
        content += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in places)
    return _linked(content, line.name, line.link, f"line k-{line.kind}")


def _path(places: Sequence[Point], stairs: bool) -> str:
    (x, y), *rest = places
    steps = [f"H{x:.1f}V{y:.1f}" if stairs else f"L{x:.1f} {y:.1f}" for x, y in rest]
    return f"M{x:.1f} {y:.1f}" + ("".join(steps) or "h.01")


def _mark(mark: Mark, plane: _Plane) -> str:
    x, y = plane.at((mark.x, mark.y))
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'
    if mark.cross:
        shape = f'<path class="stroke" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>'
    area = f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
    return _linked(area + shape, mark.about, mark.link, f"point k-{mark.kind}")


def _labels(marks: Sequence[Mark], plane: _Plane) -> Iterator[str]:
    """Names beside their marks, where they hide least; those of other than references only where they hide nothing."""
    places = [plane.at((mark.x, mark.y)) for mark in marks]
    taken = [Frame(x - 5, y - 5, 10, 10) for x, y in places]
    named = sorted(
        (mark for mark in zip(marks, places, strict=True) if mark[0].label), key=lambda m: m[0].kind == "other"
    )
    for mark, (x, y) in named:
        width = len(mark.label) * LETTER
        spots = [
            (left, top)
            for top in (y - 6, y - 19, y + 7, y - 32, y + 20)
            for left in (x + 7, x - 7 - width, x - width / 2)
            if left >= plane.frame.x and left + width <= WIDTH and 0 <= top <= plane.frame.y + plane.frame.height - 12
        ]
        frames = [Frame(left, top, width, 12) for left, top in spots]
        hidden = [sum(map(frame.meets, taken)) for frame in frames]
        if not frames or (mark.kind == "other" and min(hidden)):
            continue
        best = frames[hidden.index(min(hidden))]
        taken.append(best)
        yield _text(mark.label, best.x, best.y + 10, "start", f"label k-{mark.kind}")


def _width(text: str) -> float:
    return SIZE * room(text, LETTER / SIZE)


def _cut(name: str) -> str:
    """As much of a name as leaves room for its bar; the whole is said under the pointer."""
    name = visible(name)
    if _width(name) <= LONGEST:
        return name
    while _width(f"{name}…") > LONGEST:
        name = name[:-1]
    return f"{name}…"


def _bar(bar: Bar, name: str, plane: _Plane, y: float) -> str:
    left, end = plane.frame.x, plane.at((bar.value, 0.0))[0]
    content = f'<rect x="{left:.1f}" y="{y - 7:.1f}" width="{max(end - left, 0.5):.1f}" height="14"/>'
    about = f"{bar.name}: {shown(bar.value)}"
    if bar.low is not None and bar.high is not None:
        low, high = (plane.at((number, 0.0))[0] for number in (bar.low, bar.high))
        ends = f"M{low:.1f} {y - 3:.1f}v6M{high:.1f} {y - 3:.1f}v6"
        content += f'<path class="ends" d="M{low:.1f} {y:.1f}H{high:.1f}{ends}"/>'
        about += f", 95 % from {shown(bar.low)} to {shown(bar.high)}"
    return _linked(content + _text(name, left - 6, y + 3.5, "end"), about, "", "bar k-c1")


def _legend(chart: Chart) -> str:
    """What each colour is, where the axis does not say so already."""
    listed = list({(line.name, line.kind): line for line in chart.lines if line.listed}.values())
    if not listed or (len(chart.lines) == 1 and listed[0].name == chart.y):
        return ""
    swatch = '<svg viewBox="0 0 20 8" aria-hidden="true"><path class="stroke" d="M1 4H19"/></svg>'
    keys = (f'<li class="k-{line.kind}">{swatch} {escaped(line.name)}</li>' for line in listed)
    return f'<ul class="kinds">{"".join(keys)}</ul>'
