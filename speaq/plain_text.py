"""Text of others, made safe to show: what a terminal or a page would obey is written out."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator

JOINERS = frozenset("\u200c\u200d")  # between letters of Persian and Indic words, and inside emoji
_OBEYED = ("Cc", "Cs", "Zl", "Zp")  # categories: control characters, halves of surrogates, line separators


def shown(value: object) -> str:
    """A value as tables show it: numbers with four digits, - for None."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def spell(seconds: float) -> str:
    """A time as people say it: `9 s`, `12 min`, `3.1 h`, `2.5 d`."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < size * until:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" and number < 10 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"


def visible(text: object, keep: str = "") -> str:
    """One line in which every control character is an escape: `\\x1b`, `\\n`, `\\u202e` (right-to-left override).

    Args:
        keep: control characters that stay as they are.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c in keep or not is_obeyed(c) else repr(c)[1:-1] for c in plain)


def is_text(name: str) -> bool:
    """Whether a terminal shows every character of the name as one; Python calls the joiners unprintable."""
    return all(letter.isprintable() or letter in JOINERS for letter in name)


def is_obeyed(character: str) -> bool:
    """Whether a terminal or a text layout may act on it instead of showing it."""
    category = unicodedata.category(character)
    return category in _OBEYED or (category == "Cf" and character not in JOINERS)


def room(text: str, letter: float) -> float:
    """Width of a text in font sizes: a letter takes `letter`; a Chinese, Japanese or Korean one and an emoji take 1."""
    return sum(1.0 if unicodedata.east_asian_width(one) in "WF" else letter for one in text)


def is_new(text: str) -> bool:
    """True the first time in a process that it is asked about `text`: for warnings that are said once."""
    return next(_turns(text), False)


@functools.cache
def _turns(text: str) -> Iterator[bool]:
    return iter([True])
