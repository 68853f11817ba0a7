"""Calls in our source: which function is called where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.shared import ROOT

SOURCES = sorted([*(ROOT / "speaq").rglob("*.py"), *(ROOT / "launch").rglob("*.py")])


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """(what is called, the whole call) of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), ast.unparse(node)
