"""Where the nodes of a drawn scene graph lie: related ones close to each other, no label over another."""

from __future__ import annotations

from collections.abc import Sequence

import networkx
import numpy as np
from numpy.typing import NDArray

HEIGHT = 5.0  # inches of each half of a picture
FONT = 9.0  # points
GRAPH = np.array((1.3, 1.0)) * HEIGHT * 72 * 0.95  # width and height of the graph's half, points
CURVE = 12.0  # by which arrows and their words may bend outwards, points

FloatArray = NDArray[np.float64]


def layout(graph: networkx.MultiDiGraph, names: Sequence[str]) -> FloatArray:
    """[nodes, 2] points (1/72 inch) in the graph's half: related nodes are close, and no label hides another one.

    Kamada and Kawai's layout of every connected part, the parts on shelves, labels then pushed apart.
    """
    places = np.zeros((len(names), 2))
    left, bottom, shelf = 0.0, 0.0, 0.0
    room = 1.6 * len(names) ** 0.5
    for part in sorted(networkx.weakly_connected_components(graph), key=len, reverse=True):
        undirected = networkx.Graph(graph.subgraph(part).to_undirected())
        spots = networkx.kamada_kawai_layout(undirected, scale=len(part) ** 0.5 / 2)
        nodes, points = list(spots), np.array(list(spots.values()))
        points -= points.min(axis=0)
        width, height = points.max(axis=0) + 1.0
        if left and left + width > room:
            left, bottom, shelf = 0.0, bottom + shelf, 0.0
        places[nodes] = points + np.array((left, bottom))
        left, shelf = left + width, max(shelf, height)
    sizes = np.array([(0.62 * FONT * len(name) + 10, 2.4 * FONT) for name in names])
    return _apart(_fitted(places, sizes / 2 + CURVE), sizes * (1.0, 1.5))


def _fitted(places: FloatArray, margins: FloatArray) -> FloatArray:
    """Stretched so that all labels just lie within the graph's half; centred where there is no extent."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = np.where(high > low, high - low, 1.0)
    share = np.where(high > low, (places - low) / extent, 0.5)
    margin = margins.max(axis=0)
    fitted: FloatArray = margin + share * np.maximum(GRAPH - 2 * margin, 1.0)
    return fitted


def _apart(places: FloatArray, sizes: FloatArray, rounds: int = 300) -> FloatArray:
    """Moves overlapping labels away from each other, in the direction that needs less, for a while."""
    wanted = (sizes[:, None] + sizes[None]) / 2  # [n, n, 2] distance in x or y at which two labels are free
    order = np.arange(len(places))
    for _ in range(rounds):
        gap = places[:, None] - places[None]  # [n, n, 2]
        missing = wanted - np.abs(gap)
        bad = (missing > 0).all(axis=2) & (order[:, None] != order)
        if not bad.any():
            break
        sign = np.where(gap == 0, np.sign(order[:, None] - order)[..., None], np.sign(gap))
        axis = missing.argmin(axis=2)[..., None] == np.arange(2)
        places = places + (np.where(axis & bad[..., None], missing, 0.0) * sign).sum(axis=1) * 0.3
        places = np.clip(places, sizes / 2, np.maximum(GRAPH - sizes / 2, sizes / 2))
    return places
