"""The published figures, and ours beside them in the reference's print format (method section 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from speaq.config import ConfigError
from speaq.config.sections import EvaluationConfig
from speaq.evaluation.protocol import common_protocol
from speaq.evaluation.report import KINDS

AT = (20, 50, 100)
PROTOCOL = "sgdet published"
Figures = Mapping[str, Sequence[float]]  # metric → values at `AT`
# Visual Genome's test split, the reference's trained checkpoint.
SPEAQ: Figures = {
    "R": (0.2508, 0.3206, 0.3554),
    "ngR": (0.2362, 0.3078, 0.3482),
    "zR": (0.0123, 0.0304, 0.0463),
    "mR": (0.1011, 0.1508, 0.1760),
}
VISUAL_GENOME = {"object_classes": 150, "predicates": 50, "test images": 26_446}


def require_published_protocol(config: EvaluationConfig) -> None:
    """Raises ConfigError where figures made with `config` could not stand beside the published ones."""
    wanted = EvaluationConfig()
    for name in ("recall_at", "iou_threshold", "protocol", "zero_shot"):
        if (value := getattr(config, name)) != (published := getattr(wanted, name)):
            raise ConfigError(f"evaluation.{name}: {value}, but the published figures are made with {published}")


def comparison(report: Mapping[str, Any], published: Figures | None) -> str:
    """Ours, the published figures and the difference, a line each for R, ng-R, zR and mR.

    Args:
        report: what `speaq.evaluation.report.to_json` gives.
        published: None where nothing was published.

    Raises:
        ValueError: the report's protocol is another one than the published figures'.
    """
    if published is not None:
        common_protocol([report["protocol"], PROTOCOL])
    lines = []
    for name in SPEAQ:
        metrics = [report["metrics"].get(f"{name}@{k}") for k in AT]
        ours = [math.nan if value is None else value for value in metrics]
        lines.append(f"SGG eval: {_values(name, ours)} for mode={report['mode']}, type={KINDS[name]}.")
        if published is not None:
            theirs = published[name]
            lines.append(f"published {_values(name, theirs)}")
            lines.append(f"difference{_values(name, [a - b for a, b in zip(ours, theirs, strict=True)], '+')}")
    return "\n".join(lines)


def _values(name: str, values: Sequence[float], sign: str = "") -> str:
    return "".join(f"{name:>5s} @ {k}: {value:{sign}.4f}; " for k, value in zip(AT, values, strict=True))


def is_visual_genome(data: Mapping[str, Any]) -> bool:
    """Whether a data set, as the record describes it, has the size of the one that the figures were published for."""
    found = {**data, "test images": data["images"]["test"]}
    return all(found[key] == value for key, value in VISUAL_GENOME.items())
