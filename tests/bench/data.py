"""Annotation files of Visual Genome's size, and photos: what data loading costs."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from speaq.config import DataConfig
from speaq.data.images import read_image
from speaq.data.transforms import Picture, train_transform
from speaq.data.visual_genome import open_data
from tests.bench.measure import Settings, Values, apart, measure, memory_now_mib, peak_growth_mib, seconds

OBJECTS, PREDICATES = 150, 50
BOXES, RELATIONS = 10, 6  # of an image


def data_open(settings: Settings) -> Values:
    """Opens a data set of 108,073 images without its photos and takes its train split."""
    with tempfile.TemporaryDirectory() as folder:
        images = 2_000 if settings.quick else 108_073
        make_annotations(Path(folder), images)
        return apart(open_once_and_again, settings.threads, folder, settings.repeats) | {"images": images}


def open_once_and_again(folder: str, repeats: int) -> Values:
    before = memory_now_mib()

    def work() -> object:
        return open_data(Path(folder), need_images=False).split("train", DataConfig(num_val=100))

    first = seconds(work)
    growth = peak_growth_mib(before)
    return measure(work, repeats, warm_up=False) | {"first_seconds": first, "peak_memory_growth_mib": growth}


def make_annotations(folder: Path, images: int) -> None:
    """Boxes, labels and relations at random in the four-file layout; attributes are there but empty."""
    rng = np.random.default_rng(0)
    boxes, relations = images * BOXES, images * RELATIONS
    first_box, first_relation = np.arange(images) * BOXES, np.arange(images) * RELATIONS
    pairs = rng.integers(BOXES, size=(relations, 2)) + np.repeat(first_box, RELATIONS)[:, None]
    columns = {
        "split": np.where(np.arange(images) < 0.7 * images, 0, 2),
        "img_to_first_box": first_box,
        "img_to_last_box": first_box + BOXES - 1,
        "img_to_first_rel": first_relation,
        "img_to_last_rel": first_relation + RELATIONS - 1,
        "labels": rng.integers(1, OBJECTS + 1, size=(boxes, 1)),
        "relationships": pairs,
        "predicates": rng.integers(1, PREDICATES + 1, size=(relations, 1)),
    }
    centres, sizes = rng.integers(300, 500, size=(boxes, 2)), rng.integers(20, 200, size=(boxes, 2))
    with h5py.File(folder / "VG-SGG-with-attri.h5", "w") as file:
        for name, values in columns.items():
            file[name] = values.astype(np.int32)
        for scale in (1024, 512):
            file[f"boxes_{scale}"] = np.concatenate((centres, sizes), axis=1).astype(np.int32) * scale // 1024
        file.create_dataset("attributes", (boxes, 10), np.int64, fillvalue=0, chunks=(4096, 10))
    entries = [{"image_id": i, "width": 800, "height": 600, "coco_id": None} for i in range(1, images + 1)]
    (folder / "image_data.json").write_text(json.dumps(entries), encoding="utf-8")
    names = {
        "label_to_idx": {f"object {i}": i for i in range(1, OBJECTS + 1)},
        "predicate_to_idx": {f"predicate {i}": i for i in range(1, PREDICATES + 1)},
    }
    (folder / "VG-SGG-dicts-with-attri.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "VG_100K").mkdir()


def data_decode(settings: Settings) -> Values:
    """Decoding and augmenting a photo of 500 × 375 pixels, and one of 3000 × 2000, against Pillow's decoding alone."""
    sizes = {"": (500, 375), "large_": (1000, 700) if settings.quick else (3000, 2000)}
    values: Values = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in sizes.items():
            path = Path(folder) / f"{name}photo.jpg"
            make_photo(path, size)
            draws = 4 if settings.quick or name else 20
            found = measure(lambda path=path, draws=draws: _ours(path, draws, False), settings.repeats)  # type: ignore[misc]
            alone = measure(lambda path=path, draws=draws: _pillow(path, draws), settings.repeats)  # type: ignore[misc]
            values |= {f"{name}{key}": value for key, value in found.items()}
            values[f"{name}seconds"] /= draws
            values[f"{name}ratio_to_calibration"] /= draws
            values[f"{name}to_decoding_alone"] = found["ratio_to_calibration"] / alone["ratio_to_calibration"]
            values[f"{name}share_decoding"] = _share(path, draws)
            worker = measure(lambda path=path, draws=draws: _ours(path, draws, False, enlarge=False), settings.repeats)  # type: ignore[misc]
            values[f"{name}device_enlarges_to_decoding_alone"] = (
                worker["ratio_to_calibration"] / alone["ratio_to_calibration"]
            )
        reduced = measure(lambda: _ours(path, draws, True), settings.repeats)
        values["large_reduced_to_decoding_alone"] = reduced["ratio_to_calibration"] / alone["ratio_to_calibration"]
    return values


def make_photo(path: Path, size: tuple[int, int]) -> None:
    """Noise of every wavelength down to two pixels, as strong in every octave as photos have it; quality 90."""
    rng = np.random.default_rng(0)
    width, height = size
    canvas = np.zeros((height, width, 3))
    for level in range(1, 8):
        coarse = rng.integers(256, size=(max(height >> level, 1), max(width >> level, 1), 3)).astype(np.uint8)
        canvas += 0.3 * (np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) - 127.5)
    Image.fromarray(np.clip(canvas + 127.5, 0, 255).astype(np.uint8)).save(path, quality=90)


def _pillow(path: Path, draws: int) -> None:
    for _ in range(draws):
        with Image.open(path) as image:
            image.convert("RGB").load()


def _ours(path: Path, draws: int, reduced: bool, *, enlarge: bool = True) -> None:
    config, box = DataConfig(), np.array([[10, 10, 200, 200]], np.float32)
    largest = max(*config.train_sides, *config.crop_sides)
    for draw in range(draws):
        picture = Picture(read_image(path, largest if reduced else None), box, np.zeros(1, int), np.zeros((0, 3), int))
        train_transform(picture, config, np.random.default_rng(draw), enlarge=enlarge)


def _share(path: Path, draws: int) -> float:
    """Of the time per photo, that of reading it into an array."""
    reading = statistics.median(seconds(lambda: read_image(path)) for _ in range(3)) * draws
    return reading / statistics.median(seconds(lambda: _ours(path, draws, False)) for _ in range(3))
