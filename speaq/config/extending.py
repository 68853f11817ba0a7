"""`extends: OTHER.yaml` in a config or search space: what the other says holds where this one says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.files.plain_yaml import ConfigError, read_yaml

EXTENDS = "extends"
PARAMETERS = "parameters"  # of a search space


def read_whole(path: Path) -> dict[str, Any]:
    """The values of a file with those of the files that it extends, sections merged key by key.

    The value of a key is replaced as a whole, be it a list, a parameter or a mapping. A parameter that is null here is
    taken away. A path is relative to the file that names it.

    Raises:
        ConfigError: a file that cannot be read, that extends itself by whatever way, or `extends` that is no path.
    """
    values, readers = read_yaml(path), [path.resolve()]
    while EXTENDS in values:
        reader, other = readers[-1], values.pop(EXTENDS)
        if not isinstance(other, str) or not other:
            raise ConfigError(f"{reader}: {EXTENDS}: the path of one file is expected, not {other!r}")
        found = (reader.parent / other).resolve()
        if found in readers:
            way = " extends ".join(one.name for one in (*readers[readers.index(found) :], found))
            raise ConfigError(f"{reader}: {EXTENDS}: no file extends itself: {way}")
        try:
            base = read_yaml(found)
        except ConfigError as error:
            raise ConfigError(f"{reader}: {EXTENDS}: {error}") from error
        readers.append(found)
        values = _merged(base, values)
    return values


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A new mapping: `values`, and what `base` has beside them, section by section."""
    result = {**base, **values}
    for name, section in values.items():
        below = base.get(name)
        if isinstance(below, Mapping) and isinstance(section, Mapping):
            taken = {key for key in below if name == PARAMETERS and key in section and section[key] is None}
            result[name] = {key: value for key, value in {**below, **section}.items() if key not in taken}
    return result
