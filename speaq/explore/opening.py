"""From what the command line gives to a context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py

from speaq.config import ConfigError, DataConfig, EvaluationConfig, from_dict, read_yaml
from speaq.data.records import SplitName, VisualGenome
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import FORMAT, PredictionFile
from speaq.explore.context import Context, NotFound
from speaq.explore.study import StudyFolder, open_study
from speaq.explore.view import View
from speaq.training.run import data_directory

ALL_IMAGES = DataConfig(num_val=0, keep_images_without_relations=True, filter_non_overlap=False)


@dataclass(frozen=True)
class Request:
    """What is to be looked at: a data set, a run or a search."""

    data: Path | None
    run: Path | None = None
    study: Path | None = None
    split: SplitName = "train"
    predictions: Path | None = None


def explore(request: Request) -> Context:
    """Opens everything that a server needs once. Raises DataError, ConfigError."""
    if request.study is not None and (request.run is not None or request.predictions is not None):
        raise ConfigError(f"--study {request.study}: has runs of its own; leave --run and --predictions out")
    if request.study is not None:
        study = open_study(request.study)
        data = _open(request.data or study.data)
        return Context(data, _data_view(data, request), study, _trials(study, data, request))
    if request.run is not None:
        data = _open(data_directory(request.run, request.data))
        return Context(data, run_view(data, request.run, request))
    if request.data is None:
        raise ConfigError("say what to explore: a folder of data, --run RUN or --study STUDY")
    data = _open(request.data)
    return Context(data, _data_view(data, request))


def _open(directory: Path) -> VisualGenome:
    return open_data(directory, need_images=(directory / "VG_100K").is_dir())


def _data_view(data: VisualGenome, request: Request) -> View:
    config = EvaluationConfig(zero_shot="file" if data.zero_shot is not None else "recompute")
    file = None if request.predictions is None else _predictions(data, request.predictions, request.split)
    images = ALL_IMAGES if file is None or file.data is None else file.data
    return View(data, request.split, images, config, data.directory.name, None, file)


def _trials(study: StudyFolder, data: VisualGenome, request: Request) -> Callable[[str], View]:
    @lru_cache(maxsize=8)
    def open_trial(name: str) -> View:
        folder = study.trial(name)
        if folder is None:
            raise NotFound(f"{study.folder} has no trial {name}.")
        return run_view(data, folder, request)

    return open_trial


def run_view(data: VisualGenome, run: Path, request: Request) -> View:
    """A run's predictions for a split, or how they can be made. Raises DataError, ConfigError."""
    config = from_dict(read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    path = request.predictions or find_predictions(run, request.split)
    if path is None:
        hint = command(run, data, request.split)
        return View(data, request.split, config.data, config.evaluation, run.name, run, None, hint)
    file = _predictions(data, path, request.split)
    return View(data, request.split, file.data or config.data, config.evaluation, run.name, run, file)


def _predictions(data: VisualGenome, path: Path, split: SplitName) -> PredictionFile:
    file = PredictionFile(path, data.vocabulary)
    return file


def find_predictions(run: Path, split: SplitName) -> Path | None:
    """The newest file of predictions for a split in a run folder, under whatever name."""
    found = [path for path in run.glob("*.h5") if _split_of(path) == split]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _split_of(path: Path) -> str | None:
    with h5py.File(path, "r") as file:
        return str(file.attrs.get("split")) if file.attrs.get("format") == FORMAT else None


def command(run: Path, data: VisualGenome, split: SplitName) -> str:
    """How to make the predictions that are not there."""
    target = run / f"predictions-{split}.h5"
    return f"speaq evaluate {run} --data {data.directory} --split {split} --predictions {target}"
