"""One image: ground truth and prediction side by side."""

from __future__ import annotations

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from speaq.explore.context import Context, Page, Routes
from speaq.explore.filters import Filter
from speaq.explore.pages.images import row_of
from speaq.explore.scene import guess_panel, truth_panel
from speaq.explore.view import View
from speaq.structures import IntArray


def routes(context: Context) -> Routes:
    """An image, and its photo."""

    def image(request: Request) -> Response:
        view = context.view(request)
        chosen = Filter.read(request.query_params, view)
        return context.render(request, "image.html", image_values(view, row_of(request, view), chosen))

    return {"/image/{image_id}": image}


def image_values(view: View, row: int, chosen: Filter) -> dict[str, object]:
    """What image.html shows."""
    graph, vocabulary = view.graph(row), view.data.vocabulary
    found = view.predicted(graph)
    truth = truth_panel(graph, None if found is None else found[1], vocabulary, chosen.k)
    images = chosen.ordered(chosen.select(view), view)
    places = np.flatnonzero(images == row)
    inside = len(places) > 0
    place = int(places[0]) if inside else int((images < row).sum())
    return {
        "image_id": graph.image_id,
        "filter": chosen,
        "truth": truth,
        "guess": None if found is None else guess_panel(graph, *found, vocabulary, chosen.k),
        "previous": _id(view, images, place - 1),
        "next": _id(view, images, place + 1 if inside else place),
        "place": place + 1 if inside else None,
        "num_images": len(images),
        "recall_at": view.evaluation.recall_at,
    }


def _id(view: View, images: IntArray, place: int) -> str | None:
    return view.split.image_id(int(images[place])) if 0 <= place < len(images) else None


PAGE = Page("", "/image", routes)  # no entry of the navigation: an image is opened from the grid
