"""Photos → scene graphs, by a trained run or a checkpoint file.

predictor = Predictor.load("RUN")
graph = predictor.predict("photo.jpg")
graph.save("photo.svg")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speaq.config import Config, ConfigError, apply, from_dict
from speaq.data import DataError
from speaq.data.dataset import collate, to_sample
from speaq.data.images import read_image
from speaq.data.transforms import Picture, eval_transform
from speaq.inference import decode
from speaq.prediction.exported import SUFFIXES as EXPORTED
from speaq.prediction.exported import Network, open_exported
from speaq.prediction.graph import ImagePrediction, image_prediction
from speaq.structures import Sample, Vocabulary
from speaq.training import checkpoint
from speaq.training.evaluate import Progress, _no_progress
from speaq.training.loop import pick_device
from speaq.training.tasks import restored_model

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Predictor:
    """A network that is ready to look at photos."""

    model: Network
    config: Config
    vocabulary: Vocabulary
    device: torch.device
    file: Path  # the checkpoint
    step: int

    @classmethod
    def load(cls, path: Path | str, *, device: str = "auto", trusted: bool = False) -> Predictor:
        """Reads a run folder's best checkpoint, a checkpoint file, or what `speaq export-model` wrote.

        Args:
            device: `auto` (CUDA where there is one), `cpu` or `cuda`.
            trusted: see `open_exported`.

        Raises:
            ConfigError, CheckpointError: not a checkpoint of SpeaQ, or no such device.
        """
        if Path(path).suffix in EXPORTED:
            opened = open_exported(Path(path), device, trusted=trusted)
            cpu = torch.device("cpu")
            return cls(opened.network, opened.config, opened.vocabulary, cpu, Path(path), opened.step)
        file = checkpoint.find(Path(path))
        content = checkpoint.load_speaq(file)
        config = apply(from_dict(content["config"], str(file)), {"training.device": device})
        if config.inference.logit_adjustment:
            raise ConfigError(f"{file}: inference.logit_adjustment needs its data set's predicate counts: evaluate it")
        vocabulary = _vocabulary(content, file)
        model = restored_model("speaq", config, vocabulary, content["model"], file)
        where = pick_device(config)
        model.to(where).to(memory_format=torch.channels_last).eval()
        return cls(model, config, vocabulary, where, file, content["step"])

    def predict(self, image: Path | str, *, top: int = 20, threshold: float = 0.0) -> ImagePrediction:
        """One photo. Raises DataError where it cannot be read."""
        return self._decoded([self.sample(0, Path(image))], [Path(image)], top, threshold)[0]

    def predict_all(
        self, images: Sequence[Path], *, batch_size: int = 8, top: int = 20, threshold: float = 0.0
    ) -> Iterator[ImagePrediction | DataError]:
        """Many photos, in their order; what cannot be read comes as the error that says why.

        Args:
            batch_size: photos at once; padding to the largest of them moves scores by up to a percent or so.
            top: triplets at most of each photo.
            threshold: least score of a triplet.
        """
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            samples: list[Sample] = []
            errors: dict[int, DataError] = {}
            for position, path in enumerate(some):
                try:
                    samples.append(self.sample(position, path))
                except DataError as error:
                    errors[position] = error
            paths = [some[sample.index] for sample in samples]
            found = iter(self._decoded(samples, paths, top, threshold) if samples else [])
            for position in range(len(some)):
                yield errors[position] if position in errors else next(found)

    @torch.inference_mode()
    def _decoded(
        self, samples: list[Sample], paths: Sequence[Path], top: int, threshold: float
    ) -> list[ImagePrediction]:
        batch = collate(samples)
        outputs = self.model(batch.images.to(self.device), batch.sizes_hw.to(self.device))
        decoded = decode(outputs, batch.original_hw, self.config.inference)
        return [
            image_prediction(path, hw, prediction, self.vocabulary, top=top, threshold=threshold)
            for path, hw, prediction in zip(paths, batch.original_hw, decoded, strict=True)
        ]

    def sample(self, index: int, path: Path) -> Sample:
        """A photo as the network sees it. Raises DataError where it cannot be read."""
        pixels = read_image(path)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
        picture = eval_transform(Picture(pixels, *nothing), self.config.data)
        return to_sample(index, picture, (pixels.shape[0], pixels.shape[1]))


def _vocabulary(content: Mapping[str, Any], file: Path) -> Vocabulary:
    """The names that a checkpoint was trained with; one converted without data knows numbers alone."""
    names = []
    for key, head in (("objects", "class_head"), ("predicates", "predicate_head")):
        known = content[key]
        count = checkpoint.count(content, head, file)
        names.append(tuple(f"{key[:-1]} {i}" for i in range(count)) if known is None else tuple(known))
    return Vocabulary(*names)


def predict_files(
    images: Sequence[Path],
    run: Path,
    output: Path,
    top: int,
    threshold: float,
    suffixes: Sequence[str],
    batch_size: int = 8,
    device: str = "auto",
    progress: Progress = _no_progress,
) -> tuple[int, list[DataError]]:
    """Writes a file of every suffix for each photo below `output`; returns how many photos, and what was skipped.

    A photo that cannot be read is skipped. Files of an earlier call are written anew.

    Raises:
        ConfigError, CheckpointError: no photos, or a run that cannot be used.
    """
    found = find_images(images)
    predictor = Predictor.load(run, device=device)
    errors: list[DataError] = []
    graphs = predictor.predict_all([i for i, _ in found], batch_size=batch_size, top=top, threshold=threshold)
    for done, ((_, name), graph) in enumerate(zip(found, graphs, strict=True), start=1):
        if isinstance(graph, DataError):
            errors.append(graph)
        else:
            target = output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            for suffix in suffixes:
                graph.save(target.with_name(target.name + suffix))
        progress(done, len(found), name.name)
    return len(found) - len(errors), errors


def find_images(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(photo, its name below the output folder) of every file given and, sorted, of all photos in folders.

    Raises:
        ConfigError: a path that is not there, a folder without photos, or two photos with one name.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for image, name in _images_of(path):
            if name in found and found[name] != image:
                raise ConfigError(f"{image}: {found[name]} has the same name in the output; predict them one by one")
            found[name] = image
    return [(image, name) for name, image in found.items()]


def _images_of(path: Path) -> list[tuple[Path, Path]]:
    if path.is_dir():
        images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not images:
            raise ConfigError(f"{path}: no photo in this folder ({', '.join(SUFFIXES)})")
        return [(image, image.relative_to(path)) for image in images]
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    return [(path, Path(path.name))]
