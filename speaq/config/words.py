"""What is wrong with values that were given, in one line: the findings of pydantic in the words of this project."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from speaq.files.plain_yaml import ConfigError, several

MOST_REASONS = 20  # in one message


class BrokenRules(ValueError):
    """Values of one section that do not go together: its text has all the rules that they break."""

    def __init__(self, rules: Sequence[str]) -> None:
        super().__init__("; ".join(rules))
        self.rules = tuple(rules)


def short(text: str, most: int = 100) -> str:
    """A text that somebody else made up, for one line: cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}…"


def no_such_key(key: str, known: Collection[str]) -> str:
    """What to say of a key that is none of the known ones; names the nearest of them."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"{' '.join(key.split())}: no such key" + (f" (nearest: {close[0]})" if close else "")


def place_and_rule(error: ValidationError) -> tuple[str, str]:
    """Where the first thing is wrong, as a dotted key in one line, and which rule is broken there."""
    first = error.errors(include_url=False)[0]
    return short(_place(first, ".", ())), _rule(first)


def first_reason(error: ValidationError) -> str:
    """The first thing that is wrong: `KEY: RULE`."""
    return ": ".join(place_and_rule(error))


def reasons(
    error: ValidationError,
    where: str,
    known: Collection[str] = (),
    *,
    separator: str = ".",
    left_out: Collection[str] = (),
) -> ConfigError:
    """What to raise for the things that are wrong: `WHERE: KEY: RULE, not VALUE` of each.

    Args:
        where: file or option, for messages.
        known: keys of which the nearest is named where one is unknown.
        separator: between the parts of a key.
        left_out: parts of a key that say nothing to a user.
    """

    def words(detail: ErrorDetails) -> list[str]:
        place = _place(detail, separator, left_out)
        if detail["type"] == "extra_forbidden":
            return [no_such_key(place, known)]
        value, cause = detail.get("input"), detail.get("ctx", {}).get("error")
        shown = "" if isinstance(value, dict) or detail["type"] == "value_error" else f", not {short(repr(value))}"
        rules = cause.rules if isinstance(cause, BrokenRules) else [f"{_rule(detail)}{shown}"]
        return [f"{place + ': ' if place else ''}{rule}" for rule in rules]

    found = [f"{where}: {text}" for detail in error.errors(include_url=False) for text in words(detail)]
    return several(found[:MOST_REASONS])


def _place(detail: ErrorDetails, separator: str, left_out: Collection[str]) -> str:
    parts = [str(part) for part in detail["loc"] if part not in left_out]
    return " ".join(separator.join(parts).split())  # in one line, whatever a file names


def _rule(detail: ErrorDetails) -> str:
    return detail["msg"].removeprefix("Value error, ")
