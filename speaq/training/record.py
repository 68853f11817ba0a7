"""What a run writes into its folder beside its metrics: config.yaml, data.json, checkpoints, predicates.json,
result.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import dump, to_dict
from speaq.evaluation.recall import RecallResult
from speaq.evaluation.report import predicate_table
from speaq.files import atomic, locks
from speaq.training import checkpoint, distributed
from speaq.training.device import hardware, peak_memory_mib
from speaq.training.environment import versions
from speaq.training.origins import noted_start, start_digest
from speaq.training.step import Run, State


def write_header(run: Run, seen: Mapping[str, Any], *, begins: bool) -> None:
    """Writes config.yaml and data.json, with what was `seen` of photos; `begins`: no checkpoint is gone on from."""
    locks.check_held(run.output)  # what was taken away while the run was prepared is not made again
    start = start_digest(run.config) if begins else noted_start(run.output)
    run.output.mkdir(parents=True, exist_ok=True)
    atomic.write_text(run.output / "config.yaml", dump(run.config))
    _write_json(
        run.output / "data.json",
        {
            "directory": str(run.vg.directory),
            "digest": run.vg.digest,
            **seen,
            "start_digest": start,
            "train_images": len(run.train_split),
            "val_images": len(run.val_split),
            "task": run.task.name,
        },
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_predicates(run: Run, state: State, recall: RecallResult) -> None:
    """Writes predicates.json: recall by predicate of the evaluation that is the best so far."""
    content = {
        "split": "val",
        "images": len(run.val_split),
        "step": state.step,
        "protocol": run.task.protocol,
        "report": {"predicates": predicate_table(recall, run.vg.vocabulary.predicates)},
    }
    _write_json(run.output / "predicates.json", content)


def save(run: Run, state: State, *, improved: bool = False) -> None:
    """Writes the checkpoint on the first worker, while the others wait, and tells it; `improved`: the best so far."""
    if run.main:
        write_checkpoint(run, state, improved=improved)
    distributed.barrier()
    if run.main:
        run.calls.saved()


def write_checkpoint(run: Run, state: State, *, improved: bool = False) -> None:
    """Writes last.pt, and best.pt too with `improved`: the weights are the best so far."""
    folder = run.output / "checkpoints"
    weights = {  # what evaluation needs of a model, as plain values and tensors
        "task": run.task.name,
        "step": state.step,
        "model": run.task.model.state_dict(),
        "config": to_dict(run.config),
        "objects": list(run.vg.vocabulary.objects),
        "predicates": list(run.vg.vocabulary.predicates),
        "data_digest": run.vg.digest,
    }
    last = {
        **weights,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "seconds": state.seconds,
        "best": state.best,
        "metrics": state.metrics,
        "evaluated": state.evaluated,
    }
    (run.output / "result.json").unlink(missing_ok=True)  # of fewer steps: it is written again at the end
    checkpoint.save_step(folder, last, {**weights, "best": state.best} if improved else None)
    state.kept = state.step


def write_result(run: Run, state: State, status: str) -> dict[str, Any]:
    """Writes result.json on the first worker, and returns what is in it on every worker."""
    result = {
        "status": status,
        "step": state.step,
        "protocol": run.task.protocol,
        "metrics": state.metrics,
        "best": state.best,
        "seconds": round(state.seconds, 3),
        "cost": _cost(run, state),
        "versions": versions(),
        "hardware": hardware(run.device),
    }
    if run.main:
        _write_json(run.output / "result.json", result)
    return result


def _cost(run: Run, state: State) -> dict[str, float | None]:
    """What the run took: seconds over all its attempts, the rest since the last one began."""
    return {
        "seconds": round(state.seconds, 3),
        "steps": state.step,
        "workers": distributed.world()[1],
        "peak_memory_mib": round(peak_memory_mib(run.device), 1),
        "data_wait_share": round(state.waited / state.trained, 4) if state.trained else None,
        "latency_ms": None if state.latency_ms is None else round(state.latency_ms, 3),
    }
