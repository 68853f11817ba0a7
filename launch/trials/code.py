"""The code that a run executes: its training function by name, and whether a node has the same code."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable
from typing import Any

from speaq.config import ConfigError
from speaq.study.errors import Halted
from speaq.training.environment import source_digest


def training_function(path: str) -> Callable[..., dict[str, Any]]:
    """`module:name` → the function. Raises ConfigError for code that is not ours: the path is read from files."""
    if not re.fullmatch(r"(speaq|launch|tests)(\.\w+)+:\w+", path):
        raise ConfigError(f"train: {path!r} is no training function of speaq")
    module, _, name = path.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    return function


def check_code(source: str | None, what: str = "search") -> None:
    """Raises Halted where this node has other code than the search or run that sent it work, of digest `source`."""
    if source not in (None, here := source_digest()):
        raise Halted(
            f"{platform.node()} runs other code than the {what} (source {here}, {source} there); install the "
            "same on all nodes"
        )
