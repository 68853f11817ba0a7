"""Pictures with names of others: no formulas in them, in fonts that have their letters, and equal for equal input."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import unicodedata
import warnings
from collections.abc import Iterable, Iterator

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from speaq.plain_text import is_new

log = logging.getLogger(__name__)

BASE = "DejaVu Sans"  # matplotlib brings it along
_BOXES = ("lastresort", "adobeblank", "unicodebmpfallback")  # fonts that have a box, or nothing, for every character


class ShownFigure(Figure):
    """A figure that shows itself in a notebook, also where matplotlib's own way is not switched on there."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


@contextlib.contextmanager
def drawing(texts: Iterable[str]) -> Iterator[None]:
    """Draws and saves figures in which `texts` occur; says once which of their characters no font of this machine has.

    An SVG holds text as text, so that whoever looks at it needs the fonts, not this machine.
    """
    families, missing = fonts_for(texts)
    if [character for character in missing if is_new(f"font of {character}")]:
        log.warning(
            "no font on this machine has %s: pictures show boxes instead (an SVG keeps the text); install a font, "
            "such as Noto (Debian: fonts-noto-core, fonts-noto-cjk, fonts-symbola)",
            " ".join(sorted(missing)[:20]) + (" …" if len(missing) > 20 else ""),
        )
    settings = rc_context(
        {
            "font.family": [BASE, *families],
            "svg.fonttype": "none",
            "svg.hashsalt": "speaq",
            "text.parse_math": False,
        }
    )
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # said above, in one line
        yield


def fonts_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Families of fonts, besides matplotlib's own, that have the characters of `texts`; those that none has."""
    missing = {c for text in texts for c in text if not _is_invisible(c)} - _letters(font_manager.findfont(BASE))
    families: list[str] = []
    for candidates in (_known, _new):  # matplotlib keeps a list of fonts, in which later ones are not
        fonts = candidates() if missing else {}
        while fonts and missing:
            family, path = max(fonts.items(), key=lambda font: len(missing & _letters(font[1])))
            if not missing & _letters(path):
                break
            families.append(family)
            missing -= _letters(path)
    return families, missing


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc") or "\ufe00" <= character <= "\ufe0f"


@functools.cache
def _letters(path: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(path).get_charmap()))


def _known() -> dict[str, str]:
    """Family → file of its upright and regular face, in a fixed order, those without serifs first."""
    faces = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == font.variant == "normal" and not font.name.replace(" ", "").lower().startswith(_BOXES)
    ]
    faces.sort(
        key=lambda font: ("Serif" in font.name or "Mono" in font.name, font.name, font.weight != 400, font.fname)
    )
    families: dict[str, str] = {}
    for font in faces:
        families.setdefault(font.name, font.fname)
    return families


def _new() -> dict[str, str]:
    """As `_known`, after a look at the system's folders for fonts that came after matplotlib's list was made."""
    manager = font_manager.fontManager
    for path in sorted(set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}):
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):  # bitmaps, which matplotlib cannot draw
            manager.addfont(path)
    return _known()
