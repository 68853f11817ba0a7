"""Where speaq lies, and the configs and search spaces that come with it.

A checkout has them and `launch` beside the package; an installed speaq holds all of them inside.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePath
from typing import Literal

from speaq.files.plain_yaml import ConfigError

log = logging.getLogger(__name__)

Kind = Literal["configs", "search_spaces"]

PACKAGE = Path(__file__).resolve().parents[1]
CODE = PACKAGE.parent  # what Python imports speaq from
HOME = PACKAGE if (PACKAGE / "launch").is_dir() else CODE  # of launch, configs and search_spaces


def shipped(kind: Kind, name: str) -> Path:
    """The file of a name, such as `toy`, that comes with speaq; whether there is one is not asked."""
    return HOME / kind / f"{name}.yaml"


def names(kind: Kind) -> list[str]:
    """What `shipped` has, in alphabetical order."""
    return sorted(path.stem for path in (HOME / kind).glob("*.yaml"))


def chosen(asked: Path, kind: Kind) -> Path:
    """The file that a user means by a path or a name: the one that is there, else the one of that name with speaq.

    `toy`, `toy.yaml` and `configs/toy.yaml` all name a config that comes with speaq. A path that names nothing comes
    back as it is. Raises ConfigError, with the names that there are, for a mere name that is none of them.
    """
    is_name = asked.parent in (PurePath(), PurePath(kind)) and asked.suffix in ("", ".yaml")
    if not is_name or asked.exists():
        return asked
    known = names(kind)
    if asked.stem in known:
        found = shipped(kind, asked.stem)
        log.info("%s is not here: the one that comes with speaq is used, %s", asked, found)
        return found
    if asked.suffix:
        return asked
    raise ConfigError(f"{asked}: no such file, and none of the {kind} that come with speaq: {', '.join(known)}")
