"""Browse images, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from speaq.explore.context import Context, Page

PER_PAGE = 48


def routes(context: Context) -> Sequence[BaseRoute]:
    def grid(request: Request) -> Response:
        view = context.view(request)
        return context.render(request, "images.html", {"ids": view.split.image_ids[:PER_PAGE].tolist()})

    return [Route("/", grid), Route("/images", grid)]


PAGE = Page("Images", "/images", routes)
