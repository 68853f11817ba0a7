"""Photos → upright RGB arrays. Whatever a camera or a broken download left behind ends as pixels or as `DataError`."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from speaq.data import DataError
from speaq.files.regular import check_regular

MAX_PIXELS = 89_478_485  # Pillow's own bomb limit; no photo comes near it
LARGE = 16_000_000  # pixels above which `read_photo` reduces: photos of data sets are far below
# Camera raws are TIFF files whose first picture is a thumbnail.
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".avif", ".heic", ".heif", ".hif", ".jp2", ".jxl", ".psd", ".tga", *RAW),
)  # of photos, also of those that are not read here: they are named then


def _formats() -> tuple[str, ...]:
    """Formats to read. Of others Pillow starts programs (EPS)."""
    found = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"]
    if features.check("avif"):
        found.append("AVIF")
    with contextlib.suppress(ModuleNotFoundError):  # an extra: it brings a library of its own
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


FORMATS = _formats()
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
_UNREAD = {  # first bytes → what it is
    b"8BPS": "a Photoshop file",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II*\x00": "a TIFF of a pixel layout that Pillow does not read",
    b"MM\x00*": "a TIFF of a pixel layout that Pillow does not read",
}
_BRANDS = {"heic": "HEIC", "heix": "HEIC", "hevc": "HEIC", "mif1": "HEIC", "msf1": "HEIC", "avif": "AVIF"}


Source = Path | str | Image.Image | NDArray[Any]  # of a photo


@dataclass(frozen=True)
class Photo:
    """An upright photo, perhaps reduced."""

    pixels: NDArray[np.uint8]  # [h, w, 3] RGB
    size_hw: tuple[int, int]  # before it was reduced


def read_image(path: Path, shortest_side: int | None = None) -> NDArray[np.uint8]:
    """Decodes a photo to [h, w, 3] RGB uint8, upright by its EXIF tag; transparency is ignored.

    Values of other types than 8 bits are scaled as by `to_8_bits`; of several pictures in a file
    the first is read.

    Args:
        shortest_side: where given, a JPEG is decoded at a half, a quarter or an eighth of its size (each side rounded
            up), as far as its shortest side stays this long in pixels.

    Raises:
        DataError: missing, no regular file, empty, not an image, truncated, above `MAX_PIXELS`, or with values of no
            known range; names the file.
    """
    with _opened(path, MAX_PIXELS) as (image, deep):
        if shortest_side is not None:
            image.draft(None, (shortest_side, shortest_side))
        return _upright(image, 1, deep, str(path))


def read_photo(source: Source, shortest_side: int, max_pixels: int = MAX_PIXELS, large: int | None = None) -> Photo:
    """`read_image` of a file, a Pillow image or an array; a large one is reduced by a whole factor.

    Args:
        source: an array is [h, w], [h, w, 1], [h, w, 3] RGB or [h, w, 4] RGBA, of any type that `to_8_bits` takes.
        shortest_side: that is kept at least, pixels.
        max_pixels: above which nothing is decoded, at most `MAX_PIXELS`.
        large: pixels above which it is reduced, default: `LARGE`.

    Raises:
        DataError: as `read_image`, an array of another shape, or something else than these three.
    """
    if isinstance(source, np.ndarray):
        source = Image.fromarray(_colours(source))
    if not isinstance(source, Image.Image | Path | str):
        raise DataError(
            f"picture: {type(source).__name__} is none of a path, a Pillow image and a NumPy array; of a tensor "
            "[3, height, width] give .permute(1, 2, 0).numpy()"
        )
    name = str(file_of(source) or "picture")
    given = isinstance(source, Image.Image)
    opened = _given(source, name, max_pixels) if isinstance(source, Image.Image) else _opened(Path(source), max_pixels)
    with opened as (image, deep):
        turned = _orientation(image) >= 5
        width, height = image.size
        reduced = width * height > (LARGE if large is None else large)
        if reduced and not given:
            image.draft(None, (shortest_side, shortest_side))  # of a JPEG: it never has its full size in memory
        factor = max(1, min(image.size) // shortest_side) if reduced else 1
        pixels = _upright(image, factor, deep, name)
        return Photo(pixels, (width, height) if turned else (height, width))


def file_of(source: Source) -> Path | None:
    """Where a photo comes from; None for an array, and for a Pillow image that was not opened by name."""
    name = source if isinstance(source, str | Path) else getattr(source, "filename", None)
    return Path(name) if isinstance(name, str | Path) and name else None


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright photo, from its header alone; raises `DataError` as `read_image` does."""
    with _opened(path, MAX_PIXELS) as (image, _):
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[Image.Image, bool]]:
    """The file's image, nothing of it decoded, and whether Pillow will take the upper 8 of 16 bits of its colours.

    Whatever goes wrong in the block is a DataError that names the file.
    """
    with _named(str(path), path):
        if path.suffix.lower() in RAW:
            raise DataError(f"{path}: a camera's raw file, not read here; save it as JPEG")
        check_regular(path)
        # By its name Pillow would map some TIFFs into memory, by the size that they have once they are turned.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _refuse_bombs(str(path), image, max_pixels)
            deep = any(";16" in str(tile[3]) for tile in image.tile)
            yield image, deep and not image.mode.startswith(("I", "F"))


