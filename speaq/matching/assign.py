"""Linear assignment of queries to repeated relations, on the host (method section 6).

Letters: L layers, B images, T ground-truth rows of all images, R queries, G groups, S matched pairs.
Images and layers do not interact; inside an image the groups are separate blocks unless one has more repeated rows than
queries. A block is an independent problem, so a large batch is solved on several threads (SciPy releases the GIL).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from speaq.structures import FloatArray, IntArray

OUTSIDE_COST = 1e6  # added where the query is of another group than the row; the reference's number (golden G2)
PARALLEL_FROM = 500_000  # cost entries to solve, from which threads pay for themselves


@dataclass(frozen=True)
class Blocks:
    """Which group every row belongs to, and which queries every group owns."""

    group_of_row: IntArray  # [T]
    bounds: tuple[int, ...]  # [G+1] first query of every group, and R

    @property
    def group_of_query(self) -> IntArray:
        """[R]"""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


def outside_cost(group_of_row: IntArray, blocks: Blocks) -> NDArray[np.float64]:
    """[T'] groups of some rows → [T', R] cost that the group mask adds, once even where layers are summed."""
    return np.where(group_of_row[:, None] != blocks.group_of_query, OUTSIDE_COST, 0.0)


def assign(cost: FloatArray, repeats: IntArray, image_of_row: IntArray, blocks: Blocks) -> IntArray:
    """Finds the cheapest matching of every layer and image, every row repeated.

    Args:
        cost: [L, T, R] finite, without the group mask.
        repeats: [L, T] at least 1.
        image_of_row: [T] ascending.
        blocks: groups of rows and queries; a query outside a row's group costs 1e6 more. Its rows may be more than its
            queries: the surplus goes to other groups at the lowest cost, and beyond R queries it stays unmatched.
    Returns:
        [3, S] (layer, row, query) sorted by (layer, image, query); a query occurs once for a layer and image, a row at
        most as often as it is repeated. Which of equally cheap matchings is taken, is the solver's choice.
    """
    num_layers, num_rows, num_queries = cost.shape
    order = np.lexsort((blocks.group_of_row, image_of_row))
    flat_rows = np.arange(num_layers * num_rows).reshape(num_layers, num_rows)[:, order].ravel()
    copies = np.repeat(flat_rows, repeats[:, order].ravel())  # flat (layer, row), sorted by layer, image, group
    layer, row = np.divmod(copies, max(num_rows, 1))
    problem = layer * (image_of_row.max(initial=0) + 1) + image_of_row[row]
    tasks = _tasks(problem, blocks.group_of_row[row], blocks.bounds)
    query = _solve(tasks, cost.reshape(num_layers * num_rows, num_queries), copies, blocks.group_of_row[row], blocks)
    matched = np.flatnonzero(query >= 0)
    matched = matched[np.lexsort((query[matched], problem[matched]))]
    return np.stack((layer[matched], row[matched], query[matched]))


def _tasks(problem: IntArray, group: IntArray, bounds: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(first copy, end, first query, end) of every independent assignment: a group's, or that of a whole image."""
    starts, stops = _runs(problem * len(bounds) + group)
    first, last = np.asarray(bounds)[group[starts]], np.asarray(bounds)[group[starts] + 1]
    overflowing = np.unique(problem[starts[stops - starts > last - first]])
    fits = ~np.isin(problem[starts], overflowing)
    inside = np.stack((starts, stops, first, last))[:, fits]
    begin, end = np.searchsorted(problem, overflowing), np.searchsorted(problem, overflowing, side="right")
    whole = np.stack((begin, end, np.zeros_like(begin), np.full_like(begin, bounds[-1])))
    return [tuple(task) for task in np.concatenate((inside, whole), axis=1).T.tolist()]


def _runs(sorted_keys: IntArray) -> tuple[IntArray, IntArray]:
    """First and end position of every run of equal keys."""
    changes = np.flatnonzero(np.diff(sorted_keys)) + 1
    edges = np.concatenate(([0], changes, [len(sorted_keys)])) if len(sorted_keys) else np.zeros(1, dtype=np.int64)
    return edges[:-1], edges[1:]


def _solve(
    tasks: Sequence[tuple[int, int, int, int]], cost: FloatArray, copies: IntArray, group: IntArray, blocks: Blocks
) -> IntArray:
    """Query of every copy, -1 where it gets none."""
    query = np.full(len(copies), -1, dtype=np.int64)
    several = len(blocks.bounds) > 2

    def solve(start: int, stop: int, first: int, last: int) -> None:
        block: NDArray[np.floating] = cost[copies[start:stop], first:last]
        if several and last - first == cost.shape[1]:
            block = block + outside_cost(group[start:stop], blocks)  # in float64: float32 would round to 1/16
        row, column = linear_sum_assignment(block)
        query[start + row] = first + column

    def solve_some(some: Sequence[tuple[int, int, int, int]]) -> None:
        for task in some:
            solve(*task)

    num_threads = torch.get_num_threads()
    if num_threads == 1 or sum((t[1] - t[0]) * (t[3] - t[2]) for t in tasks) < PARALLEL_FROM:
        solve_some(tasks)
    else:
        list(_pool(num_threads).map(solve_some, [tasks[i::num_threads] for i in range(num_threads)]))
    return query


@lru_cache(maxsize=1)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="assign")
