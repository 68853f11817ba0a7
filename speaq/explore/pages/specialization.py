"""What a run's queries have specialized in, as `speaq specialization RUN --output RUN/specialization` counted it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from speaq.evaluation.specialization import Analysed
from speaq.evaluation.specialization_plot import draw
from speaq.explore.context import Context, NotFound, Page
from speaq.explore.view import View
from speaq.training.specialization import FILE, FOLDER, load


def routes(context: Context) -> Sequence[BaseRoute]:
    def page(request: Request) -> Response:
        view = context.view(request)
        found = [_describe(one) for one in _found(view)]
        return context.render(request, "specialization.html", {"found": found, "command": _command(view)})

    def picture(request: Request) -> Response:
        found = _found(context.view(request))
        if not found:
            raise NotFound("Nothing has been counted yet.")
        buffer = io.BytesIO()
        draw(found, buffer, "png")
        return Response(buffer.getvalue(), media_type="image/png")

    return [Route("/specialization", page), Route("/specialization.png", picture)]


def _found(view: View) -> list[Analysed]:
    if view.run is None or not (view.run / FOLDER / FILE).exists():
        return []
    return load(view.run / FOLDER)


def _command(view: View) -> str:
    return "" if view.run is None else f"speaq specialization {view.run} --output {view.run / FOLDER}"


def _describe(one: Analysed) -> dict[str, Any]:
    result = one.result()
    by_group = [] if one.groups is None else list(zip(_titles(one), result.group_leakage, strict=True))
    return {"one": one, "result": result, "by_group": by_group, "most": math.log(len(one.predicates))}


def _titles(one: Analysed) -> list[str]:
    assert one.groups is not None
    number = len(one.groups.queries)
    names = one.groups.names or ("",) * number
    return [f"{g + 1} {name}".strip() for g, name in enumerate(names)]


PAGE = Page("Specialization", "/specialization", routes, "run")
