"""Training functions by their import paths, as studies on disk name them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from speaq.config import ConfigError


def training_function(path: str) -> Callable[..., dict[str, Any]]:
    """`module:name` → the function. Raises ConfigError for code that is not ours: the path is read from files."""
    if not re.fullmatch(r"(speaq|launch|tests)(\.\w+)+:\w+", path):
        raise ConfigError(f"train: {path!r} is no training function of speaq")
    module, _, name = path.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    return function
