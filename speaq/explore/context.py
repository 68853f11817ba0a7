"""What all pages share: the data set, opened once, the views of it, and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from speaq.charts.chart import Bars
from speaq.data.records import VisualGenome
from speaq.explore.study import ExploredStudy
from speaq.explore.view import View
from speaq.plain_text import visible
from speaq.study.board import Board

Needs = Literal["data", "run", "predictions", "study"]
Importance = Callable[[Board], Bars | str]  # of a search's parameters, or why nothing can be said of it
Routes = Mapping[str, Callable[[Request], Response]]  # path, in Starlette's form → what answers there


class NotFound(Exception):
    """An address that leads nowhere; the text says why, in one line."""


class BadQuery(Exception):
    """A value in an address that cannot be meant; the text says which, in one line."""


class Page(NamedTuple):
    """An entry of the navigation with its routes."""

    title: str  # empty: no entry, its pages are reached from others
    path: str  # begins with /
    routes: Callable[[Context], Routes]
    needs: Needs = "data"


def _in_order(value: Any) -> Any:
    """Makes a text safe to show: what turns the order of letters around becomes visible. Our own markup stays."""
    return visible(value, keep="\n\t") if type(value) is str else value


@dataclass
class Context:
    """What a server keeps: the opened data, the view that it shows first, the search, and the pages."""

    data: VisualGenome
    main: View  # of the data set or of the run
    study: ExploredStudy | None = None
    open_trial: Callable[[str], View] | None = None  # of a study; raises NotFound
    importance: Importance | None = None  # needs Optuna, which lives elsewhere
    pages: Sequence[Page] = ()
    environment: Environment = field(init=False)

    def __post_init__(self) -> None:
        loader = PackageLoader("speaq.explore")
        self.environment = Environment(
            loader=loader,
            autoescape=True,
            finalize=_in_order,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def view(self, request: Request) -> View:
        """What the address is about. Raises NotFound for a trial that is not there."""
        trial = request.path_params.get("trial")
        if trial is None or self.open_trial is None:
            return self.main
        return self.open_trial(trial)

    def render(self, request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """A template of `templates/` with `root`, `view`, `navigation` and `trial` besides the values."""
        view = self.view(request)
        text = self.environment.get_template(template).render(
            root=request.scope.get("root_path", ""),
            here=request.url.path,
            trial=request.path_params.get("trial"),
            view=view,
            study=self.study,
            navigation=self.shown(view),
            **values,
        )
        return HTMLResponse(text, status)

    def shown(self, view: View) -> list[Page]:
        """The navigation."""
        there = {
            "data": True,
            "run": view.run is not None,
            "predictions": view.predictions is not None,
            "study": self.study is not None,
        }
        return [page for page in self.pages if page.title and there[page.needs]]
