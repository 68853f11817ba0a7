"""Photos → scene graphs, by a trained run or a checkpoint file.

predictor = Predictor.load("RUN")
graph = predictor.predict("photo.jpg")  # a notebook shows it
graph.save("photo.svg")
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from speaq.config import Config, ConfigError, apply, from_dict
from speaq.data import DataError
from speaq.data.dataset import collate, to_sample
from speaq.data.images import MAX_PIXELS, SUFFIXES, Source, read_photo
from speaq.data.transforms import Picture, eval_transform
from speaq.files.regular import check_regular
from speaq.inference import decode
from speaq.prediction.exported import SUFFIXES as EXPORTED
from speaq.prediction.exported import Network, open_exported
from speaq.prediction.graph import SCHEMA, ImagePrediction, image_prediction
from speaq.structures import Sample, Vocabulary
from speaq.training import checkpoint
from speaq.training.callbacks import Progress, no_progress
from speaq.training.device import pick_device
from speaq.training.tasks import restored_model

FINENESS = 2  # a large photo is reduced to this multiple of the network's size before it is resized to it


@dataclass(frozen=True, repr=False)
class Predictor:
    """A network that is ready to look at photos."""

    model: Network
    config: Config
    vocabulary: Vocabulary
    device: torch.device
    file: Path  # the checkpoint
    step: int

    def __repr__(self) -> str:
        names = f"{len(self.vocabulary.objects)} classes, {len(self.vocabulary.predicates)} predicates"
        return f"Predictor({self.file}: step {self.step}, {names}, {self.device})"

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

    def predict(self, image: Source, *, top: int = 20, threshold: float = 0.0) -> ImagePrediction:
        """One photo: a file, a Pillow image, or an array ([h, w, 3] RGB of 0 to 255, or of 0 to 1 where floats).

        Raises DataError where it cannot be read.
        """
        return self._decoded([self.sample(0, image)], [image], top, threshold)[0]

    def predict_all(
        self,
        images: Sequence[Source],
        *,
        batch_size: int = 8,
        top: int = 20,
        threshold: float = 0.0,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[ImagePrediction | DataError]:
        """Many photos, in their order; what cannot be read comes as the error that says why.

        Args:
            batch_size: photos at once; padding to the largest of them moves scores by up to a percent or so.
            top: triplets at most of each photo.
            threshold: least score of a triplet.
            max_pixels: of a photo; a larger one is not decoded.

        Raises ValueError for a single photo, and for a batch of none.
        """
        if isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) != 4:  # a batch as an array
            raise DataError(f"pictures: a list of them, not one ({type(images).__name__}); predict() takes one")
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1, not {batch_size}")
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            samples: list[Sample] = []
            errors: dict[int, DataError] = {}
            for position, image in enumerate(some):
                try:
                    samples.append(self.sample(position, image, max_pixels))
                except DataError as error:
                    errors[position] = error
            readable = [some[sample.index] for sample in samples]
            found = iter(self._decoded(samples, readable, top, threshold) if samples else [])
            for position in range(len(some)):
                yield errors[position] if position in errors else next(found)

    @torch.inference_mode()
    def _decoded(
        self, samples: list[Sample], images: Sequence[Source], top: int, threshold: float
    ) -> list[ImagePrediction]:
        batch = collate(samples)
        outputs = self.model(batch.images.to(self.device), batch.sizes_hw.to(self.device))
        decoded = decode(outputs, batch.original_hw, self.config.inference)
        return [
            image_prediction(image, hw, prediction, self.vocabulary, top=top, threshold=threshold)
            for image, hw, prediction in zip(images, batch.original_hw, decoded, strict=True)
        ]

    def sample(self, index: int, image: Source, max_pixels: int = MAX_PIXELS) -> Sample:
        """A photo as the network sees it. Raises DataError where it cannot be read."""
        photo = read_photo(image, FINENESS * self.config.data.eval_side, max_pixels)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.int64)
        picture = eval_transform(Picture(photo.pixels, *nothing), self.config.data)
        return to_sample(index, picture, photo.size_hw)


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
    threshold: float | None,
    suffixes: Sequence[str],
    batch_size: int = 8,
    device: str = "auto",
    progress: Progress = no_progress,
    max_pixels: int = MAX_PIXELS,
    loops: bool = False,
) -> tuple[int, list[DataError], int]:
    """Writes a file of every suffix for each photo below `output`.

    With `threshold` None the JSON has the best `top` triplets of any score, and pictures those of them that are worth
    drawing (`speaq.prediction.choice`); `loops`: pictures show relations of a thing to itself too.

    Returns how many photos, why others were skipped, and how many files of the folders are no photos.

    A photo that cannot be read is skipped. Files of an earlier call are written anew.

    Raises:
        ConfigError, CheckpointError: no photos, or a run that cannot be used.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: is a file; give a folder")
    found, others = find_images(images)
    for _, name in found:
        if (file := Path(f"{output / name}.json")).exists() and not _is_ours(file):
            raise ConfigError(f"{file}: is there, and no prediction; give another folder as --output")
    predictor = Predictor.load(run, device=device)
    errors: list[DataError] = []
    options: dict[str, Any] = {"batch_size": batch_size, "top": top, "max_pixels": max_pixels}
    graphs = predictor.predict_all([image for image, _ in found], threshold=threshold or 0.0, **options)
    for done, ((_, name), graph) in enumerate(zip(found, graphs, strict=True), start=1):
        if isinstance(graph, DataError):
            errors.append(graph)
        else:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            for suffix in suffixes:
                graph.save(f"{output / name}{suffix}", threshold=threshold, loops=loops)
        progress(done, len(found), name.name)
    return len(found) - len(errors), errors, others


def find_images(paths: Sequence[Path]) -> tuple[list[tuple[Path, Path]], int]:
    """(photo, its name below the output folder) of every file given and, sorted, of all photos in folders.

    Also how many other files the folders hold, pictures of earlier predictions among them. Photos of formats that
    cannot be read here are among the photos.

    Raises:
        ConfigError: a path that is not there, a folder without photos, or two photos with one name.
    """
    found: dict[Path, Path] = {}
    others = 0
    for path in paths:
        images, number = _images_of(path)
        others += number
        for image, name in images:
            if name in found and found[name] != image:
                raise ConfigError(f"{image}: {found[name]} has the same name in the output; predict them one by one")
            found[name] = image
    return [(image, name) for name, image in found.items()], others


def _images_of(path: Path) -> tuple[list[tuple[Path, Path]], int]:
    if path.is_dir():
        files = list(_files(path))
        images = sorted(file for file in files if file.suffix.lower() in SUFFIXES and not _is_drawn(file))
        if not images:
            raise ConfigError(f"{path}: no photo in this folder ({', '.join(SUFFIXES)})")
        return [(image, image.relative_to(path)) for image in images], len(files) - len(images)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    return [(path, Path(path.name))], 0


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in folders that links lead to as well, each folder once. Raises OSError."""

    def refuse(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # folders before links to them
        yield from (Path(place, name) for name in names)


def _is_drawn(path: Path) -> bool:
    """Whether a picture is what an earlier call drew of a photo: then its JSON lies beside it."""
    return path.suffix == ".png" and _is_ours(path.with_suffix(".json"))


def _is_ours(path: Path) -> bool:
    """Whether a file is the JSON of a prediction."""
    try:
        with check_regular(path).open("rb") as file:
            return SCHEMA.encode() in file.read(100)
    except OSError:
        return False
