"""The report's section of examples: what the best trial and the published setting find in the same photos."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speaq.config import ConfigError
from speaq.data import DataError
from speaq.data.records import Split
from speaq.data.visual_genome import open_data
from speaq.drawing import drawing
from speaq.study.snapshot import Snapshot
from speaq.training.folder import BEST
from speaq.vocabulary import in_words

from . import html
from .series import Series

if TYPE_CHECKING:
    from speaq.prediction.predictor import Predictor

PHOTOS = 3
DRAWN = 8  # triplets of a photo at most
DPI = 80

Pictures = dict[int, list[str]]  # image → a picture of each trial


def examples(snapshot: Snapshot, series: Series) -> list[str]:
    """Pictures of validation photos with the most annotated relations, or why there are none."""
    trials = {name: entry for name, entry in series.marked.items() if name != "baseline"}
    folders = {name: snapshot.trial_folder(entry) for name, entry in trials.items()}
    there = {name: folder for name, folder in folders.items() if (folder / "checkpoints" / BEST).is_file()}
    if not there:
        return [html.text("No checkpoint of the best trial or of the published setting is here.")]
    try:
        vg = open_data(snapshot.study.data)
        split = vg.split("val", snapshot.plan.base.data)
        images = np.argsort(-np.diff(split.relation_offsets), kind="stable")[:PHOTOS].tolist()
        found = _predicted(there, split, images)
        parts = [html.text("The validation photos with the most annotated relations. Best checkpoints, best triplets.")]
        for image in images:
            said = ", ".join(dict.fromkeys(in_words(split.scene_graph(image), vg.vocabulary)))
            parts += [html.text(f"Photo {split.image_id(image)}. Annotated: {said}."), *found[image]]
    except (ConfigError, DataError) as error:
        return [html.text(f"Nothing can be predicted: {error}")]
    return parts


def _predicted(folders: Mapping[str, Path], split: Split, images: list[int]) -> Pictures:
    from speaq.prediction.predictor import Predictor  # with torch

    found: Pictures = {image: [] for image in images}
    for name, folder in folders.items():
        predictor = Predictor.load(folder)
        for image, picture in zip(images, _drawn(predictor, split, images), strict=True):
            found[image].append(html.picture(picture, name))
    return found


def _drawn(predictor: Predictor, split: Split, images: list[int]) -> Iterator[bytes]:
    for image in images:
        scene = predictor.predict(split.image_path(image), top=DRAWN)
        buffer = io.BytesIO()
        with drawing(scene.words()):
            scene.figure().savefig(buffer, format="png", dpi=DPI)
        yield buffer.getvalue()
