"""How a run trained, or trains: how far it is, what it has of its own, and its curves."""

from __future__ import annotations

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from speaq.charts.svg import draw
from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.runs.standing import standing
from speaq.study.snapshot import FEATURES


def routes(context: Context) -> Routes:
    """The page."""

    def page(request: Request) -> Response:
        view = context.view(request)
        if view.run is None:
            raise NotFound("No run is open: speaq explore --run RUN")
        now, below = standing(view.run), view.run / FEATURES
        before = standing(below).charts if (below / "config.yaml").exists() else []
        trial, known, settings = request.path_params.get("trial"), dict[str, str](), dict[str, str]()
        if context.study is not None and trial is not None:
            known, settings = context.study.facts(trial)
        values = {
            "facts": {**now.facts, **known},
            "settings": settings,
            "works": now.state == "running",
            "charts": [Markup(draw(chart)) for chart in now.charts],
            "before": [Markup(draw(chart)) for chart in before],
        }
        return context.render(request, "training.html", values)

    return {"/training": page}


PAGE = Page("Training", "/training", routes, "run")
