"""The photo with its boxes beside the drawn graph, as PNG or SVG, in colours that colour-blind people tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import networkx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea, VPacker
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from speaq.data.images import read_photo
from speaq.drawing import ShownFigure, drawing
from speaq.plain_text import visible
from speaq.prediction.choice import worth_drawing
from speaq.prediction.layout import FONT, GRAPH, HEIGHT, layout
from speaq.prediction.palette import colour, letters, line
from speaq.prediction.places import Box, everywhere, free_place, inside
from speaq.prediction.scene import Scene, Triplet, distinct_names

DPI = 150  # dots per inch of a PNG
FINEST = 800  # pixels of the shortest side of a large photo: a PNG shows 750
LARGE = 4_000_000  # pixels above which matplotlib would take long, and a hundred bytes for each
BEND = 0.12  # of arrows, in their lengths
LOOP = 12.0  # half the width of an arrow from a thing to itself, points
ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74)  # of an arrow: where its words may lie
ASIDE = (0.0, 10.0, -10.0, 20.0, -20.0, 32.0, -32.0)  # of it, points
MOST_BARE = 0.4  # share of the graph's half that is used at least
GREY = "#555555"

FloatArray = NDArray[np.float64]


def draw(scene: Scene, path: Path, *, threshold: float | None = None, loops: bool = False) -> None:
    """Writes what is worth drawing (see `worth_drawing`) in the format of the file's name: .png or .svg.

    Raises DataError where the photo is gone.
    """
    with drawing(scene.words()):
        # Nothing of the time goes into the file: equal input, equal bytes.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure(scene, threshold=threshold, loops=loops).savefig(path, dpi=DPI, metadata=metadata)


def figure(scene: Scene, *, threshold: float | None = None, loops: bool = False) -> ShownFigure:
    """The same as a figure of matplotlib."""
    choice = worth_drawing(scene, threshold, loops=loops)
    with drawing(scene.words()):
        widths = _widths(scene.size_hw)
        made = ShownFigure(figsize=(sum(widths), HEIGHT), layout="constrained", dpi=DPI)
        FigureCanvasAgg(made)
        photo, graph = made.subplots(1, 2, width_ratios=widths)
        names = [visible(name) for name in distinct_names(choice.scene.things)]
        graph.set_title(choice.said, fontsize=FONT - 1, color=GREY, loc="left")
        graph.set_axis_off()
        graph.set(xlim=(0, GRAPH[0]), ylim=(0, GRAPH[1]), aspect="equal")
        _draw_photo(photo, choice.scene, names)
        if choice.scene.triplets:
            _draw_graph(graph, choice.scene, names)
    return made


def _widths(size_hw: tuple[int, int]) -> tuple[float, float]:
    """Inches of photo and graph; the graph stays readable beside a narrow photo."""
    aspect = min(max(size_hw[1] / size_hw[0], 0.5), 2.0)
    return HEIGHT * aspect, HEIGHT * 1.3


def _style(number: int, **box: Any) -> dict[str, Any]:
    """Of the label of a thing, in the photo and in the graph."""
    ground = colour(number)
    return {"color": letters(ground), "fontsize": FONT, "bbox": {"facecolor": ground, "edgecolor": "none", **box}}


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
        place: dict[str, Any] = {"xy": (left, top), "width": right - left, "height": bottom - top, "fill": False}
        axes.add_patch(Rectangle(**place, edgecolor="white", linewidth=3))
        axes.add_patch(Rectangle(**place, edgecolor=colour(number), linewidth=1.7, linestyle=line(number)))
        label = axes.text(left, top, name, va="bottom", ha="left", zorder=4, **_style(number, pad=1.5))
        labels.append((label, thing.box_xyxy))
    _place(axes, labels, scene.size_hw)


def _place(axes: Axes, labels: Sequence[tuple[Text, tuple[float, ...]]], size_hw: tuple[int, int]) -> None:
    """Moves labels to a corner of their box where they hide no earlier one, else anywhere near, with a line to it."""
    owner: Any = axes.figure
    owner.canvas.draw()
    taken: list[Box] = []
    to_data = axes.transData.inverted()
    bounds = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    for number, (label, box) in enumerate(labels):
        extent = label.get_window_extent().transformed(to_data)
        size = abs(extent.width) * 1.08, abs(extent.height) * 1.35
        corners = (inside((x, y, x + size[0], y + size[1]), bounds) for x, y in _corners(box, size))
        place = free_place(chain(corners, everywhere(size, bounds, (box[0], box[1]))), taken)
        taken.append(place)
        label.set_verticalalignment("top")
        label.set_position((place[0] + 0.04 * size[0], place[1] + 0.13 * size[1]))
        if not _touch(place, box):
            ends = zip(((place[0] + place[2]) / 2, (place[1] + place[3]) / 2), (box[0], box[1]), strict=True)
            axes.plot(*ends, color=colour(number), linewidth=1, zorder=3)


def _corners(box: tuple[float, ...], size: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """Where a label of a box begins: outside and inside of its corners, then down its sides."""
    left, top, right, bottom = box
    width, height = size
    for y in (top - height, top):
        yield left, y
        yield right - width, y
    for x in (left, right - width):
        yield x, bottom
        yield x, bottom - height
    for step in range(1, 8):
        yield left, top + step * height
        yield right - width, top + step * height


def _touch(place: Box, box: tuple[float, ...]) -> bool:
    reach = 0.5 * (place[3] - place[1])
    return (
        place[0] <= box[2] + reach
        and place[2] >= box[0] - reach
        and place[1] <= box[3] + reach
        and place[3] >= box[1] - reach
    )


def _draw_graph(axes: Axes, scene: Scene, names: Sequence[str]) -> None:
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(len(names)))
    pairs: dict[tuple[int, int], list[Triplet]] = {}
    for triplet in scene.triplets:
        pairs.setdefault((triplet.subject, triplet.object), []).append(triplet)
    for (subject, object_), said in pairs.items():  # an arrow for a pair, with all that is said of it
        graph.add_edge(subject, object_, words=[f"{visible(t.predicate)} {t.score:.2f}" for t in said], said=said)
    room = min(1.0, max(len(names) / 8, MOST_BARE) ** 0.5)  # few things need no long arrows
    spots = layout(graph, names, GRAPH * room) + GRAPH * (1 - room) / 2
    labels = [
        axes.text(x, y, name, ha="center", va="center", zorder=3, **_style(number, boxstyle="round,pad=0.35"))
        for number, ((x, y), name) in enumerate(zip(spots.tolist(), names, strict=True))
    ]
    owner: Any = axes.figure
    owner.canvas.draw()  # gives the labels their size, where arrows end
    to_data = axes.transData.inverted()
    grounds: list[Any] = [label.get_bbox_patch() for label in labels]
    taken = [_box(ground.get_window_extent().transformed(to_data)) for ground in grounds]
    for subject, object_, said in graph.edges(data="said"):
        path = _draw_arrow(axes, labels[subject], labels[object_])
        _draw_words(axes, said, path, taken)


def _box(extent: Any) -> Box:
    return extent.x0, extent.y0, extent.x1, extent.y1


def _draw_arrow(axes: Axes, subject: Text, object_: Text) -> FloatArray:
    """A bent arrow, so that the two directions of a pair part. Returns [3, 2] the points of its curve."""
    start, end, bend = np.array(subject.get_position()), np.array(object_.get_position()), BEND
    ends: dict[str, Any] = {"patchA": subject.get_bbox_patch(), "patchB": object_.get_bbox_patch()}
    if subject is object_:
        start, end, bend, ends = start + np.array((-LOOP, FONT)), end + np.array((LOOP, FONT)), -2.0, {}
    style = {"arrowstyle": "-|>", "color": GREY, "connectionstyle": f"arc3,rad={bend}", "mutation_scale": 12}
    arrow = {**style, "shrinkA": 0, "shrinkB": 2, **ends}
    axes.annotate("", (end[0], end[1]), (start[0], start[1]), zorder=1, arrowprops=arrow)
    along = end - start
    return np.array((start, (start + end) / 2 + bend * np.array((along[1], -along[0])), end))


def _draw_words(axes: Axes, said: Sequence[Triplet], path: FloatArray, taken: list[Box]) -> None:
    """What is said of a pair, a line for each predicate with its score, where it hides no label and no other words."""
    style: dict[str, Any] = {"fontsize": FONT - 1}
    lines: list[Any] = [
        HPacker(
            children=[TextArea(visible(t.predicate), textprops=style), TextArea(f"{t.score:.2f}", textprops=_score())],
            align="baseline",
            pad=0,
            sep=3,
        )
        for t in said
    ]
    ground = {"facecolor": "white", "edgecolor": "none", "boxstyle": "square,pad=0.1"}
    words = AnnotationBbox(
        VPacker(children=lines, align="center", pad=0, sep=1), (0, 0), pad=0.1, bboxprops=ground, zorder=2
    )
    axes.add_artist(words)
    owner: Any = axes.figure
    extent = words.get_window_extent(owner.canvas.get_renderer()).transformed(axes.transData.inverted())
    place = free_place(_along(path, (extent.width, extent.height)), taken)
    taken.append(place)
    words.xy = words.xybox = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2


def _score() -> dict[str, Any]:
    return {"fontsize": FONT - 2, "color": GREY}


def _along(path: FloatArray, size: tuple[float, float]) -> Iterator[Box]:
    """Places on a curve of [3, 2] points, its middle first, then beside it, all within the graph's half."""
    start, bent, end = path
    across = np.array((start[1] - end[1], end[0] - start[0])) / max(float(np.linalg.norm(end - start)), 1e-9)
    for aside in ASIDE:
        for part in ALONG:
            x, y = (1 - part) ** 2 * start + 2 * part * (1 - part) * bent + part**2 * end + aside * across
            place = (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)
            yield inside(place, (0.0, 0.0, float(GRAPH[0]), float(GRAPH[1])))
