"""What a golden case is, what a comparison gives, and the one table of tolerances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Absolute (atol) and relative (rtol) tolerances by group and quantity, no wider than the golden README's.
TOLERANCES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "G1": {"exact": (0, 0)},
    "G2": {"exact": (0, 0), "k_sum": (1e-4, 0), "cost": (1e-3, 0), "masked_cost": (0.1, 0), "k_mean_log": (1e-6, 0)},
    "G3": {"loss": (1e-6, 1e-5), "gradient": (1e-6, 1e-3), "weight": (0, 1e-5), "exact": (0, 0)},
    # float32_sum: the README has no tolerance for sums in float32, whose rounding depends on their order
    "G4": {"exact": (0, 0), "metric": (1e-9, 0), "box": (1e-2, 0), "float32_sum": (0, 1e-6)},
    "G5": {"exact": (0, 0), "score": (1e-5, 0), "box": (1e-2, 0)},
    "G6": {"output": (1e-4, 0), "position": (1e-5, 0)},
    "G7": {
        "logits": (2e-3, 0),
        "boxes": (2e-4, 0),
        "loss": (0, 1e-3),
        "pixel": (0.1, 0),
        "score": (1e-3, 0),
        "exact": (0, 0),
    },
    "G8": {"box": (1e-5, 0), "giou": (1e-4, 0), "exact": (0, 0)},
    "G9": {"exact": (0, 0), "box": (1e-3, 0), "ratio": (1e-5, 0), "pixel": (1, 0)},
    "G10": {"relative": (0, 1e-12), "exact": (0, 0)},
    "G11": {"first": (0, 1e-5), "later": (0, 1e-3), "single": (0, 1e-2), "update": (0, 2e-2), "rounding": (0, 1e-4)},
}


# Our outputs → the reference's names of them.
OUTPUTS: Mapping[str, str] = {
    "subject_logits": "relation_subject_logits",
    "object_logits": "relation_object_logits",
    "predicate_logits": "relation_logits",
    "subject_boxes": "relation_subject_boxes",
    "object_boxes": "relation_object_boxes",
    "relation_boxes": "relation_boxes",
}


@dataclass(frozen=True)
class Case:
    name: str
    group: str
    file: Path
    config: Mapping[str, Any]
    notes: str = ""
    device: str = "cpu"  # where networks and losses compute; files and statistics stay on the host

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays of an .npz case by name."""
        with np.load(self.file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    @cached_property
    def content(self) -> Any:
        """The content of a .json case."""
        return json.loads(self.file.read_text(encoding="utf-8"))

    def tensor(self, name: str) -> Tensor:
        """An array, on the host."""
        return torch.from_numpy(self.arrays[name].copy())

    def on_device(self, name: str) -> Tensor:
        """An array, on the case's device."""
        return self.tensor(name).to(self.device)


@dataclass(frozen=True)
class Check:
    """One comparison; `error` is in units of nothing but itself, ok when it does not exceed `tolerance`.

    `absolute` is the largest absolute difference where `error` is not that already.
    """

    name: str
    error: float
    tolerance: float = 0.0
    detail: str = ""
    absolute: float | None = None

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # NaN is not ok


def compare(case: Case, name: str, quantity: str, ours: Any, theirs: Any) -> Check:
    """Compares two arrays under the table's tolerance; a wrong shape is an infinite error.

    With a relative tolerance the error is reported as the excess ratio |a-b| / (atol + rtol |b|), tolerance 1.
    """
    atol, rtol = TOLERANCES[case.group][quantity]
    a, b = (np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x) for x in (ours, theirs))
    if a.shape != b.shape:
        return Check(name, float("inf"), detail=f"shape {a.shape}, expected {b.shape}")
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    if rtol == 0:
        return Check(name, float(difference.max(initial=0.0)), atol)
    ratio = difference / np.maximum(atol + rtol * np.abs(b.astype(np.float64)), np.finfo(np.float64).tiny)
    absolute = float(difference.max(initial=0.0))
    return Check(name, float(ratio.max(initial=0.0)), 1.0, f"largest absolute {absolute:.3g}", absolute)
