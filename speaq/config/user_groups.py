"""Predicate groups that a user names: a YAML file, or a mapping in the config, kept in the config as one line of JSON.

The line holds all that the file says, so that a run, a trial and a search can be repeated from their folders alone,
whatever becomes of the file, and so that a search can choose between several of them. The form:

    spatial: [on, in, near]                          # a name of your own: predicates, as the data set calls them
    possession: {predicates: [has, of], queries: 40} # subject queries: of all groups, or of none
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from speaq.files.plain_yaml import ConfigError, parse_yaml, read_yaml

FORM = "NAME: [predicate, …] or NAME: {predicates: [predicate, …], queries: number} for every group"


@dataclass(frozen=True)
class UserGroup:
    """One group as the user wrote it."""

    name: str
    predicates: tuple[str, ...]  # at least one
    queries: int | None  # subject queries; None in every group: shared out by frequency


def as_text(value: Any) -> str | None:
    """A file's name (.yaml, .yml), a mapping, or its YAML, as one line of JSON; None stays None.

    Raises:
        ConfigError: it cannot be read, or is not of the form; the message names group, rule and value.
    """
    if value is None:
        return None
    where = ""
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        where, value = f"{value}: ", read_yaml(Path(value))
    elif isinstance(value, str):
        value = _content(value)
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{where}a YAML file, or a mapping of {FORM}, not {value!r}")
    groups = [_read(name, content, where) for name, content in value.items()]
    _check(groups, where)
    content = {g.name: list(g.predicates) if g.queries is None else _with_queries(g) for g in groups}
    return json.dumps(content, ensure_ascii=False)


@lru_cache(maxsize=64)
def parse(text: str) -> tuple[UserGroup, ...]:
    """The groups of a line that `as_text` gave."""
    return tuple(_read(name, content, "") for name, content in json.loads(text).items())


def label(text: str | None) -> str:
    """The names of the groups alone, for tables and figures; empty without groups."""
    return "" if text is None else " | ".join(group.name for group in parse(text))


def _content(text: str) -> Any:
    try:
        return json.loads(text)  # mostly a line of our own, a hundred times as quick as YAML
    except json.JSONDecodeError:
        return parse_yaml(text, "groups")


def _with_queries(group: UserGroup) -> dict[str, Any]:
    return {"predicates": list(group.predicates), "queries": group.queries}


def _read(name: Any, content: Any, where: str) -> UserGroup:
    queries = None
    if isinstance(content, Mapping):
        if set(content) != {"predicates", "queries"}:
            raise ConfigError(f"{where}{name}: has the keys predicates and queries, not {', '.join(content)}")
        queries, content = content["queries"], content["predicates"]
        if isinstance(queries, bool) or not isinstance(queries, int) or queries < 1:
            raise ConfigError(f"{where}{name}: queries: a whole number of at least 1, not {queries!r}")
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ConfigError(f"{where}{name}: {FORM}, not {content!r}")
    if not content:
        raise ConfigError(f"{where}{name}: is empty; a group has at least one predicate")
    for predicate in content:
        if not isinstance(predicate, str):
            raise ConfigError(f"{where}{name}: a predicate is text, not {predicate!r}")
    return UserGroup(str(name), tuple(content), queries)


def _check(groups: Sequence[UserGroup], where: str) -> None:
    if len(groups) == 1:
        raise ConfigError(f"{where}{groups[0].name}: one group is no grouping; set num_groups: 1 instead")
    times = Counter(predicate for group in groups for predicate in group.predicates)
    predicate, number = times.most_common(1)[0]
    if number > 1:
        owners = " and ".join(dict.fromkeys(group.name for group in groups if predicate in group.predicates))
        raise ConfigError(f"{where}{owners}: predicate {predicate!r} is given {number} times; it has one group")
    without = [group.name for group in groups if group.queries is None]
    if 0 < len(without) < len(groups):
        raise ConfigError(f"{where}{without[0]}: has no queries, others have; give them for all groups or for none")