@contextlib.contextmanager
def _given(image: Image.Image, name: str, max_pixels: int) -> Iterator[tuple[Image.Image, bool]]:
    with _named(name, None):
        _refuse_bombs(name, image, max_pixels)
        yield image, False


@contextlib.contextmanager
def _named(name: str, path: Path | None) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{name}: {_reason(error, path)}") from error


def _refuse_bombs(name: str, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} pixels, at most {max_pixels:,} are decoded; make it smaller")


def _orientation(image: Image.Image) -> int:
    """1 to 8, where 1 is upright; damaged EXIF data do not make a picture unreadable."""
    if image.format == "TIFF":  # Pillow turns it while it decodes, and gives its size as turned before
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if value in _TURNS else 1


def _upright(image: Image.Image, factor: int, deep: bool, name: str) -> NDArray[np.uint8]:
    """[h, w, 3] RGB, each side divided by `factor` and rounded up; `deep`: see `_opened`."""
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(to_8_bits(np.asarray(image), f"{name}: mode {image.mode}"))
    if factor > 1:
        image = (image if image.mode in ("L", "RGB") else image.convert("RGB")).reduce(factor)
    if turn is not None:
        image = image.transpose(turn)
    pixels = np.array(image.convert("RGB"))
    if deep and pixels.max() < 16:
        raise DataError(f"{name}: its colours have 16 bits and are all below 4096: black, or of 12 bits; save it as 8")
    return pixels


def _colours(values: NDArray[Any]) -> NDArray[np.uint8]:
    """[h, w, 3] uint8 of an array of grey, RGB or RGBA values."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise DataError(f"picture: an array is [height, width] or [height, width, 3], not {list(values.shape)}")
    values = values[..., : 3 if values.shape[2] == 4 else None]
    return np.ascontiguousarray(np.broadcast_to(to_8_bits(values, "picture"), (*values.shape[:2], 3)))


def _reason(error: Exception, path: Path | None) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image" if path is None else _kind(path)
    if isinstance(error, OSError) and error.strerror is not None:  # of the system, not of the decoder
        return f"cannot be read ({error.strerror})"
    return f"cannot be decoded ({' '.join(str(error).split())[:150] or type(error).__name__})"


def _kind(path: Path) -> str:
    """What a file is that Pillow does not know, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and (brand := _BRANDS.get(start[8:12].decode("latin-1"))):
        remedy = 'pip install -e ".[heic]"' if brand == "HEIC" and "HEIF" not in FORMATS else "save it as JPEG"
        return f"{brand}, which cannot be read here; {remedy}"
    found = next((kind for magic, kind in _UNREAD.items() if start.startswith(magic)), None)
    return "not an image" if found is None else f"{found}; save it as JPEG or PNG"


RANGES = (255, 4095, 65535)  # of 8, 12 and 16 bits
DARKEST = 1 / 16  # floats whose largest value is below this share of their range: of which range is unclear
_ROWS = 256  # converted at once


def to_8_bits(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scales pixels of any type to 0 to 255 and rounds, by one rule for training, evaluation and prediction.

    The range of a picture is the narrowest of 0 to 1 (of floats alone), 0 to 255, 0 to 4095 and 0 to 65535 that holds
    all of its values, since no format says it: a TIFF of 16 bits may hold what a camera of 8 or 12 bits saw.

    Args:
        values: [h, ...] numbers or booleans.
        name: of the picture, for the error.

    Raises:
        DataError: NaN or infinity, negative numbers, more than 65535, floats that are little more than 1, or no
            numbers at all.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "buif":
        raise DataError(f"{name}: pixels are numbers, not {values.dtype}")
    if not values.size:
        raise DataError(f"{name}: has no pixels")
    top = _range(float(values.min()), float(values.max()), values.dtype, name)
    result = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):  # in parts, as floats take four times the memory
        part = values[row : row + _ROWS].astype(np.float64) * (255 / top)
        result[row : row + _ROWS] = np.rint(part)
    return result


def _range(low: float, high: float, kind: np.dtype[Any], name: str) -> float:
    """The value that becomes 255."""
    where = f"{name}: {kind} pixels from {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name}: some pixels are NaN or infinite; replace them, then save it as 8 bits")
    if kind.kind == "b":
        return 1
    ranges = (1, *RANGES) if kind.kind == "f" else RANGES
    half = 0.5 / 255 if kind.kind == "f" else 0  # of a grey level: it is rounded away
    top = next((top for top in ranges if high <= top * (1 + half)), 0)
    if low < -half * top or not top:
        raise DataError(f"{where}, which lie in none of 0 to 1, 0 to 255, 0 to 4095, 0 to 65535; save it as 8 bits")
    if kind.kind == "f" and top > 1 and high < DARKEST * top:
        raise DataError(f"{where}: neither a range of 0 to 1 nor one of 0 to {top}; scale it, or save it as 8 bits")
    return top
