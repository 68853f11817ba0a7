"""Which predicate a model says instead, where it found both boxes and their classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.explore.filters import Filter
from speaq.explore.view import View
from speaq.structures import IntArray

SHADES = 9  # steps of colour in style.css
LISTED = 15  # confusions in words


class Cell(NamedTuple):
    """How often one predicate is said for another."""

    said: str
    number: int
    share: float  # of the row
    shade: int  # 0 nothing, 1 to SHADES
    right: bool


class Row(NamedTuple):
    """A true predicate, and what is said for it."""

    truth: str
    total: int
    cells: list[Cell]


class Confusion(NamedTuple):
    """One predicate said for another, in words."""

    truth: str
    said: str
    number: int
    share: float  # of the found pairs that have the true predicate


def routes(context: Context) -> Routes:
    """The heat map."""

    def heat_map(request: Request) -> Response:
        view = context.view(request)
        if view.predictions is None:
            raise NotFound("A confusion needs predictions, and there are none for this split.")
        chosen = Filter.read(request.query_params, view)
        truth = view.split.relations[:, 2].astype(np.int64)
        counts = view.judgement.confusion(truth, chosen.k, view.data.num_predicates)
        values = {
            "filter": chosen,
            "recall_at": view.evaluation.recall_at,
            "rows": matrix(view, counts),
            "worst": confusions(view, counts),
            "total": int(counts.sum()),
            "right": int(np.trace(counts)),
        }
        return context.render(request, "confusion.html", values)

    return {"/confusion": heat_map}


def matrix(view: View, counts: IntArray) -> list[Row]:
    """Rows and columns are the predicates that occur in it, the most frequent of training first."""
    order = np.argsort(-view.predicate_count, kind="stable")
    order = order[(counts.sum(axis=0) + counts.sum(axis=1))[order] > 0]
    names = view.data.vocabulary.predicates
    rows = []
    for p in order.tolist():
        total = int(counts[p].sum())
        shares = counts[p] / max(total, 1)
        cells = [
            Cell(names[q], int(counts[p, q]), float(shares[q]), int(np.ceil(shares[q] * SHADES)), p == q)
            for q in order.tolist()
        ]
        rows.append(Row(names[p], total, cells))
    return rows


def confusions(view: View, counts: IntArray) -> list[Confusion]:
    """The most frequent ones, as words."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    names, totals = view.data.vocabulary.predicates, counts.sum(axis=1)
    best = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    found = [divmod(int(flat), len(counts)) for flat in best]
    return [
        Confusion(names[p], names[q], int(wrong[p, q]), float(wrong[p, q] / totals[p])) for p, q in found if wrong[p, q]
    ]


PAGE = Page("Confusion", "/confusion", routes, "predictions")
