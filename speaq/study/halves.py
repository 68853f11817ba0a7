"""The two halves of the validation images: on one a trial's decoding is searched, on the other it is judged.

Letters: A images of the half to search on, J images of the half to judge on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from speaq.config import Config, ConfigError
from speaq.data.records import Split, looked_at
from speaq.data.statistics import zero_shot_triplets
from speaq.data.visual_genome import VisualGenome, open_data
from speaq.evaluation.bootstrap import ImageRecord
from speaq.evaluation.triplets import labels, triplet_key
from speaq.structures import IntArray

LEAST = 10  # images with relations that can be halved


def halves(split: Split) -> tuple[IntArray, IntArray]:
    """Rows of a split [A] to search a decoding on and [J] to judge it on: rising, no row in both, each in one.

    Images with relations, and those without, are put in the order of the SHA-256 of their ids. The first half of each
    (of an odd number the smaller one) is to search on. So the halves are those of a set of images, whatever the seed,
    the order of the rows or the trial.
    """
    counted = np.unique(split.relation_image)
    parts = (counted, np.setdiff1d(np.arange(len(split)), counted))
    searched, judged = zip(*(_halved(split, part.tolist()) for part in parts), strict=True)
    return _rising(searched), _rising(judged)


def _halved(split: Split, images: Sequence[int]) -> tuple[list[int], list[int]]:
    ordered = sorted(images, key=lambda image: hashlib.sha256(split.image_id(image).encode()).digest())
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def _rising(parts: Iterable[list[int]]) -> IntArray:
    return np.array(sorted(image for part in parts for image in part), dtype=np.int64)


def judged_alone(record: ImageRecord, data: Path, config: Config) -> ImageRecord:
    """What an evaluation on all of val saw of the images on which the search of a config's data judges decodings.

    Raises DataError where the data cannot be read.
    """
    val = open_data(data, need_images=False, log=lambda line: None).split("val", config.data)
    looked = looked_at(val, config.evaluation)
    judged = looked.rows[halves(looked)[1]]
    return replace(record, table=record.table.select(np.isin(val.rows[record.table.index], judged)))


def check_halves(data: Path, config: Config, objective: Sequence[str]) -> None:
    """Raises ConfigError where a data set has too few images, or too few rows for an objective, to be halved."""
    vg = open_data(data, need_images=False, log=lambda line: None)
    val = looked_at(vg.split("val", config.data), config.evaluation)
    counted = len(np.unique(val.relation_image))
    if counted < LEAST:
        raise ConfigError(
            f"search.decoding: true halves the validation images, and needs at least {LEAST} with relations; there are "
            f"{counted} (data.num_val {config.data.num_val}): more of them, or search.decoding: false"
        )
    for name in objective:
        if name.startswith("zR@"):
            _check_zero_shot(vg, val, config, name)


def _check_zero_shot(vg: VisualGenome, val: Split, config: Config, name: str) -> None:
    found = zero_shot_triplets(vg, val, config.data, config.evaluation.zero_shot)
    known = () if found is None else triplet_key(found[:, :2], found[:, 2])
    for half in halves(val):
        if not any(np.isin(labels(val.scene_graph(row)), known).any() for row in half.tolist()):
            raise ConfigError(
                f"objective: {name}: search.decoding: true halves the validation images, and one half has no zero-shot "
                "triplet; take R, mR or F, or search.decoding: false"
            )
