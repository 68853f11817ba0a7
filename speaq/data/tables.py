"""The two JSON files of a data set: class names, told apart from likely doubles, and ids and sizes of the images."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speaq.data.files import CORRUPT_IDS, Problem, Problems, read_json
from speaq.plain_text import is_text
from speaq.structures import Vocabulary

NAMES = "names are printable text of at most 200 letters"
_EMPTY = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # take no space and show nothing


def tidy(name: str) -> str:
    """The name in Unicode's composed form (NFC), without outer white space, each run of inner white space one space."""
    return " ".join(unicodedata.normalize("NFC", name).translate(_EMPTY).split())


def is_name(name: str) -> bool:
    """Whether a class or a predicate can be called so."""
    return 0 < len(name) <= 200 and is_text(name)


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


@dataclass(frozen=True)
class ImageTable:
    """Row i belongs to row i of the h5."""

    ids: NDArray[np.str_]  # [I]
    sizes_hw: NDArray[np.int32]  # [I, 2] as listed; 0 where the file gives no usable size


def read_vocabulary(path: Path, problems: Problems) -> Vocabulary | None:
    """Object and predicate names in the order of their ids; None, with reasons in `problems`, where unusable."""
    content = read_json(path, problems, _unique_keys)
    if content is None:
        return None
    if not isinstance(content, dict):
        problems.append(Problem(path.name, None, "", "is an object of dictionaries", type(content).__name__))
        return None
    objects = _names(path.name, content, "label_to_idx", "idx_to_label", problems)
    predicates = _names(path.name, content, "predicate_to_idx", "idx_to_predicate", problems)
    return None if objects is None or predicates is None else Vocabulary(objects, predicates)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keys given twice would silently lose a class."""
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return table


def _names(
    file: str, content: Mapping[str, Any], field: str, inverse: str, problems: Problems
) -> tuple[str, ...] | None:
    table = content.get(field)
    if not isinstance(table, dict) or not table:
        value = "missing" if field not in content else reprlib.repr(table)
        problems.append(Problem(file, None, field, "maps names to ids", value))
        return None
    found = len(problems)
    by_id: dict[int, str] = {}
    for name, index in table.items():
        if not is_name(name):
            problems.append(Problem(file, None, field, NAMES, reprlib.repr(name)))
        if type(index) is not int or not 1 <= index <= len(table):
            rule = f"ids are 1 to {len(table)} without gaps"
            problems.append(Problem(file, None, field, rule, f"{name!r}: {reprlib.repr(index)}"))
        elif index in by_id:
            problems.append(Problem(file, None, field, "ids are unique", f"{by_id[index]!r} and {name!r}: {index}"))
        else:
            by_id[index] = name
    _check_inverse(file, content.get(inverse), inverse, field, by_id, problems)
    if len(problems) > found:
        return None
    problems += _odd_names(file, field, list(table))
    return tuple(by_id[i] for i in range(1, len(table) + 1))


def _odd_names(file: str, field: str, names: Sequence[str]) -> Problems:
    """Names that are likely one typed in two ways: one line of each kind."""
    problems: Problems = []
    if untidy := [name for name in names if name != tidy(name)]:
        value = ", ".join(map(repr, untidy[:3])) + (f", … {len(untidy) - 3} more" if len(untidy) > 3 else "")
        rule = "names have no outer or double white space, and are in Unicode's NFC"
        problems.append(Problem(file, None, field, rule, value, "warning"))
    if groups := doubles(names):
        value = describe_doubles(groups)
        problems.append(Problem(file, None, field, "differ by more than case, spaces, _ or -", value, "warning"))
    return problems


def _check_inverse(
    file: str, table: Any, inverse: str, field: str, by_id: Mapping[int, str], problems: Problems
) -> None:
    if not isinstance(table, dict):
        return
    for index, name in by_id.items():
        other = table.get(str(index))
        if other != name:
            value = f"{index}: {reprlib.repr(other)}, not {name!r}"
            problems.append(Problem(file, None, inverse, f"agrees with {field}", value))


def read_images(path: Path, num_rows: int | None, problems: Problems) -> ImageTable | None:
    """Ids and listed sizes of the images; Visual Genome's surplus is dropped where the h5 has no rows for it.

    Args:
        num_rows: rows of the h5; None where it is unusable, then its length is not compared.
    """
    entries = read_json(path, problems)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append(Problem(path.name, None, "", "is a list of objects", type(entries).__name__))
        return None
    rows = range(len(entries)) if num_rows is None else _matching_rows(path.name, entries, num_rows, problems)
    if rows is None:
        return None
    found = len(problems)
    ids = [_image_id(path.name, row, entries[row], problems) for row in rows]
    first: dict[str, int] = {}
    for row, name in zip(rows, ids, strict=True):
        if first.setdefault(name, row) != row:
            rule = f"is unique (row {first[name]} has it too)"
            problems.append(Problem(path.name, row, "image_id", rule, repr(name)))
    if len(problems) > found:
        return None
    sizes = np.array([_size(entries[row]) for row in rows], dtype=np.int32).reshape(-1, 2)
    return ImageTable(np.array(ids, dtype=np.str_), sizes)


def _matching_rows(
    file: str, entries: Sequence[Mapping[str, Any]], num_rows: int, problems: Problems
) -> Sequence[int] | None:
    if len(entries) > num_rows:
        rest = [row for row, entry in enumerate(entries) if str(entry.get("image_id")) not in CORRUPT_IDS]
        if len(rest) == num_rows:
            return rest
    if len(entries) == num_rows:
        return range(num_rows)
    problems.append(Problem(file, None, "", f"has one entry for each of the h5's {num_rows} rows", str(len(entries))))
    return None


def _image_id(file: str, row: int, entry: Mapping[str, Any], problems: Problems) -> str:
    value = entry.get("image_id")
    if type(value) not in (int, str):
        shown = reprlib.repr(value) if "image_id" in entry else "missing"
        problems.append(Problem(file, row, "image_id", "is a number or a text", shown))
        return f"row {row}"
    name = str(value)
    if not names_a_file(name):
        problems.append(Problem(file, row, "image_id", "names a file in the image folder", repr(name)[:80]))
    return name


def names_a_file(name: str) -> bool:
    """Whether a photo `<name>.jpg` can lie in the image folder, on every system."""
    return 0 < len(name) <= 100 and name.isprintable() and not set(name) & set("/\\:") and not name.startswith(".")


def _size(entry: Mapping[str, Any]) -> tuple[int, int]:
    height, width = entry.get("height"), entry.get("width")
    for value in (height, width):
        if type(value) is not int or not 0 < value < 2**24:
            return 0, 0
    return height, width  # type: ignore[return-value]  # both are int
