"""From what the command line gives to a context."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from speaq.config import ConfigError, DataConfig, EvaluationConfig, from_dict, read_yaml
from speaq.data import DataError
from speaq.data.files import PhotoFolders
from speaq.data.records import SplitName, VisualGenome
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import PredictionFile, newest_predictions
from speaq.evaluation.protocol import Mode, Protocol
from speaq.evaluation.protocols import check_source
from speaq.explore.context import Context, NotFound
from speaq.explore.judgement import Counting
from speaq.explore.study import ExploredStudy, open_study
from speaq.explore.view import Note, Predictions, View
from speaq.study import seal
from speaq.training.callbacks import Progress
from speaq.training.folder import BEST
from speaq.training.origins import data_directory

ALL_IMAGES = DataConfig(val="split", num_val=0, keep_images_without_relations=True, filter_non_overlap=False)
Counted = Literal["published", "strict", "per_query", "ng", "ng_unique"]
OPEN_TRIALS = 8  # of a search, with their matching in memory


@dataclass(frozen=True)
class Exploration:
    """What is to be looked at: a data set, a run or a search, and how its predictions are counted."""

    data: Path | None
    run: Path | None = None
    study: Path | None = None
    split: SplitName = "train"
    predictions: Path | None = None
    mode: Mode = "sgdet"
    protocol: Counted | None = None  # default: that of the run's config, or published

    def counting(self, evaluation: EvaluationConfig) -> Counting:
        """A run's way to evaluate with what is asked for instead."""
        if self.protocol in ("ng", "ng_unique"):
            name: Protocol = "strict" if self.protocol == "ng_unique" else "published"
            return Counting(evaluation.model_copy(update={"protocol": name}), self.mode, constraint=False)
        return Counting(evaluation.model_copy(update={"protocol": self.protocol or evaluation.protocol}), self.mode)

    def check_counted(self, view: View) -> View:
        """Raises ConfigError where something is asked for that nothing in sight is counted by."""
        for name, value in (("mode", self.mode if self.mode != "sgdet" else None), ("protocol", self.protocol)):
            if value is not None and self.study is None and view.predictions is None:
                raise ConfigError(f"--{name} {value}: has no effect without predictions for split {self.split}")
        return view


def explore(wanted: Exploration) -> Context:
    """Opens everything that a server needs once. Raises DataError, ConfigError."""
    if wanted.study is not None and (wanted.run is not None or wanted.predictions is not None):
        raise ConfigError(f"--study {wanted.study}: has runs of its own; leave --run and --predictions out")
    if wanted.study is not None:
        study = open_study(wanted.study)
        data = _open(wanted.data or study.data())
        main = _data_view(data, wanted, study.images)
        return Context(data, _with_images(main), study, _trials(study, data, wanted))
    if wanted.run is not None:
        data = _open(data_directory(wanted.run, wanted.data))
        return Context(data, wanted.check_counted(_with_images(run_view(data, wanted.run, wanted))))
    if wanted.data is None:
        raise ConfigError("say what to explore: a folder of data, --run RUN or --study STUDY")
    data = _open(wanted.data)
    return Context(data, wanted.check_counted(_with_images(_data_view(data, wanted, ALL_IMAGES))))


def predict(wanted: Exploration, progress: Progress) -> None:
    """Makes a run's predictions where its folder has none for the split. Raises DataError, ConfigError."""
    from speaq.runs.run import evaluate_run  # with PyTorch, which no page needs before it is asked for

    if wanted.run is None or wanted.predictions is not None:
        raise ConfigError("--predict: needs --run, and no --predictions")
    if newest_predictions(wanted.run, wanted.split) is None:
        target = default_file(wanted.run, wanted.split)
        evaluate_run(wanted.run, wanted.split, wanted.data, predictions=target, progress=progress)


def _with_images(view: View) -> View:
    """Raises DataError where the split has no image."""
    if len(view.split) == 0:
        cut = " (a run's data.num_val cuts it off train)" if view.split_name == "val" and view.run is None else ""
        raise DataError(f"{view.data.directory}: split {view.split_name} has no image{cut}")
    return view


def _open(directory: Path) -> VisualGenome:
    return open_data(directory, need_images=PhotoFolders.of(directory).exist)


def _data_view(data: VisualGenome, wanted: Exploration, images: DataConfig) -> View:
    config = EvaluationConfig(zero_shot="file" if data.zero_shot is not None else "recompute")
    stored = None if wanted.predictions is None else _predictions(data, wanted.predictions, wanted.split)
    if stored is not None and stored.file.data is not None:
        images = stored.file.data
    title = data.directory.resolve().name
    return View(data, wanted.split, images, wanted.counting(config), title, predictions=stored)


def _trials(study: ExploredStudy, data: VisualGenome, wanted: Exploration) -> Callable[[str], View]:
    @lru_cache(maxsize=OPEN_TRIALS)
    def opened(folder: Path, predictions: Path | None, changed: int) -> View:
        return run_view(data, folder, replace(wanted, predictions=predictions))

    def open_trial(name: str) -> View:
        folder = study.trial(name)
        if folder is None:
            raise NotFound(f"{study.folder} has no trial {name}.")
        predictions = newest_predictions(folder, wanted.split)
        return opened(folder, predictions, 0 if predictions is None else predictions.stat().st_mtime_ns)

    return open_trial


def run_view(data: VisualGenome, run: Path, wanted: Exploration) -> View:
    """A run's predictions for a split, or how they can be made. Raises DataError, ConfigError."""
    config = from_dict(read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    path = wanted.predictions or newest_predictions(run, wanted.split)
    view = View(data, wanted.split, config.data, wanted.counting(config.evaluation), run.name, run)
    if path is None:
        lacking = f"No predictions for split {wanted.split} lie in {run}. Make them with:"
        return replace(view, notes=(Note(lacking, command(run, data, wanted)),))
    if wanted.split == "test":
        seal.look(run, predictions=path.name)
    stored = _predictions(data, path, wanted.split)
    older = _older(path, run / "checkpoints" / BEST)
    notes = (Note(f"{path.name} is older than the run's best checkpoint."),) if older else ()
    return replace(view, config=stored.file.data or config.data, predictions=stored, notes=notes)


def _older(path: Path, checkpoint_file: Path) -> bool:
    return checkpoint_file.exists() and path.stat().st_mtime < checkpoint_file.stat().st_mtime


def _predictions(data: VisualGenome, path: Path, split: SplitName) -> Predictions:
    file = PredictionFile(path, data.vocabulary)
    check_source(path, file, data, split)
    return Predictions(path, file)


def command(run: Path, data: VisualGenome, wanted: Exploration) -> str:
    """How to make the predictions that are not there."""
    words = ("speaq", "evaluate", run, "--data", data.directory, "--split", wanted.split, "--predictions")
    return shlex.join(map(str, (*words, default_file(run, wanted.split))))


def default_file(run: Path, split: SplitName) -> Path:
    """Where `speaq explore --predict` puts a run's predictions."""
    return run / f"predictions-{split}.h5"
