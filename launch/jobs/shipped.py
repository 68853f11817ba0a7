"""Files that come with a checkout: configs, search spaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speaq.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def shipped(name: str) -> Path:
    """The path of a file of the checkout. Raises ConfigError where speaq was installed without one."""
    path = ROOT / name
    if not path.exists():
        raise ConfigError(f"{path}: missing; this command runs from a checkout of the repository")
    return path


def for_detector(assignments: Sequence[str]) -> list[str]:
    """`key=value` of a whole way from nothing to SpeaQ, without the keys that a detector cannot have."""
    of_speaq = ("training.relation_multiplier", "training.init_heads")
    return [assignment for assignment in assignments if assignment.partition("=")[0].strip() not in of_speaq]
