"""`speaq reproduce`: SpeaQ or the baseline at the published settings, from the four files to the published figures.

Stages: look at the data, detector, training with evaluations on val, test once with the best and the last checkpoint.
A stage found finished in the output folder is not repeated; an interrupted one goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from speaq import config as configs
from speaq.config import BASELINE, Config, ConfigError, ResourcesConfig
from speaq.data import DataError
from speaq.data.photo_digest import look_again
from speaq.data.visual_genome import check, open_data
from speaq.files import atomic
from speaq.files.shipped import shipped
from speaq.runs.convert import convert
from speaq.runs.run import RunEvaluation, evaluate_run
from speaq.training import checkpoint
from speaq.training.callbacks import Progresses
from speaq.training.device import hardware, pick_device
from speaq.training.environment import source_commit, versions
from speaq.training.feasible import Feasibility
from speaq.training.tasks import TaskName

from ..trials.place import on_workers
from . import published
from .record import Record, describe_data
from .stages import Stages, for_detector

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the user asks for; an output folder belongs to one request."""

    scale: Literal["full", "toy"]
    baseline: bool
    data: Path | None
    detector: Path | None  # run folder or checkpoint of ours, or the reference's pre-trained file
    backbone: Path | None  # ImageNet weights to pre-train a detector from
    checkpoint: Path | None  # evaluate this only
    assignments: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As the record holds it: paths absolute."""
        return {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def reproduce(request: Request, output: Path, progress: Progresses, say: Say) -> list[str]:
    """Does what is left to do of `request` in `output`. Returns texts: the results beside the published figures.

    Args:
        output: folder for everything: reproduction.json, detector/, run/, test_best.json, test_last.json.
        say: told of each stage that has ended.

    Raises:
        ConfigError, DataError: what the user gave cannot be used, or the folder holds another reproduction.
    """
    detector_config, config = _configs(request)
    output = output.resolve()
    record = Record(output / "reproduction.json", request.as_json())
    stages = Stages(output, progress)
    way = Reproduction(stages, _data(request, stages), record, say)
    way.look_at_data()
    if request.checkpoint is None:
        way.check(config)
    record.note("versions", versions())
    record.note("commit", source_commit())
    if request.checkpoint is not None:
        record.note("hardware", hardware(pick_device(config)))
        way.test({"given": way.ours(request.checkpoint, "given")})
    else:
        with _cluster(config, request.assignments) as resources:
            way.detector(request.detector, _placed(detector_config, resources))
            start = {"training.init_from": str(way.start)}
            way.train("speaq", configs.apply(_placed(config, resources), start), "run")
            kept = {"best": checkpoint.BEST, "last": checkpoint.LAST}
            way.test({name: output / "run" / "checkpoints" / file for name, file in kept.items()}, resources)
    return way.compared(None if request.baseline else published.SPEAQ)


def _configs(request: Request) -> tuple[Config, Config]:
    """Configs of the detector and of the model, before they are fitted to the cluster."""
    full = request.scale == "full"
    if full and not (request.detector or request.backbone or request.checkpoint):
        raise ConfigError(
            "--detector (a pre-trained detector) or --backbone (ImageNet weights of a ResNet-101) is needed: "
            "stem and first stage stay frozen, so training cannot start from random weights"
        )
    model = ("baseline_vg" if request.baseline else "speaq_vg") if full else "toy"
    config = configs.load(shipped("configs", model), request.assignments)
    if request.baseline and not full:
        config = configs.apply(config, BASELINE, "--baseline")
    published.require_published_protocol(config.evaluation)
    name = "detector_vg" if full else "toy_detector"
    detector_config = configs.load(shipped("configs", name), for_detector(request.assignments))
    if request.backbone is not None:
        given = {"training.backbone_from": str(request.backbone.resolve())}
        detector_config = configs.apply(detector_config, given, "--backbone")
    return detector_config, config


def _data(request: Request, stages: Stages) -> Path:
    """The data folder given; at toy scale the generated world, drawn once."""
    if request.data is not None:
        return request.data.resolve()
    if request.scale == "full":
        raise ConfigError("--data: the folder with the four files of Visual Genome is needed (or --scale toy)")
    return stages.toy_world()


@contextlib.contextmanager
def _cluster(config: Config, assignments: Sequence[str]) -> Iterator[ResourcesConfig | None]:
    """What Ray's workers take of the GPUs that it finds, unless `assignments` say how many work; None where the work is
    done in this process.
    """
    if not on_workers(config):
        yield None
        return
    try:
        from ..cluster import connection
    except ModuleNotFoundError as error:
        if not torch.cuda.is_available():
            raise ConfigError(f'{error.name} is not installed: pip install -e ".[ray]"') from error
        log.warning("%s is not installed: one GPU of this machine is used", error.name)
        yield None
        return

    with connection.connected(dashboard=True):
        given = any(assignment.startswith("resources.num_workers=") for assignment in assignments)
        if config.resources.gpus_per_worker and not given:
            config = spread(config, int(connection.total("GPU")), connection.total("CPU"))
        yield config.resources


def spread(config: Config, gpus: int, cpus: float) -> Config:
    """`config` with one worker on each GPU, as many as divide the effective batch.

    Raises ConfigError where there is no GPU.
    """
    if gpus < 1:
        raise ConfigError(
            "resources: Ray finds no GPU, and the published settings would take months on CPUs; "
            "--scale toy shows the whole way, --set resources.gpus_per_worker=0 insists"
        )
    workers = max(n for n in range(1, gpus + 1) if config.training.batch_size % n == 0)
    each = max(1.0, min(config.resources.cpus_per_worker, cpus // workers))
    return configs.apply(config, {"resources.num_workers": workers, "resources.cpus_per_worker": each})


def _placed(config: Config, resources: ResourcesConfig | None) -> Config:
    placed = (resources or ResourcesConfig()).model_dump()
    return configs.apply(config, {f"resources.{key}": value for key, value in placed.items()})


class Reproduction:
    """The stages of one reproduction. Each notes in the record that it has finished and what it took."""

    def __init__(self, stages: Stages, data: Path, record: Record, say: Say) -> None:
        self._stages, self._data, self._record, self._say = stages, data, record, say
        self._output, self._progress = stages.output, stages.progress
        self.start = self._output / "detector"  # what SpeaQ starts from

    def look_at_data(self) -> None:
        """Judges every file of the data set, photos included, and notes what it is; later it must be the same."""
        if (before := self._record.stage("data")) is not None:
            now = open_data(self._data, log=lambda line: None)
            if now.digest != before["digest"]:
                raise ConfigError(
                    f"{self._data}: is not the data of {self._record.path} (digest {now.digest[:12]} now)"
                )
            if changes := look_again(now, before.get("seen", {}))[1]:
                raise ConfigError(f"{self._data}: has changed since {self._record.path} began ({'; '.join(changes)})")
            return
        with self._progress("looking at the data") as tell:
            problems = check(self._data, progress=lambda done, total: tell(done, total, ""))
        errors = [problem for problem in problems if problem.severity == "error"]
        if errors:
            raise DataError(
                f"{self._data}: {errors[0]} ({len(errors)} errors in all: speaq data check {self._data} lists them)"
            )
        content = describe_data(open_data(self._data, log=lambda line: None))
        self._record.finish("data", {**content, "warnings": len(problems)})
        counts = " · ".join(f"{name} {number:,}" for name, number in content["images"].items())
        self._say(f"data: {self._data} · {counts} images · {len(problems)} warnings")

    def check(self, config: Config) -> None:
        """Raises ConfigError or DataError, before the detector is trained, where SpeaQ could not be trained."""
        Feasibility(open_data(self._data, need_images=False, log=lambda line: None)).check(config)

    def detector(self, given: Path | None, config: Config) -> None:
        """What SpeaQ starts from: the detector given, or one trained here."""
        if given is not None:
            self.start = self.ours(given, "detector")
        else:
            self.train("detector", config, "detector")

    def ours(self, path: Path, name: str) -> Path:
        """A run folder or checkpoint of ours as it is; a file of the reference converted into the folder `name`."""
        if path.is_dir():
            return path.resolve()
        try:
            checkpoint.load(path)
        except checkpoint.CheckpointError:
            converted = self._output / name
            if not (converted / "checkpoints" / checkpoint.BEST).exists():  # else it was cut off
                convert(path, converted, data=self._data)
            return converted
        return path.resolve()

    def train(self, task: TaskName, config: Config, name: str) -> None:
        """Trains, or goes on; where the device's memory is too small, with half as many images at once."""
        if self._record.stage(name) is not None:
            return
        self._note_training(name, *self._stages.train(task, config, self._data, name))

    def _note_training(self, name: str, config: Config, result: Mapping[str, Any]) -> None:
        workers, seconds = config.resources.num_workers, result["seconds"]
        gpus = workers * (config.resources.gpus_per_worker or float(pick_device(config).type == "cuda"))
        kept = ("status", "step", "seconds", "best", "hardware", "cost")
        content = {
            **{key: result[key] for key in kept if key in result},
            "seed": config.seed,
            "workers": workers,
            "micro_batch_size": config.training.micro_batch_size,
            "gpu_hours": round(seconds * gpus / 3600, 3),
        }
        self._record.finish(name, content)
        self._say(f"{name}: {self._output / name} · {seconds:.0f} s")

    def test(self, files: Mapping[str, Path], resources: ResourcesConfig | None = None) -> None:
        """Evaluates checkpoints on the test split, each once: a result that is there is not made again.

        Args:
            files: by the names of their results.
            resources: of the workers that evaluate them, at once where there is room; None: this process does.
        """
        begin = time.monotonic()
        gpus = float(torch.cuda.is_available()) if resources is None else resources.gpus_per_worker
        titles = {f"test split, {name} checkpoint": name for name in files if not self._record.stage(f"test_{name}")}

        def ended(title: str, result: RunEvaluation) -> None:
            name, seconds = titles[title], time.monotonic() - begin
            self._note_test(name, files[name], result, seconds, gpus)

        if titles and resources is not None:
            from .remote_evaluation import evaluate_all  # with Ray

            left = {title: files[name] for title, name in titles.items()}
            evaluate_all(left, "test", self._data, resources, ended=ended, progress=self._progress)
            return
        for title, name in titles.items():
            begin = time.monotonic()
            with self._progress(title) as tell:
                result = evaluate_run(files[name], "test", self._data, progress=tell)
            ended(title, result)

    def _note_test(self, name: str, file: Path, result: RunEvaluation, seconds: float, gpus: float) -> None:
        content = {"checkpoint": str(file), "images": result.images, "step": result.step, "report": result.report()}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        atomic.write_text(self._output / f"test_{name}.json", text)
        took = {"seconds": round(seconds, 3), "gpu_hours": round(seconds * gpus / 3600, 3)}
        self._record.finish(f"test_{name}", {"step": result.step, **took})

    def compared(self, figures: published.Figures | None) -> list[str]:
        """Every result on the test split beside the published figures, as texts of one or several lines."""
        texts = []
        for name in ("given", "best", "last"):
            if self._record.stage(f"test_{name}") is None:
                continue
            result = json.loads((self._output / f"test_{name}.json").read_text(encoding="utf-8"))
            step, protocol = result["step"], result["report"]["protocol"]
            texts.append(f"\ntest split, {name} checkpoint (step {step}), {result['images']} images · {protocol}")
            texts.append(published.comparison(result["report"], figures))
        if figures is None:
            texts.append("no figures are published for the baseline in the method's description")
        elif not published.is_visual_genome(self._record.stage("data") or {}):
            texts.append("the published figures are Visual Genome's; on another data set the difference says nothing")
        return texts
