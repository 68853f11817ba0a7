"""What a run that is resumed goes on from, and which keys of its config may have changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speaq.config import Config, ConfigError, defaults, flatten, to_dict
from speaq.training import checkpoint, distributed
from speaq.training.tasks import TaskName

# Keys that may differ when a run is resumed: they do not change what is computed, or only how long.
RESUMABLE = (
    "training.max_steps",
    "training.device",
    "model.activation_checkpointing",
    "training.micro_batch_size",  # memory that proved too small is no reason to start again; see `OutOfMemory`
    "training.num_threads",
    "training.log_every",
    "data.num_workers",
    "sinks.",
    "resources.",
)
SCHEDULE = "losses.schedule"  # may differ in what is still to come


def previous_run(config: Config, output: Path, task: TaskName, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, checked against the config; refuses to overwrite a run."""
    folder = output / "checkpoints"
    if not resume:
        if (output / "config.yaml").exists():
            raise ConfigError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
        return None
    if distributed.world()[0] == 0:
        checkpoint.tidy(folder)
    previous = checkpoint.load_latest(folder)
    steps = distributed.gather(None if previous is None else previous["step"])
    if len(set(steps)) > 1:
        raise RuntimeError(f"{output}: the workers see checkpoints of different steps ({steps})")
    if previous is None:
        if (folder / checkpoint.BEST).exists():
            raise ConfigError(f"{output}: holds weights alone, no run to resume; give it as training.init_from")
        return None
    if previous.get("task") != task:
        raise ConfigError(f"{output}: is a run of a {previous.get('task')}, not of a {task}")
    before = {**defaults(), **flatten(previous["config"])}  # a later version has more keys
    now = flatten(to_dict(config))
    for values in (before, now):
        values[SCHEDULE] = _until(previous["step"], values[SCHEDULE])
    changed = [key for key in now if now[key] != before[key] and not key.startswith(RESUMABLE)]
    if changed:
        what = ", ".join(f"{k}: {before[k]!r} then, {now[k]!r} now" for k in changed[:3])
        raise ConfigError(f"{output}: cannot resume with another config ({what})")
    return previous


def _until(step: int, schedule: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The changes of a schedule that the first `step` steps have seen."""
    return [change for change in schedule if change["step"] < step]
