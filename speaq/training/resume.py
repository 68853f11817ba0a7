"""What a run that is resumed goes on from, and what may have changed since: keys of its config, its start, its data.

`checkpoint.save_step` keeps best.pt and last.pt together whatever happens to the process: both name the same best
evaluation. What is left to mend are files that were damaged or removed, runs of earlier versions, and copies in a
store, where a run can end between two uploads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import Config, ConfigError, apply, defaults, flatten, to_dict
from speaq.data import photo_digest
from speaq.data.visual_genome import VisualGenome
from speaq.files import foreign
from speaq.training import checkpoint, distributed, origins
from speaq.training.checkpoint import CheckpointError
from speaq.training.metrics import read_lines
from speaq.training.tasks import TaskName

log = logging.getLogger(__name__)

# Keys that may differ when a run is resumed: they do not change what is computed, or only how long.
RESUMABLE = (
    "training.max_steps",
    "training.features",  # which hold what the frozen parts would make anew, or are refused
    "training.device",
    "model.activation_checkpointing",
    "training.micro_batch_size",  # memory that proved too small is no reason to start again; see `OutOfMemory`
    "training.num_threads",
    "training.log_every",
    "training.eval_every",
    "training.checkpoint_every",
    "data.num_workers",
    "sinks.",
    "resources.",
)
# These may differ in what is still to come.
SCHEDULE, DECAYS, DECAY_FACTOR = "losses.schedule", "training.decay_steps", "training.decay_factor"
STATE = ("optimizer", "scaler", "seconds", "best", "metrics")  # of a run, in its checkpoints


def previous_run(config: Config, output: Path, task: TaskName, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, checked against the config; refuses to overwrite a run."""
    folder = output / "checkpoints"
    if not resume:
        if (output / "config.yaml").exists():
            raise ConfigError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
        return None
    if distributed.world()[0] == 0:
        checkpoint.settle(folder)
        checkpoint.tidy(output)
    distributed.barrier()
    previous = checkpoint.load_latest(folder)
    steps = distributed.gather(None if previous is None else previous["step"])
    if len(set(steps)) > 1:
        raise RuntimeError(f"{output}: the workers see checkpoints of different steps ({steps})")
    if previous is None:
        if (folder / checkpoint.BEST).exists() and not ended_at_first_evaluation(output):
            raise ConfigError(f"{output}: holds weights alone, no run to resume; give it as training.init_from")
        return None
    if previous.get("task") != task:
        raise ConfigError(f"{output}: is a run of a {previous.get('task')}, not of a {task}")
    if lacking := [name for name in STATE if previous.get(name) is None]:
        raise ConfigError(
            f"{output}: its checkpoint has no {lacking[0]}: it holds weights alone, no run to resume; give it as "
            "training.init_from"
        )
    before = {**defaults(), **flatten(previous["config"])}  # a later version has more keys
    now = flatten(to_dict(config))
    for values in (before, now):
        _forget_what_is_to_come(values, previous["step"])
    changed = [
        key for key in now if now[key] != before[key] and not key.startswith(RESUMABLE) and not origins.is_of_start(key)
    ]
    if changed:
        what = ", ".join(f"{k}: {before[k]!r} then, {now[k]!r} now" for k in changed[:3])
        raise ConfigError(f"{output}: cannot resume with another config ({what})")
    _check_start(config, output, before)
    return previous


def _check_start(config: Config, output: Path, before: Mapping[str, Any]) -> None:
    """Raises ConfigError where weights to start from are given that the run did not start from.

    By what they hold: none need be given, and a path that leads nowhere is as good as none.
    """
    named = origins.start(config)
    if named is None or before.get(named[0]) == str(named[1]) or not named[1].exists():
        return
    key, path = named
    if all(before.get(name) is None for name in origins.STARTS):
        raise ConfigError(f"{output}: cannot resume with another start ({key}: none then, {path} now)")
    then = origins.noted_start(output)
    if then is not None and (now := origins.start_digest(config)) != then:
        what = f"{key}: digest {then[:12]} then, {path} has {(now or '')[:12]}"
        raise ConfigError(f"{output}: cannot resume with another start ({what})")


def with_known_start(config: Config, previous: Mapping[str, Any]) -> Config:
    """The config of a run that goes on, with the start that it had where none that exists is given now."""
    named = origins.start(config)
    if named is not None and named[1].exists():
        return config
    before = flatten(previous["config"])
    return apply(
        config, {key: before[key] for key in flatten(to_dict(config)) if origins.is_of_start(key) and key in before}
    )


def _forget_what_is_to_come(values: dict[str, Any], steps: int) -> None:
    """Of a flat config: changes that the first `steps` steps have not seen."""
    values[SCHEDULE] = [change for change in values[SCHEDULE] if change["step"] < steps]
    values[DECAYS] = [step for step in values[DECAYS] if step < steps]
    if not values[DECAYS]:
        values[DECAY_FACTOR] = None


def look_at_data(
    output: Path, vg: VisualGenome, previous: Mapping[str, Any] | None, *, force: bool, main: bool
) -> Mapping[str, Any]:
    """What data.json is to note of photos and zero-shot list; empty on other workers than the first of a new run.

    Raises ConfigError where annotations, photos or zero-shot list have changed since the run in `output` began, unless
    forced; forced too where their names have, or where data.json is damaged.
    """
    if previous is None:
        return photo_digest.look(vg) if main else {}
    _check_annotations(output, vg, previous, force)
    return _look_at_photos(output, vg, force)


def _check_annotations(output: Path, vg: VisualGenome, previous: Mapping[str, Any], force: bool) -> None:
    """Raises ConfigError where the annotations are others than a checkpoint's; forced, where their names are."""
    if previous["data_digest"] == vg.digest:
        return
    what = f"digest {vg.digest[:12]} now, {previous['data_digest'][:12]} then"
    names = vg.vocabulary
    if (list(previous["objects"]), list(previous["predicates"])) != (list(names.objects), list(names.predicates)):
        raise ConfigError(f"{output}: cannot resume on data of other classes or predicates ({what})")
    if not force:
        raise ConfigError(f"{output}: cannot resume on other data ({what}); --force goes on")
    log.warning("goes on with other data: %s", what)


def _look_at_photos(output: Path, vg: VisualGenome, force: bool) -> Mapping[str, Any]:
    file = output / "data.json"
    try:
        before = foreign.read_json(file) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); take it away to go on without it") from error
    seen, changes = photo_digest.look_again(vg, before if isinstance(before, dict) else {})
    if changes and not force:
        raise ConfigError(f"{output}: {vg.directory} has changed since ({'; '.join(changes)}); --force goes on")
    for change in changes:
        log.warning("goes on with other %s", change)
    return seen


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
