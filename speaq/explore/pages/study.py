"""The leader board of a search, and the way to each trial's images."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.explore.tables import Column, in_order, read_order


def routes(context: Context) -> Routes:
    """The table of trials."""

    def board(request: Request) -> Response:
        if context.study is None:
            raise NotFound("No search is open: speaq explore --study STUDY")
        trials = context.study.trials(context.main.split_name)
        columns = [Column("trial", "trial", numeric=False), Column("label", "label", numeric=False)]
        columns += [Column("status", "status", numeric=False)]
        columns += [Column(name, name, numeric=True) for name in context.study.columns(trials)]
        usual = next((name for name in context.study.objective if any(c.key == name for c in columns)), "trial")
        order = read_order(request.query_params, columns, usual)
        values = {"columns": columns, "order": order, "rows": in_order(trials, order)}
        return context.render(request, "study.html", values)

    return {"/study": board}


PAGE = Page("Trials", "/study", routes, "study")
