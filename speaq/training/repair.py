"""What a resumed run does about files that a death has left apart: best.pt and last.pt name the same best evaluation.

`checkpoint.save_step` keeps them together whatever happens to the process. What is left are files that were damaged or
removed, runs of earlier versions, and copies in a store, where a run can end between two uploads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.training import checkpoint
from speaq.training.checkpoint import CheckpointError
from speaq.training.metrics import read_lines

log = logging.getLogger(__name__)

WEIGHTS = ("task", "step", "model", "config", "objects", "predicates", "data_digest")  # of a checkpoint that is no run


def best_of(output: Path, previous: Mapping[str, Any]) -> dict[str, Any]:
    """The best evaluation of a run that goes on from `previous`, which best.pt holds when this returns; {}: none yet.

    Weights that are lost are made again from a checkpoint of the same step. Where there is none, the evaluation of
    `previous` takes their place, or else the next one will: which is said.
    """
    folder, best = output / "checkpoints", dict(previous["best"])
    if not best or checkpoint.holds(folder / checkpoint.BEST, best):
        return best
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        content = _readable(folder / name)
        if content is not None and content["step"] == best["step"]:
            log.warning("%s: best.pt did not hold step %d, the best; made again from %s", output, best["step"], name)
            _make(folder, content, best)
            return best
    return _instead(output, previous, best)


def _instead(output: Path, previous: Mapping[str, Any], lost: Mapping[str, Any]) -> dict[str, Any]:
    """The best evaluation where the weights of the one before are lost."""
    step, metric = previous["step"], lost["metric"]
    value = previous["metrics"].get(metric) if previous["evaluated"] == step else None
    what = f"{output}: the weights of the best evaluation (step {lost['step']}, {metric} {lost['value']:.4f}) are lost"
    if value is None:
        log.warning("%s; the best of the evaluations that follow will be best.pt", what)
        return {}
    log.warning("%s; step %d (%.4f) takes its place", what, step, value)
    best = {"metric": metric, "value": value, "step": step, "metrics": dict(previous["metrics"])}
    _make(output / "checkpoints", previous, best)
    return best


def _make(folder: Path, content: Mapping[str, Any], best: Mapping[str, Any]) -> None:
    checkpoint.save(folder / checkpoint.BEST, {**{name: content[name] for name in WEIGHTS}, "best": dict(best)})


def _readable(path: Path) -> dict[str, Any] | None:
    try:
        return checkpoint.load(path)
    except CheckpointError:
        return None


def ended_at_first_evaluation(output: Path) -> bool:
    """Whether best.pt is all that a run has left that ended while its first checkpoint was written or uploaded.

    Such a run begins again. One that went on from there has lines of later steps, or a result.
    """
    content = _readable(output / "checkpoints" / checkpoint.BEST)
    if content is None or not content["best"] or (output / "result.json").exists():
        return False
    lines = read_lines(output / "metrics.jsonl")
    return bool(lines) and max(line.get("step", 0) for line in lines) <= content["step"]
