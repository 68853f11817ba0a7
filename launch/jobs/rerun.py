"""`speaq rerun`: a run once more from its folder, and whether it comes out the same."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.runs import diff
from speaq.runs.diff import Metrics, RunRecord
from speaq.training import origins
from speaq.training.callbacks import Callbacks, Progress, Progresses
from speaq.training.metrics import read_lines

from ..trials.place import train_where_asked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A metric or loss of a run then and now; None where it is not defined."""

    which: str  # checkpoint: best or last
    name: str
    then: float | None
    now: float | None

    @property
    def gap(self) -> float:
        """How far the two values are apart, at least 0: infinitely where only one of them is defined."""
        if self.then is None or self.now is None:
            return 0.0 if self.then is self.now else math.inf
        return abs(self.now - self.then)


@dataclass(frozen=True)
class Rerun:
    """A run beside the one that repeats it."""

    before: Path
    after: Path
    pairs: list[Pair]  # not empty

    @property
    def widest(self) -> Pair:
        """The pair whose values are furthest apart."""
        return max(self.pairs, key=lambda pair: pair.gap)

    @property
    def equal(self) -> bool:
        """Whether no value differs."""
        return self.widest.gap == 0


def rerun(
    run: Path, output: Path | None, data: Path | None, progress: Progresses, *, start: Path | None = None
) -> Rerun:
    """Trains again what `run` says, and compares the metrics.

    Config, seed and task are those of the folder; a run that was stopped early is stopped at the same step. Data of
    another digest are refused, other versions are said.

    Args:
        run: folder of a run or trial that has ended.
        output: new folder, default: `<run>-rerun` beside it.
        data: where the data are now, default: where they were, or where they have moved to with the run.
        start: where the weights that it started from are now, likewise.

    Raises:
        ConfigError, DataError: the run has not ended, its data or start have changed, or `output` holds a run.
    """
    before = diff.read(run)
    if not before.metrics or not before.result.keys() >= {"step", "status", "metrics"}:
        raise ConfigError(f"{run}: has no result.json with metrics: the run has not ended, there is nothing to compare")
    output = output or run.with_name(f"{run.resolve().name}-rerun")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is not empty; give another --output")
    where = _data(before, data)
    before = dataclasses.replace(before, config=_with_start(before, start))
    with progress("training") as tell:
        _train(before, where, output, tell)
    after = diff.read(output)
    for name, (then, now) in diff.difference(before, after).made_from.items():
        log.warning("%s was %s, is %s", name, then, now)
    return _compared(before, after)


def _data(before: RunRecord, data: Path | None) -> Path:
    from speaq.data.photo_digest import look_again
    from speaq.data.visual_genome import open_data
    from speaq.runs.run import data_directory

    where = data_directory(before.folder, data)
    vg = open_data(where)
    digest = vg.digest
    if digest != before.data.get("digest"):
        then = str(before.data.get("digest"))[:12]
        raise ConfigError(f"{before.folder}: was trained on other data (digest {then}, {where} has {digest[:12]})")
    if changes := look_again(vg, before.data)[1]:
        raise ConfigError(f"{before.folder}: {where} has changed since it was trained ({'; '.join(changes)})")
    return where


def _with_start(before: RunRecord, given: Path | None) -> Config:
    """The run's config with the weights that it started from where they are now, their digest as it was noted.

    Raises ConfigError where they are gone or have changed.
    """
    then = _start_digest(before)
    config: Config | None
    if given is None:
        config = origins.with_found_start(before.config, before.folder, then)
    elif origins.start(before.config) is None:
        raise ConfigError(f"--init-from {given}: has no effect, {before.folder} started from random weights")
    else:
        config = origins.with_start(before.config, given.resolve())
    if config is None:
        raise origins.missing_start(before.config, before.folder)
    config = origins.with_found_features(config, before.folder)
    if then is not None and origins.start_digest(config) != then:
        raise ConfigError(f"{before.folder}: the weights that it started from have changed since")
    return config


def _start_digest(before: RunRecord) -> str | None:
    """As the run's data.json or, of a trial, its study notes it; None where neither does, or where there were none."""
    noted = before.data.get("start_digest")
    file = before.folder.resolve().parent.parent / "study.yaml"
    if noted is None and file.exists():
        noted = configs.read_yaml(file).get("start_digest")
    return noted if isinstance(noted, str) else None


def _train(before: RunRecord, data: Path, output: Path, tell: Progress) -> None:
    from speaq.training.endings import StopTraining

    last = before.result["step"]
    stopped = before.result["status"] == "stopped"

    def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
        if stopped and step >= last:
            raise StopTraining

    calls = Callbacks(report, progress=tell)
    train_where_asked(before.config, data, output, calls, task=before.data.get("task", "speaq"))


def _compared(before: RunRecord, after: RunRecord) -> Rerun:
    """Holds the metrics of the kept checkpoint and of the last step, and the last training losses, side by side.

    Losses tell runs apart whose recalls are still zero.
    """
    sources = (
        ("best", before.metrics, after.metrics),
        ("last", before.result["metrics"], after.result["metrics"]),
        ("last", _losses(before.folder), _losses(after.folder)),
    )
    pairs = [
        Pair(which, name, then.get(name), now.get(name))
        for which, then, now in sources
        for name in dict.fromkeys([*then, *now])
    ]
    return Rerun(before.folder, after.folder, pairs)


def _losses(folder: Path) -> Metrics:
    """The losses of the last line of training."""
    lines = [line for line in read_lines(folder / "metrics.jsonl") if "train/loss" in line]
    measured = ("learning_rate", "images_per_second", "data_wait_share", "seconds")  # no results
    return {name: value for name, value in lines[-1].items() if not name.endswith(measured)} if lines else {}
