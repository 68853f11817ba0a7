"""Photos for the browser: upright, no larger than it needs; a drawing of the boxes where there is no photo."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from xml.sax.saxutils import quoteattr

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from speaq.data import DataError
from speaq.data.images import read_image
from speaq.explore.view import View
from speaq.structures import SceneGraph

THUMBNAIL, LARGE = 240, 1280  # pixels of the longest side
QUALITY = 85
CACHED = 512  # thumbnails in memory, about 10 KiB each


def photo(request: Request, view: View, row: int, side: int) -> Response:
    """A JPEG of the photo, or a drawing of the image's boxes where it cannot be read; the browser keeps it."""
    try:
        if view.split.folder is None:
            content, kind = _drawing(view.graph(row)), "image/svg+xml"
        else:
            path = view.split.image_path(row)
            make = _thumbnail if side == THUMBNAIL else _jpeg
            content, kind = make(path, path.stat().st_mtime_ns if path.exists() else 0, side), "image/jpeg"
    except DataError:
        content, kind = _blank(*view.graph(row).size_hw), "image/svg+xml"
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=60"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def _jpeg(path: Path, changed: int, side: int) -> bytes:
    """Raises DataError. `changed` tells versions of a file apart in the cache."""
    image = Image.fromarray(read_image(path, shortest_side=side))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


_thumbnail = lru_cache(CACHED)(_jpeg)


def _drawing(graph: SceneGraph) -> bytes:
    height, width = graph.size_hw
    line = max(height, width) / 120
    boxes = "".join(
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'
        for x1, y1, x2, y2 in graph.boxes_xyxy.tolist()
    )
    style = f'fill="#0072B2" fill-opacity="0.08" stroke="#0072B2" stroke-width="{line:.1f}"'
    return _svg(height, width, f"<g {style}>{boxes}</g>")


def _blank(height: int, width: int) -> bytes:
    size = quoteattr(str(max(height, width) // 14))
    text = f'<text x="50%" y="50%" text-anchor="middle" font-family="sans-serif" font-size={size} fill="#444">'
    return _svg(height, width, f"{text}photo cannot be read</text>")


def _svg(height: int, width: int, content: str) -> bytes:
    """A light sheet of the photo's shape."""
    sheet = '<rect width="100%" height="100%" fill="#f3f4f6"/>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{sheet}{content}</svg>'.encode()
