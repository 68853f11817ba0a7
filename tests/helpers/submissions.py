"""The `ray job submit` lines that the cluster files and the README name."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.helpers.shared import ROOT

FOLDER = ROOT / "launch" / "files" / "clusters"


def comments(path: Path) -> list[str]:
    """The lines with which a file explains itself."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines[0].startswith("#!") else lines
    return [line[1:].strip() for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]


def submissions() -> list[list[str]]:
    """The words of the `ray job submit` lines of job.yaml."""
    lines = [line for line in comments(FOLDER / "job.yaml") if line.startswith("ray job submit")]
    return [shlex.split(line) for line in lines]
