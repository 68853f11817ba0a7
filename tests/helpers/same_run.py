"""Whether two run folders hold the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from speaq.training import checkpoint
from speaq.training.metrics import read_lines


def timeless(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    clock = ("seconds", "images_per_second", "data_wait_share")
    return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in read_lines(folder / "metrics.jsonl")]


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(folder / "checkpoints" / name)["model"]
    return state


def assert_same_run(a: Path, b: Path) -> None:
    assert timeless(a) == timeless(b)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
