"""Photos → upright RGB arrays. Whatever a camera or a broken download left behind ends as pixels or as `DataError`."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from speaq.data import DataError

MAX_PIXELS = 89_478_485  # Pillow's own bomb limit; no photo comes near it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # of others Pillow starts programs (EPS)
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises on damaged files; the set differs by format.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_image(path: Path, shortest_side: int | None = None) -> NDArray[np.uint8]:
    """Decodes a photo to [h, w, 3] RGB uint8, upright by its EXIF tag; transparency is ignored, 16 bits become 8.

    Args:
        shortest_side: where given, a JPEG is decoded at a half, a quarter or an eighth of its size (each side rounded
            up), as far as its shortest side stays this long in pixels.

    Raises:
        DataError: missing, empty, not an image, truncated, or above `MAX_PIXELS`; names the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_bombs(path, image)
            if shortest_side is not None:
                image.draft(None, (shortest_side, shortest_side))
            turn = _TURNS.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            return np.array(_to_8_bits(upright).convert("RGB"))
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright photo, from its header alone; raises `DataError` as `read_image` does."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_bombs(path, image)
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def _refuse_bombs(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels, at most {MAX_PIXELS:,} are decoded")


def _orientation(image: Image.Image) -> int:
    """1 to 8, where 1 is upright; damaged EXIF data do not make a picture unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if value in _TURNS else 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; Pillow's own conversion clips everything above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) * (255 / 65535)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return f"cannot be decoded ({' '.join(str(error).split())[:150] or type(error).__name__})"
