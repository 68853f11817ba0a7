"""Files that come with a checkout: configs, search spaces."""

from __future__ import annotations

from pathlib import Path

from speaq.config import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """The path of a file of the checkout. Raises ConfigError where speaq was installed without one."""
    path = ROOT / name
    if not path.exists():
        raise ConfigError(f"{path}: missing; this command runs from a checkout of the repository")
    return path
