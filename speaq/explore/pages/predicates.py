"""Every predicate: how often it occurs, and how much of it a model finds."""

from __future__ import annotations

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from speaq.evaluation.report import all_metrics, to_json
from speaq.explore.context import Context, Page, Routes
from speaq.explore.tables import Column, in_order, read_order
from speaq.explore.view import View

COUNTS = (
    Column("predicate", "predicate", numeric=False),
    Column("part", "part", numeric=False),
    Column("train", "relations in train"),
    Column("here", "in this split"),
    Column("zero_shot", "zero-shot"),
)
HEADLINES = ("R", "mR", "F", "head", "body", "tail", "zR")


def routes(context: Context) -> Routes:
    """The table."""

    def table(request: Request) -> Response:
        view = context.view(request)
        columns = [*COUNTS, *recall_columns(view)]
        order = read_order(request.query_params, columns, "train")
        values = {"columns": columns, "order": order, "rows": in_order(rows(view), order), "metrics": headlines(view)}
        return context.render(request, "predicates.html", values)

    return {"/predicates": table}


def recall_columns(view: View) -> list[Column]:
    """The columns that predictions add."""
    if view.predictions is None:
        return []
    return [Column("images", "images"), *(Column(f"R@{k}", f"R@{k}") for k in view.evaluation.recall_at)]


def rows(view: View) -> list[dict[str, object]]:
    """One for each predicate; recalls are those of `speaq evaluate --json`, None where no image has the predicate."""
    names = view.data.vocabulary.predicates
    predicate = view.split.relations[:, 2]
    here, zero = (np.bincount(some, minlength=len(names)) for some in (predicate, predicate[view.zero_shot]))
    found = to_json(view.judgement.recall, names)["predicates"] if view.predictions is not None else [{}] * len(names)
    return [
        {
            **found[p],
            "predicate": name,
            "part": view.part_name(p),
            "train": int(view.predicate_count[p]),
            "here": int(here[p]),
            "zero_shot": int(zero[p]),
        }
        for p, name in enumerate(names)
    ]


def headlines(view: View) -> list[tuple[str, list[float | None]]]:
    """Metrics over all predicates by name, one value for each K."""
    if view.predictions is None:
        return []
    metrics = all_metrics(view.judgement.recall)
    return [(name, [metrics.get(f"{name}@{k}") for k in view.evaluation.recall_at]) for name in HEADLINES]


PAGE = Page("Predicates", "/predicates", routes)
