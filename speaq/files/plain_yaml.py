"""YAML as people mean it: PyYAML's traps closed, errors in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from speaq.files.regular import check_regular


class ConfigError(ValueError):
    """A configuration that cannot be used: the message names file, key, rule and value in one line."""

    problems: tuple[str, ...] = ()  # where several things are wrong; the text has the first of them

    @property
    def each(self) -> tuple[str, ...]:
        """What is wrong, one thing after the other; one that is alone is the whole text."""
        return self.problems or (str(self),)


MOST_IN_LINE = 3  # problems


def several(problems: Sequence[str]) -> ConfigError:
    """What to raise for things that are wrong at once with one configuration."""
    error = ConfigError("; ".join(problems[:MOST_IN_LINE]))
    error.problems = tuple(problems)
    return error


MAX_TEXT, MAX_VALUES = 2**22, 200_000  # characters, and values with aliases written out, of a document
_ODD_TAGS = (AttributeError, IndexError, KeyError, TypeError, OverflowError)  # what `!!timestamp x`, `!!int ''` … raise


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its traps: 1e-4 is a number, on/off/yes/no are text, 012 is refused, keys are unique."""


_REPLACED_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or PyYAML would read as something else: a digest of 12e3456789 is not a number."""


def _add_resolvers() -> None:
    for tag, pattern, first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
        (
            "float",
            r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$",
            "-+0123456789.",
        ),
    ):
        for reader_or_writer in (_Loader, _Dumper):
            reader_or_writer.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_add_resolvers()


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is not a plain value", problem_mark=key_node.start_mark)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Parses one YAML document without PyYAML's traps; `where` names the source in errors (`ConfigError`)."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{where}: {len(text):,} characters of YAML, at most {MAX_TEXT:,} are read")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MAX_VALUES:
            raise ConfigError(f"{where}: more than {MAX_VALUES:,} values once its aliases are written out")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}"
        raise ConfigError(f"{where}{line}: {' '.join(str(error.problem).split())}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, *_ODD_TAGS) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{where}: not valid YAML ({reason})") from error


def dump_yaml(value: Any) -> str:
    """A YAML document that `parse_yaml` reads as it was, keys in their order, innermost collections on one line."""
    layout: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 110, "allow_unicode": True}
    return str(yaml.dump(value, Dumper=_Dumper, **layout))


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values of a document whose aliases are written out, infinite for one that holds itself.

    A few lines of aliases of aliases would else fill the memory, in whatever walks over the values.
    """
    if id(node) not in known:
        known[id(node)] = math.inf  # until all below has been counted: an alias that leads here again
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = (part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_written_out(part, known) for part in nodes)
    return known[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping (an empty file is {}); raises `ConfigError` in one line."""
    try:
        text = check_regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason})") from error
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the top level is a mapping of keys, not {type(value).__name__}")
    return value
