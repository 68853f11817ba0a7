"""The assignment microscope: which queries learn a ground-truth triplet, while K, quality, weight and G are moved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from speaq.config import Config, ConfigError, from_dict, read_yaml, short
from speaq.config.sections import QUALITIES
from speaq.data import DataError
from speaq.explore.context import BadQuery, Context, NotFound, Page, Routes
from speaq.explore.view import View
from speaq.vocabulary import in_words

if TYPE_CHECKING:
    from speaq.analysis.microscope import Microscope, Slide  # with PyTorch, which takes seconds

OPEN_RUNS, SLIDES = 2, 16  # kept in memory: networks, and images' outputs (some MB each)
MOST = 10**6  # of any number in an address
WHOLE = {"k": "matching.max_repeats", "groups": "matching.num_groups"}


def routes(context: Context) -> Routes:
    """The page, and what its script asks for."""

    @lru_cache(OPEN_RUNS)
    def opened(run: Path) -> Microscope:
        from speaq.analysis.microscope import Microscope

        return Microscope.open(run, context.data.directory)

    @lru_cache(SLIDES)
    def slide(run: Path, image_id: str) -> Slide:
        return opened(run).slide(image_id)

    def page(request: Request) -> Response:
        return context.render(request, "microscope.html", page_values(context.view(request), request.query_params))

    def look(request: Request) -> Response:
        """The assignment as JSON; what cannot be is said in one line."""
        run = _run(context.view(request))
        query = request.query_params
        try:
            triplet = _number("triplet", query.get("triplet", "0"), int)
            found = opened(run).look(slide(run, query.get("image", "")), triplet, overrides(query))
        except (BadQuery, ConfigError, DataError) as error:
            status = 400 if isinstance(error, BadQuery) else 409
            return JSONResponse({"error": " ".join(str(error).split())}, status)
        return JSONResponse(found)

    return {"/microscope": page, "/microscope/look": look}


def page_values(view: View, query: Mapping[str, str]) -> dict[str, Any]:
    """What microscope.html shows before the network has looked."""
    image_id = query.get("image", "").strip() or view.split.image_id(0)
    if image_id not in view.rows:
        raise NotFound(f"Split {view.split_name} has no image {image_id}.")
    row, run = view.rows[image_id], _run(view)
    graph = view.graph(row)
    triplets = in_words(graph, view.data.vocabulary)
    config = from_dict(read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    return {
        "image_id": image_id,
        "size_hw": graph.size_hw,
        "triplets": triplets,
        "triplet": max(0, min(_number("triplet", query.get("triplet", "0"), int), len(triplets) - 1)),
        "previous": view.split.image_id(row - 1) if row else None,
        "next": view.split.image_id(row + 1) if row + 1 < len(view.split) else None,
        "qualities": QUALITIES,
        "matching": config.matching,
        "num_layers": config.model.num_decoder_layers,
        "max_groups": _max_groups(config, view.data.num_predicates),
    }


def _max_groups(config: Config, num_predicates: int) -> int:
    if config.model.multiply_queries == "all":
        return 1
    return min(num_predicates, config.model.num_queries)


def overrides(query: Mapping[str, str]) -> dict[str, Any]:
    """Matching settings of an address; `quality` is one of the config's, or `static`. Raises BadQuery."""
    found: dict[str, Any] = {key: _number(name, query[name], int) for name, key in WHOLE.items() if name in query}
    if query.get("quality") == "static":
        return {**found, "matching.scheme": "static", "matching.quality": None, "matching.predicate_weight": 0.0}
    if "quality" in query:
        found |= {"matching.scheme": "dynamic", "matching.quality": query["quality"], "matching.independent": True}
    if "weight" in query:
        found["matching.predicate_weight"] = _number("weight", query["weight"], float)
    return found


def _number(name: str, text: str, kind: type[int] | type[float]) -> Any:
    """Raises BadQuery for what is none, or lies outside of all that could be meant."""
    try:
        number = kind(text)
    except ValueError:
        number = kind(MOST + 1)
    if not -MOST <= number <= MOST:
        whole = "whole " if kind is int else ""
        raise BadQuery(f"{name}: is a {whole}number from {-MOST} to {MOST}, not {short(repr(text))}")
    return number


def _run(view: View) -> Path:
    if view.run is None:
        raise NotFound("The microscope needs a run: its network looks at the image.")
    return view.run


PAGE = Page("Microscope", "/microscope", routes, "run")
