"""The web application: pages, static files, and what every answer carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speaq.charts import svg
from speaq.config import ConfigError
from speaq.data import DataError
from speaq.explore.context import BadQuery, Context, NotFound, Page
from speaq.explore.pages import (
    confusion,
    groups,
    image,
    images,
    microscope,
    predicates,
    specialization,
    study,
    training,
)

PAGES: tuple[Page, ...] = (
    study.PAGE,
    images.PAGE,
    image.PAGE,
    training.PAGE,
    predicates.PAGE,
    confusion.PAGE,
    groups.PAGE,
    specialization.PAGE,
    microscope.PAGE,
)

CHART_STYLE = Path(svg.__file__).with_name("chart.css")
LOOPBACK = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Headers:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def create_app(context: Context, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The application over what `context` holds.

    Args:
        hosts: names in a request's Host header that are answered. A page elsewhere whose name is made to lead to this
            machine (DNS rebinding) sends its own name, and gets nothing.
    """
    context.pages = PAGES
    routes: list[BaseRoute] = [Route("/", _home(context))]
    routes += [Route(path, answer) for page in PAGES for path, answer in page.routes(context).items()]
    trials = [Mount("/trial/{trial}", routes=list(routes))] if context.study is not None else []
    styles = Route("/static/chart.css", lambda request: FileResponse(CHART_STYLE))
    return Starlette(
        routes=[styles, Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))), *trials, *routes],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={404: _in_one_line(context, 404)}
        | {
            kind: _in_one_line(context, status)
            for kind, status in ((NotFound, 404), (BadQuery, 400), (DataError, 409), (ConfigError, 409))
        },
    )


def _home(context: Context) -> Callable[[Request], Response]:
    """Sends a browser to the first page of the navigation."""

    def redirect(request: Request) -> Response:
        pages = context.shown(context.view(request))
        first = next(page for page in pages if page.needs != "study" or "trial" not in request.path_params)
        return RedirectResponse(request.scope.get("root_path", "") + first.path)

    return redirect


def _in_one_line(context: Context, status: int) -> Callable[[Request, Exception], Response]:
    """What is wrong with an address, or with the files behind it, as a page."""

    def handler(request: Request, error: Exception) -> Response:
        text = "There is no such page." if isinstance(error, HTTPException) else str(error)
        request.scope["path_params"] = {}  # the trial itself may be what is not there
        request.scope["root_path"] = ""
        return context.render(request, "not_found.html", {"text": text}, status)

    return handler
