"""An image's ground truth, and its prediction, as boxes, triplets and a drawn graph: what the template fills in.

Statuses: `hit` (a triplet that finds a ground-truth row, or a row that is found), `wrong` (both boxes and classes are
found, the predicate is not), `missed` (a row whose pair is not found), `extra` (a triplet on no ground-truth pair),
`plain` (nothing to compare with).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx
import numpy as np
from numpy.typing import NDArray

from speaq.evaluation.table import NEVER
from speaq.explore.judgement import ImageJudgement
from speaq.explore.labels import Spot, place_labels
from speaq.prediction.layout import FONT, GRAPH, label_width, layout
from speaq.prediction.scene import Thing, distinct_names
from speaq.structures import FloatArray, IntArray, SceneGraph, ScenePrediction, Vocabulary

Point = NDArray[np.float64]  # [2] x and y in the graph
NODE_HEIGHT = 34.0  # points of the graph's height for each node, where there are many
ORDER = ("hit", "wrong", "missed", "extra", "plain")  # a box has the first status that its triplets have


@dataclass(frozen=True)
class Box:
    """A box with its label, in pixels of the photo."""

    number: int
    name: str  # with a number where a class occurs more than once
    status: str
    x: float
    y: float
    width: float
    height: float
    label: Spot


@dataclass(frozen=True)
class Line:
    """A triplet; `subject` and `object` are numbers of boxes."""

    number: int
    subject: int
    predicate: str
    object: int
    status: str
    detail: str  # how it was found, or its score
    partner: int | None  # number of the triplet in the other panel that it belongs to
    score: float | None = None  # of a predicted one


@dataclass(frozen=True)
class Edge:
    """An arrow of the graph with the triplets that it stands for."""

    lines: tuple[Line, ...]
    path: str  # of SVG
    head: str  # points of the arrow's head
    x: float  # of the words
    y: float


@dataclass(frozen=True)
class Node:
    """A label of the graph, by its centre."""

    number: int
    name: str
    status: str
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Panel:
    """One half of the page."""

    key: str  # truth or guess: begins the ids of its elements
    size_hw: tuple[int, int]
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    graph_height: float  # points; the width is that of layout.GRAPH
    unit: float  # of the photo's drawing: a 640th of its longest side, pixels

    @property
    def names(self) -> dict[int, str]:
        """Number of a box → its name, such as `man 2`."""
        return {box.number: box.name for box in self.boxes}


def truth_panel(graph: SceneGraph, judged: ImageJudgement | None, vocabulary: Vocabulary, k: int) -> Panel:
    """Ground truth; every box, every distinct relation. `judged` says which of them the best k triplets find."""
    _, first = np.unique(graph.relations, axis=0, return_index=True)
    lines = []
    for number, row in enumerate(np.sort(first).tolist()):
        subject, object_, predicate = graph.relations[row].tolist()
        status, detail, partner = _fate(judged, row, vocabulary, k)
        triplet = (subject, vocabulary.predicates[predicate], object_)
        lines.append(Line(number, *triplet, status=status, detail=detail, partner=partner))
    return _panel("truth", graph.size_hw, graph.boxes_xyxy, graph.classes, lines, vocabulary)


def _fate(judged: ImageJudgement | None, row: int, vocabulary: Vocabulary, k: int) -> tuple[str, str, int | None]:
    """Status, detail and partner of a ground-truth row."""
    if judged is None:
        return "plain", "", None
    rank, pair_rank = int(judged.rank[row]), int(judged.pair_rank[row])
    if rank < k:
        return "hit", f"found, rank {rank + 1}", rank
    later = f"; found at rank {rank + 1}" if rank < NEVER else ""
    if pair_rank < k:
        said = vocabulary.predicates[int(judged.predicates[pair_rank])]
        return "wrong", f"said: {said}, rank {pair_rank + 1}{later}", pair_rank
    return "missed", f"missed{later}", None


def guess_panel(
    graph: SceneGraph, prediction: ScenePrediction, judged: ImageJudgement, vocabulary: Vocabulary, k: int
) -> Panel:
    """The best k predicted triplets and the boxes in them."""
    pairs = judged.pairs[:k]
    used, number = np.unique(pairs, return_inverse=True)
    number = number.reshape(pairs.shape)
    rows = _finders(graph, judged)
    lines = []
    for place in range(len(pairs)):
        subject, object_ = (int(end) for end in number[place])
        status = "hit" if judged.hit[place] else "wrong" if judged.near[place] else "extra"
        score = float(judged.scores[place])
        triplet = (subject, vocabulary.predicates[int(judged.predicates[place])], object_)
        said = f"score {score:.3f}"
        lines.append(Line(place, *triplet, status=status, detail=said, partner=rows.get(place), score=score))
    height, width = graph.size_hw
    boxes = prediction.boxes_xyxy[used].clip(0, (width, height, width, height))
    return _panel("guess", graph.size_hw, boxes, prediction.classes[used], lines, vocabulary)


def _finders(graph: SceneGraph, judged: ImageJudgement) -> dict[int, int]:
    """Place of a predicted triplet → number of the ground-truth line that it finds first."""
    _, first = np.unique(graph.relations, axis=0, return_index=True)
    found = {int(judged.rank[row]): number for number, row in enumerate(np.sort(first).tolist())}
    near = {int(judged.pair_rank[row]): number for number, row in enumerate(np.sort(first).tolist())}
    return near | found


def _panel(
    key: str,
    size_hw: tuple[int, int],
    boxes: FloatArray,
    classes: IntArray,
    lines: Sequence[Line],
    vocabulary: Vocabulary,
) -> Panel:
    things = [
        Thing(vocabulary.objects[c], c, 1.0, tuple(b)) for c, b in zip(classes.tolist(), boxes.tolist(), strict=True)
    ]
    names = distinct_names(things)
    statuses = [_status_of_box(number, lines) for number in range(len(names))]
    unit = max(size_hw) / 640
    labels = place_labels(boxes.tolist(), names, size_hw, unit)
    drawn = tuple(
        Box(number, name, status, x=x1, y=y1, width=x2 - x1, height=y2 - y1, label=label)
        for number, (name, status, (x1, y1, x2, y2), label) in enumerate(
            zip(names, statuses, boxes.tolist(), labels, strict=True)
        )
    )
    height = max(GRAPH[1], NODE_HEIGHT * len({end for line in lines for end in (line.subject, line.object)}))
    nodes, edges = _drawn_graph(names, statuses, lines, height)
    return Panel(
        key=key,
        size_hw=size_hw,
        boxes=drawn,
        lines=tuple(lines),
        nodes=nodes,
        edges=edges,
        graph_height=height,
        unit=unit,
    )


def _status_of_box(number: int, lines: Sequence[Line]) -> str:
    statuses = {line.status for line in lines if number in (line.subject, line.object)}
    return next((status for status in ORDER if status in statuses), "plain")


def _drawn_graph(
    names: Sequence[str], statuses: Sequence[str], lines: Sequence[Line], height: float
) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
    """Nodes that occur in a triplet, laid out as in the pictures of `speaq predict`."""
    used = sorted({end for line in lines for end in (line.subject, line.object)})
    if not used:
        return (), ()
    place = {box: row for row, box in enumerate(used)}
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(len(used)))
    of_pair: dict[tuple[int, int], list[Line]] = {}
    for line in lines:
        of_pair.setdefault((line.subject, line.object), []).append(line)
    for (subject, object_), some in of_pair.items():
        graph.add_edge(place[subject], place[object_], words=[line.predicate for line in some])
    spots = layout(graph, [names[box] for box in used], np.array((GRAPH[0], height)))
    nodes = {
        box: Node(box, names[box], statuses[box], float(x), float(height - y), label_width(names[box]))
        for box, (x, y) in zip(used, spots.tolist(), strict=True)
    }
    edges = [_edge(nodes[subject], nodes[object_], some) for (subject, object_), some in of_pair.items()]
    return tuple(nodes.values()), tuple(edges)


def _edge(start: Node, end: Node, lines: Sequence[Line]) -> Edge:
    """A bent arrow between the edges of two labels, so that two directions of a pair part; a loop for one to itself."""
    ordered = tuple(sorted(lines, key=lambda line: ORDER.index(line.status)))
    if start.number == end.number:
        x, y = start.x, start.y - FONT * 1.2
        path = f"M{x - 8:.1f} {y:.1f} C{x - 22:.1f} {y - 30:.1f} {x + 22:.1f} {y - 30:.1f} {x + 8:.1f} {y:.1f}"
        return Edge(ordered, path, _head(np.array((x + 8, y)), np.array((-0.45, 0.9))), x, y - 26)
    a, b = np.array((start.x, start.y)), np.array((end.x, end.y))
    along = b - a
    middle = (a + b) / 2 + np.array((-along[1], along[0])) * 0.1
    a, b = _border(start, middle), _border(end, middle)
    path = f"M{a[0]:.1f} {a[1]:.1f} Q{middle[0]:.1f} {middle[1]:.1f} {b[0]:.1f} {b[1]:.1f}"
    words = 0.25 * a + 0.5 * middle + 0.25 * b
    return Edge(ordered, path, _head(b, b - middle), float(words[0]), float(words[1]))


def _border(node: Node, towards: Point) -> Point:
    """Where the line from a label's centre leaves it."""
    centre = np.array((node.x, node.y))
    gap = towards - centre
    reach = np.array((node.width / 2 + 3, FONT * 1.2))
    with np.errstate(divide="ignore"):
        share = float((reach / np.abs(gap)).min())
    border: Point = centre + gap * min(share, 1.0)
    return border


def _head(tip: Point, direction: Point) -> str:
    length = float(np.hypot(*direction)) or 1.0
    back = tip - direction / length * 8
    side = np.array((-direction[1], direction[0])) / length * 3.5
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, back + side, back - side))
