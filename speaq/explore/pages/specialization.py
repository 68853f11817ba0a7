"""What a run's queries have specialized in, as `speaq specialization RUN --output RUN/specialization` counted it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from speaq.analysis.specialization import FILE, FOLDER, Analysed, load
from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.explore.view import View


def routes(context: Context) -> Routes:
    """The page, and its picture."""

    def page(request: Request) -> Response:
        view = context.view(request)
        found = [_describe(one) for one in _found(view)]
        values = {"found": found, "command": _command(view), "picture": _picture(view) is not None}
        return context.render(request, "specialization.html", values)

    def picture(request: Request) -> Response:
        path = _picture(context.view(request))
        if path is None:
            raise NotFound("There is no picture of specialization yet.")
        return FileResponse(path)

    return {"/specialization": page, "/specialization.png": picture}


def _found(view: View) -> list[Analysed]:
    if view.run is None or not (view.run / FOLDER / FILE).exists():
        return []
    return load(view.run / FOLDER)


def _picture(view: View) -> Path | None:
    path = None if view.run is None else view.run / FOLDER / "specialization.png"
    return path if path is not None and path.exists() else None


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
