"""Training, evaluating and opening, with paths as text or `Path`. What these need is imported when they are called."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq import config as configs
from speaq.api.run import AnyPath, LoadedRun, load_run
from speaq.config import Config, ConfigError
from speaq.training.callbacks import Progress, no_progress

if TYPE_CHECKING:  # with PyTorch, which takes seconds
    from speaq.api.evaluation import RunResult
    from speaq.data.records import SplitName, VisualGenome
    from speaq.training.tasks import TaskName


def load_config(path: AnyPath | None = None, changes: Mapping[str, Any] | None = None) -> Config:
    """A config file, or the published setting for Visual Genome, with changes: `{"training.max_steps": 100}`.

    Raises ConfigError, which names file, key, rule and value.
    """
    given = {key: _plain(key, value) for key, value in (changes or {}).items()}
    if path is None:
        return configs.apply(Config(), given, "changes")
    return configs.load(Path(path), [f"{key}={json.dumps(value)}" for key, value in given.items()])


def _plain(key: str, value: Any) -> Any:
    """A value as a config has it: a path as text, what NumPy or torch hold as Python's numbers. Raises ConfigError."""
    if not isinstance(key, str):
        raise ConfigError(f"changes: {key!r}: a key is text, such as 'training.max_steps'")
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    plain = plain.tolist() if hasattr(plain, "tolist") else plain
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"changes: {key}: {value!r} is no number, text, list or mapping of them ({error})") from None
    return plain


def load_data(directory: AnyPath) -> VisualGenome:
    """Opens a data set in Visual Genome's four files, without its photos where they are not there. Raises DataError."""
    from speaq.data.files import PhotoFolders
    from speaq.data.visual_genome import open_data

    folder = Path(directory)
    return open_data(folder, need_images=PhotoFolders.of(folder).exist)


def train(
    config: Config | AnyPath,
    data: AnyPath,
    output: AnyPath,
    *,
    task: TaskName = "speaq",
    resume: bool = False,
    force: bool = False,
    progress: Progress = no_progress,
) -> LoadedRun:
    """Trains in this process until `training.max_steps`, and returns the run.

    Args:
        config: a config, or the file of one.
        data: folder with the four files of the data set.
        output: folder of the run, new; with `resume` the run found there goes on where its last checkpoint was.
        task: `speaq`, or `detector`, which SpeaQ starts from (`training.init_from`).
        force: with `resume`, go on where the data set has changed since.
        progress: called now and then with steps done, steps in all and a text.

    Raises:
        ConfigError, DataError: what was given cannot be used; several workers are for `speaq train`.
        Interrupted: Ctrl-C, after a checkpoint was written; others as of `speaq.training.loop.train`.
    """
    from speaq.training import loop

    asked = config if isinstance(config, Config) else configs.load(Path(config))
    if asked.resources.num_workers > 1:
        raise ConfigError(
            f"resources.num_workers {asked.resources.num_workers}: speaq.train() trains in this process alone; "
            "set it to 1, or use the command `speaq train`, which starts workers"
        )
    run = Path(output)
    loop.train(asked, Path(data), run, task=task, resume=resume, force=force, progress=progress)
    return load_run(run)


def evaluate(
    run: AnyPath | LoadedRun,
    split: SplitName = "val",
    data: AnyPath | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    predictions: AnyPath | None = None,
    progress: Progress = no_progress,
) -> RunResult:
    """Evaluates the kept checkpoint of a run, or a checkpoint file, on a split.

    Args:
        data: folder of the data set; default: where the run has it from.
        changes: keys of `inference`, or `evaluation.batch_size`, with other values than the run's.
        predictions: a file to write every image's prediction into, for `speaq metrics` and `speaq explore`.
        progress: called now and then with images done, images in all and a text.

    Raises:
        ConfigError, CheckpointError, DataError: run or data cannot be used, or do not belong together.
    """
    from speaq.api.evaluation import evaluated

    return evaluated(
        run.folder if isinstance(run, LoadedRun) else Path(run),
        split,
        data,
        predictions=None if predictions is None else Path(predictions),
        overrides=changes,
        progress=progress,
    )
