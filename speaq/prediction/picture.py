"""The photo with its boxes beside the drawn graph, as PNG or SVG, in colours that colour-blind people tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from speaq.data.images import read_photo
from speaq.drawing import drawing
from speaq.plain_text import visible
from speaq.prediction.layout import FONT, GRAPH, HEIGHT, layout
from speaq.prediction.scene import Scene, distinct_names

# Okabe and Ito's palette (2008), without its yellow, which is unreadable on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DARK_TEXT = ("#E69F00", "#56B4E9", "#CC79A7")  # too light for white letters
DPI = 150  # dots per inch of a PNG
FINEST = 800  # pixels of the shortest side of a large photo: a PNG shows 750
LARGE = 4_000_000  # pixels above which matplotlib would take long, and a hundred bytes for each
BEND = 0.12  # of arrows, in their lengths
LOOP = 12.0  # half the width of an arrow from a thing to itself, points
DRAWN = 10  # triplets of a picture: more make it unreadable

FloatArray = NDArray[np.float64]


def draw(scene: Scene, path: Path) -> None:
    """Writes the best `DRAWN` triplets in the format of the file's name: .png or .svg.

    Raises DataError where the photo is gone.
    """
    scene = scene.first(DRAWN)
    # Nothing of the time goes into the file: equal input, equal bytes.
    with drawing(scene.words()):
        widths = _widths(scene.size_hw)
        figure = Figure(figsize=(sum(widths), HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        photo, graph = figure.subplots(1, 2, width_ratios=widths)
        names = [visible(name) for name in distinct_names(scene.things)]
        _draw_photo(photo, scene, names)
        _draw_graph(graph, scene, names)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=DPI, metadata=metadata)


def _widths(size_hw: tuple[int, int]) -> tuple[float, float]:
    """Inches of photo and graph; the graph stays readable beside a narrow photo."""
    aspect = min(max(size_hw[1] / size_hw[0], 0.5), 2.0)
    return HEIGHT * aspect, HEIGHT * 1.3


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _style(number: int, **box: Any) -> dict[str, Any]:
    """Of the label of a thing, in the photo and in the graph."""
    colour = _colour(number)
    letters = "black" if colour in DARK_TEXT else "white"
    return {"color": letters, "fontsize": FONT, "bbox": {"facecolor": colour, "edgecolor": "none", **box}}


def _draw_photo(axes: Axes, scene: Scene, names: Sequence[str]) -> None:
    source = scene.image if scene.source is None else scene.source
    assert source is not None, "a prediction has a file or what it was made from"
    height, width = scene.size_hw
    pixels = read_photo(source, FINEST, large=LARGE).pixels
    axes.imshow(pixels, interpolation="antialiased", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_axis_off()
    labels = []
    for number, (thing, name) in enumerate(zip(scene.things, names, strict=True)):
        left, top, right, bottom = thing.box_xyxy
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=3))
        box = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=_colour(number), linewidth=1.7)
        axes.add_patch(box)
        label = axes.text(left, top, name, va="bottom", ha="left", **_style(number, pad=1.5))
        labels.append((label, thing.box_xyxy))
    _place(axes, labels, scene.size_hw)


def _place(axes: Axes, labels: Sequence[tuple[Text, tuple[float, ...]]], size_hw: tuple[int, int]) -> None:
    """Moves labels to the first corner of their box, outside then inside, where they hide least of the earlier ones."""
    figure: Any = axes.figure
    figure.canvas.draw()
    taken: list[Bbox] = []
    to_data = axes.transData.inverted()
    for label, (left, top, right, bottom) in labels:
        extent = label.get_window_extent().transformed(to_data)
        width, height = abs(extent.width) * 1.08, abs(extent.height) * 1.35
        corners = [(left, top - height), (left, top), (right - width, top - height), (right - width, top)]
        corners += [(left, bottom), (left, bottom - height), (right - width, bottom), (right - width, bottom - height)]
        corners += [(x, top + step * height) for step in range(1, 8) for x in (left, right - width)]
        places = [_inside(corner, width, height, size_hw) for corner in corners]
        place = min(places, key=lambda place: sum(_shared(place, other) for other in taken))
        taken.append(place)
        label.set_verticalalignment("top")
        label.set_position((place.x0 + 0.04 * width, place.y0 + 0.13 * height))


def _shared(one: Bbox, other: Bbox) -> float:
    """Area that two rectangles have in common."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)


def _inside(corner: tuple[float, float], width: float, height: float, size_hw: tuple[int, int]) -> Bbox:
    left = min(max(corner[0], 0.0), max(size_hw[1] - width, 0.0))
    top = min(max(corner[1], 0.0), max(size_hw[0] - height, 0.0))
    return Bbox.from_bounds(left, top, width, height)


def _draw_graph(axes: Axes, scene: Scene, names: Sequence[str]) -> None:
    axes.set_axis_off()
    if not scene.triplets:
        axes.text(0.5, 0.5, "no triplet", ha="center", va="center", fontsize=FONT, transform=axes.transAxes)
        return
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(len(names)))
    predicates: dict[tuple[int, int], list[str]] = {}
    for triplet in scene.triplets:
        predicates.setdefault((triplet.subject, triplet.object), []).append(visible(triplet.predicate))
    for (subject, object_), words in predicates.items():  # an arrow for a pair, with all that is said of it
        graph.add_edge(subject, object_, words=[", ".join(words)])
    spots = layout(graph, names)
    axes.set(xlim=(0, GRAPH[0]), ylim=(0, GRAPH[1]), aspect="equal")
    labels = [
        axes.text(x, y, name, ha="center", va="center", zorder=3, **_style(number, boxstyle="round,pad=0.35"))
        for number, ((x, y), name) in enumerate(zip(spots.tolist(), names, strict=True))
    ]
    figure: Any = axes.figure
    figure.canvas.draw()  # gives the labels their size, where arrows end
    for subject, object_, text in graph.edges(data="words"):
        _draw_arrow(axes, labels[subject], labels[object_], text[0])


def _draw_arrow(axes: Axes, subject: Text, object_: Text, words: str) -> None:
    """A bent arrow, so that the two directions of a pair part, with its words on the middle of it."""
    start, end, bend = np.array(subject.get_position()), np.array(object_.get_position()), BEND
    ends: dict[str, Any] = {"patchA": subject.get_bbox_patch(), "patchB": object_.get_bbox_patch()}
    if subject is object_:
        start, end, bend, ends = start + np.array((-LOOP, FONT)), end + np.array((LOOP, FONT)), -2.0, {}
    line = {"arrowstyle": "-|>", "color": "#555555", "connectionstyle": f"arc3,rad={bend}", "mutation_scale": 12}
    arrow = {**line, "shrinkA": 0, "shrinkB": 2, **ends}
    axes.annotate("", (end[0], end[1]), (start[0], start[1]), zorder=1, arrowprops=arrow)
    along = end - start
    x, y = (start + end) / 2 + bend / 2 * np.array((along[1], -along[0]))
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    axes.text(x, y, words, ha="center", va="center", fontsize=FONT - 1, zorder=2, bbox=ground)
