"""Where the nodes of a drawn scene graph lie: related ones close to each other, no label over another."""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np
from numpy.typing import NDArray

from speaq.plain_text import room

HEIGHT = 5.0  # inches of each half of a picture
FONT = 9.0  # points
GRAPH = np.array((1.3, 1.0)) * HEIGHT * 72 * 0.95  # width and height of the graph's half, points
LETTER = 0.62  # width of a letter, in font sizes
LINE = 10.0  # height of a line of an arrow's words, points
CURVE = 12.0  # by which arrows and their words may bend outwards, points

FloatArray = NDArray[np.float64]


def layout(graph: networkx.MultiDiGraph, names: Sequence[str], size: FloatArray = GRAPH) -> FloatArray:
    """[nodes, 2] points (1/72 inch) within `size` [2]: related nodes are close, and no label hides another one.

    Kamada and Kawai's layout of every connected part, the parts on shelves, labels then pushed apart, those of related
    nodes so far that an arrow's words, each on a line of their own, lie between them (`words` of an edge).
    """
    places = np.zeros((len(names), 2))
    left, bottom, shelf = 0.0, 0.0, 0.0
    most = 1.6 * len(names) ** 0.5
    for part in sorted(networkx.weakly_connected_components(graph), key=len, reverse=True):
        undirected = networkx.Graph(graph.subgraph(part).to_undirected())
        spots = networkx.kamada_kawai_layout(undirected, scale=len(part) ** 0.5 / 2)
        nodes, points = list(spots), np.array(list(spots.values()))
        points -= points.min(axis=0)
        width, height = points.max(axis=0) + 1.0
        if left and left + width > most:
            left, bottom, shelf = 0.0, bottom + shelf, 0.0
        places[nodes] = points + np.array((left, bottom))
        left, shelf = left + width, max(shelf, height)
    sizes = np.array([(label_width(name), 2.4 * FONT) for name in names])
    return _apart(_fitted(places, sizes / 2 + CURVE, size), sizes * (1.0, 1.5), _room(graph, len(names)), size)


def label_width(name: str) -> float:
    """Points, with the margin around the letters."""
    return FONT * room(name, LETTER) + 10


def _room(graph: networkx.MultiDiGraph, num_nodes: int) -> FloatArray:
    """[n, n, 2] width and height that the words between two nodes need, 0 where there are none."""
    found = np.zeros((num_nodes, num_nodes, 2))
    for start, end, words in graph.edges(data="words", default=()):
        if words and start != end:
            needed = (FONT * max(room(word, LETTER) for word in words), LINE * len(words))
            width, height = found[start, end]  # of the words of the other direction
            found[start, end] = found[end, start] = max(width, needed[0]), height + needed[1]
    return found


def _fitted(places: FloatArray, margins: FloatArray, size: FloatArray) -> FloatArray:
    """Stretched so that all labels just lie within the size; centred where there is no extent."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    share = np.where(high > low, (places - low) / extent, 0.5)
    margin = margins.max(axis=0)
    fitted: FloatArray = margin + share * np.maximum(size - 2 * margin, 1.0)
    return fitted


def _apart(places: FloatArray, sizes: FloatArray, room: FloatArray, size: FloatArray, rounds: int = 300) -> FloatArray:
    """Moves labels that are too close away from each other for a while: in the direction that needs less, then upright.

    A row of labels that is wider than the picture comes apart by the latter alone.
    """
    wanted = (sizes[:, None] + sizes[None]) / 2 + room  # [n, n, 2] distance in x or y at which two labels are free
    order = np.arange(len(places))
    for turn in range(rounds):
        gap = places[:, None] - places[None]  # [n, n, 2]
        missing = wanted - np.abs(gap)
        bad = (missing > 0).all(axis=2) & (order[:, None] != order)
        if not bad.any():
            break
        sign = np.where(gap == 0, np.sign(order[:, None] - order)[..., None], np.sign(gap))
        upright = turn > rounds / 2
        axis = (np.ones_like(bad, dtype=int) if upright else missing.argmin(axis=2))[..., None] == np.arange(2)
        places = places + (np.where(axis & bad[..., None], missing, 0.0) * sign).sum(axis=1) * 0.3
        places = np.clip(places, sizes / 2, np.maximum(size - sizes / 2, sizes / 2))
    return places
