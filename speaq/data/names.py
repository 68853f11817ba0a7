"""Names of classes and predicates as people type them: tidied, and told apart from likely doubles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from speaq.plain_text import JOINERS

_EMPTY = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # take no space and show nothing


def tidy(name: str) -> str:
    """The name in Unicode's composed form (NFC), without outer white space, each run of inner white space one space."""
    return " ".join(unicodedata.normalize("NFC", name).translate(_EMPTY).split())


def is_text(name: str) -> bool:
    """Whether a terminal shows every character of the name as one; Python calls the joiners unprintable."""
    return all(letter.isprintable() or letter in JOINERS for letter in name)


def double_key(name: str) -> str:
    """The same for names that differ by case, white space, underscores, hyphens or width of letters alone."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_\-‐‑–]+", "", folded) or folded  # noqa: RUF001  # of a name of hyphens alone


def doubles(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that are likely meant to be one, in the order of `names`."""
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        groups.setdefault(double_key(name), {})[name] = None
    return [list(group) for group in groups.values() if len(group) > 1]


def describe_doubles(groups: list[list[str]]) -> str:
    """The first groups in a few words: `'Next to' = 'next to', …`."""
    more = f", … {len(groups) - 3} more" if len(groups) > 3 else ""
    return ", ".join(" = ".join(map(repr, group)) for group in groups[:3]) + more
