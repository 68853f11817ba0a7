"""Browse images, a page at a time, and their photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from speaq.evaluation.recall import THIRDS
from speaq.explore.context import Context, NotFound, Page, Routes
from speaq.explore.filters import Filter, Selected
from speaq.explore.photos import LARGE, THUMBNAIL, photo
from speaq.explore.scene import ORDER
from speaq.explore.view import View
from speaq.files.foreign import whole_number

PER_PAGE = 48


@dataclass(frozen=True)
class Tile:
    """An image of the grid."""

    image_id: str
    objects: str  # some of what is in it
    relations: int
    hits: int | None  # of them; None without predictions
    size_hw: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float, str], ...]  # x, y, width, height in pixels of the photo, and status


def routes(context: Context) -> Routes:
    """All images, and their thumbnails."""

    def grid(request: Request) -> Response:
        view = context.view(request)
        chosen = Filter.read(request.query_params, view)
        return context.render(request, "images.html", grid_values(view, chosen, request.query_params))

    def picture(side: int) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            view = context.view(request)
            return photo(request, view, row_of(request, view), side)

        return answer

    return {"/images": grid, "/thumbnail/{image_id}": picture(THUMBNAIL), "/photo/{image_id}": picture(LARGE)}


def row_of(request: Request, view: View) -> int:
    """Row in the split of the image that an address names. Raises NotFound."""
    image_id = request.path_params["image_id"]
    if image_id not in view.rows:
        raise NotFound(f"Split {view.split_name} of {view.data.directory} has no image {image_id}.")
    return view.rows[image_id]


def grid_values(view: View, chosen: Filter, query: Mapping[str, str]) -> dict[str, object]:
    """What images.html shows."""
    selected = chosen.select(view)
    pages = max(1, -(-len(selected.images) // PER_PAGE))
    page = min(whole_number(query.get("page", "1")) or 1, pages)
    rows = chosen.ordered(selected, view)[(page - 1) * PER_PAGE : page * PER_PAGE]
    return {
        "filter": chosen,
        "page": page,
        "pages": pages,
        "tiles": [_tile(view, int(row), chosen.k) for row in rows],
        "first": (page - 1) * PER_PAGE + 1,
        "num_images": len(selected.images),
        "num_relations": int(selected.relations.sum()),
        "predicates": predicates_by_count(view),
        "parts": THIRDS,
        "shares": _shares(view, chosen, selected),
    }


def predicates_by_count(view: View) -> list[tuple[str, int]]:
    """Names with their relations in the split, the most frequent first."""
    counts = np.bincount(view.split.relations[:, 2], minlength=view.data.num_predicates)
    order = np.argsort(-counts, kind="stable")
    return [(view.data.vocabulary.predicates[p], int(counts[p])) for p in order]


def _shares(view: View, chosen: Filter, selected: Selected) -> list[tuple[str, int]]:
    """How many of the relations that fulfil the conditions are hit, wrong and missed, where that is no condition."""
    if view.predictions is None or chosen.found:
        return []
    judged, some = view.judgement, selected.relations
    masks = {"hit": judged.hit, "wrong": judged.wrong, "missed": judged.missed}
    return [(name, int((some & mask(chosen.k)).sum())) for name, mask in masks.items()]


def _tile(view: View, row: int, k: int) -> Tile:
    split, names = view.split, view.data.vocabulary.objects
    classes = split.classes[split.box_offsets[row] : split.box_offsets[row + 1]].tolist()
    objects = list(dict.fromkeys(names[c] for c in classes))
    some = slice(split.relation_offsets[row], split.relation_offsets[row + 1])
    hits = None if view.predictions is None else int((view.judgement.rank[some] < k).sum())
    more = ", …" if len(objects) > 5 else ""
    graph = view.graph(row)
    statuses = statuses_of_boxes(view, row, k)
    drawn = zip(graph.boxes_xyxy.tolist(), statuses, strict=True)
    return Tile(
        image_id=graph.image_id,
        objects=", ".join(objects[:5]) + more,
        relations=some.stop - some.start,
        hits=hits,
        size_hw=graph.size_hw,
        boxes=tuple(
            (round(x1), round(y1), round(x2 - x1), round(y2 - y1), status) for (x1, y1, x2, y2), status in drawn
        ),
    )


def statuses_of_boxes(view: View, row: int, k: int) -> list[str]:
    """For each ground-truth box of an image the first status of `ORDER` that a relation of it has."""
    split = view.split
    best = [len(ORDER) - 1] * int(split.box_offsets[row + 1] - split.box_offsets[row])
    if view.predictions is not None:
        judged = view.judgement
        for relation in range(int(split.relation_offsets[row]), int(split.relation_offsets[row + 1])):
            found, near = judged.rank[relation] < k, judged.pair_rank[relation] < k
            status = ORDER.index("hit" if found else "wrong" if near else "missed")
            for box in split.relations[relation, :2].tolist():
                best[box] = min(best[box], status)
    return [ORDER[status] for status in best]


PAGE = Page("Images", "/images", routes)
