"""A generated world in Visual Genome's four files, for demonstrations and tests.

Scenes of 0 to 5 things on a plain background with 16 predicates whose frequencies fall like Zipf's law (`toy_scenes`).
The files have the keys, types and encodings of the real ones, so that they are read by the same code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from speaq.data import DataError
from speaq.data.files import ANNOTATION_NAMES, IMAGE_FOLDER
from speaq.data.toy.drawing import THINGS, Box, draw_checks, draw_connector, draw_thing
from speaq.data.toy.scenes import OBJECTS, PREDICATES, SIDE, SYMMETRIC, Relation, Scene, Thing, make_picture
from speaq.data.writing import Rows, vocabulary, write_tables

FIRST_IMAGE_ID = 100_001  # above the four ids that Visual Genome's readers drop as corrupt
ANNOTATIONS = ANNOTATION_NAMES[0]
SIZE_NAMES = ("small", "large")
ATTRIBUTES = (*SIZE_NAMES, "chequered", *sorted(colour for _, _, colour in THINGS.values()))
FREQUENT = ("near", "above", "under", "on", "inside")  # of which some relations stay unannotated

Record = Mapping[str, Any]


@dataclass
class _Rows(Rows):
    boxes: list[Box] = field(default_factory=list)  # pixels
    attributes: list[list[int]] = field(default_factory=list)  # 1-based
    active: list[bool] = field(default_factory=list)


def is_test(index: int) -> bool:
    """Every fourth scene is a test scene, so the split of a scene does not depend on the number of scenes."""
    return index % 4 == 3


def make_toy(
    directory: Path,
    num_images: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    *,
    grid: int = 1,
    annotated: float | None = None,
) -> None:
    """Writes a toy world of `num_images` pictures into `directory` (made where absent), a quarter of them for testing.

    Equal arguments give equal bytes; picture i does not depend on `num_images`. The annotations are written last: a
    folder without them is unfinished, and may be written again.

    Args:
        progress: is called with the number of pictures written so far, every now and then and at the end.
        grid: a picture shows `grid` × `grid` scenes, so it has that many times the relations.
        annotated: share of all relations that is annotated, as in data where people annotate what they think of;
            None: all but a few of the frequent ones.

    Raises:
        DataError: fewer than one image or scene, a negative seed, a share outside (0, 1], annotations that are there
            already, or a folder that cannot be written.
    """
    if num_images < 1:
        raise DataError(f"{directory}: a toy world has at least 1 image, not {num_images}")
    if seed < 0:
        raise DataError(f"{directory}: the seed of a toy world is at least 0, not {seed}")
    if grid < 1:
        raise DataError(f"{directory}: a picture of a toy world shows at least 1 x 1 scenes, not {grid}")
    if annotated is not None and not 0 < annotated <= 1:
        raise DataError(f"{directory}: the share of annotated relations is above 0 and at most 1, not {annotated}")
    if (directory / ANNOTATIONS).exists():
        raise DataError(f"{directory / ANNOTATIONS}: exists already; a toy world is written into a folder of its own")
    try:
        _Pictures(seed, grid, annotated).write(directory, num_images, progress or (lambda done: None))
    except OSError as error:
        raise DataError(f"{error.filename or directory}: cannot be written ({error.strerror or error})") from error


@dataclass(frozen=True)
class _Pictures:
    """What `make_toy` is asked for."""

    seed: int
    grid: int
    annotated: float | None

    def write(self, directory: Path, number: int, progress: Callable[[int], None]) -> None:
        (directory / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
        size = (self.grid + 1) * SIDE
        noise = np.random.default_rng(self.seed).integers(0, 15, (size, size, 3), dtype=np.uint8)
        rows, records = _Rows(), list[Record]()
        for index in range(number):
            scene = self._scene(index)
            image_id = FIRST_IMAGE_ID + index
            picture = draw_scene(scene, noise, random.Random(f"{self.seed} picture {index}"))
            picture.save(directory / IMAGE_FOLDER / f"{image_id}.jpg", quality=90, subsampling=0)
            records.append(_record(image_id, scene.size_hw))
            rng = random.Random(f"{self.seed} annotation {index}")
            _annotate(rows, scene, _annotated(scene.relations, self.annotated, rng), is_test(index))
            if index % 100 == 99:
                progress(index + 1)
        attributes = vocabulary("attribute", "attribute", ATTRIBUTES, [i for ids in rows.attributes for i in ids])
        columns = _columns(rows, self.grid * SIDE)
        write_tables(directory, rows, records, (OBJECTS, PREDICATES), columns, dict(attributes))
        progress(number)

    def _scene(self, index: int) -> Scene:
        if index % 500 in (7, 9):  # one of test, one of train
            return Scene((SIDE, SIDE), (), (), ())
        return make_picture(index, self.seed, is_test(index), self.grid)


def draw_scene(scene: Scene, noise: NDArray[np.uint8], rng: random.Random) -> Image.Image:
    """Draws a scene on a light background of one colour under a window of `noise`, which is SIDE longer than it."""
    height, width = scene.size_hw
    top, left = rng.randint(0, SIDE), rng.randint(0, SIDE)
    colour = np.array([rng.randint(175, 235) for _ in range(3)], dtype=np.uint8)
    picture = Image.fromarray(noise[top : top + height, left : left + width] + colour)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        draw_thing(pen, thing.name, thing.box, thing.shift)
        if thing.chequered:
            draw_checks(pen, thing.box)
    for subject, other, predicate in scene.links:
        if predicate not in SYMMETRIC or subject < other:
            draw_connector(pen, predicate, scene.things[subject].box, scene.things[other].box)
    return picture


def _annotated(relations: Sequence[Relation], share: float | None, rng: random.Random) -> list[Relation]:
    """As people annotate: some relations are left out, a few rows come twice, in any order."""
    if share is None:
        rows = [row for row in relations if row[2] not in FREQUENT or rng.random() >= 0.04]
    else:
        rows = [row for row in relations if rng.random() < share]
    if rows and rng.random() < 0.02:
        rows.append(rng.choice(rows))
    rng.shuffle(rows)
    return rows


def _attributes(thing: Thing) -> list[int]:
    x0, y0, x1, y1 = thing.box
    area = (x1 - x0) * (y1 - y0)
    names = [THINGS[thing.name][2]]
    names += ["small"] * (area < 400) + ["large"] * (area > 1200) + ["chequered"] * thing.chequered
    return sorted(ATTRIBUTES.index(name) + 1 for name in names)


def _annotate(rows: _Rows, scene: Scene, relations: Sequence[Relation], test: bool) -> None:
    first = len(rows.labels)
    active = {place for subject, other, _ in relations for place in (subject, other)}
    rows.split.append(2 if test else 0)
    rows.num_boxes.append(len(scene.things))
    rows.num_relations.append(len(relations))
    rows.labels += [OBJECTS.index(thing.name) + 1 for thing in scene.things]
    rows.boxes += [thing.box for thing in scene.things]
    rows.attributes += [_attributes(thing) for thing in scene.things]
    rows.active += [place in active for place in range(len(scene.things))]
    rows.relationships += [(first + subject, first + other) for subject, other, _ in relations]
    rows.predicates += [PREDICATES.index(predicate) + 1 for _, _, predicate in relations]


def _record(image_id: int, size_hw: tuple[int, int]) -> Record:
    return {
        "width": size_hw[1],
        "url": f"VG_100K/{image_id}.jpg",
        "height": size_hw[0],
        "image_id": image_id,
        "coco_id": None,
        "flickr_id": None,
    }


def _encode(boxes: NDArray[np.int64], side: int, scale: int) -> NDArray[np.int32]:
    """Pixels (x0, y0, x1, y1) → cx cy w h on a grid of `scale`: left and top rounded down, width and height up."""
    corner = boxes[:, :2] * scale // side
    size = -(-(boxes[:, 2:] - boxes[:, :2]) * scale // side)
    size = np.minimum(size, scale - corner)
    return np.concatenate((corner + size // 2, size), axis=1).astype(np.int32)


def _columns(rows: _Rows, side: int) -> dict[str, NDArray[Any]]:
    """Those of the h5 that toy worlds alone have; boxes on the grids of the longest side."""
    boxes = np.array(rows.boxes, dtype=np.int64).reshape(-1, 4)
    attributes = np.zeros((len(boxes), 10), dtype=np.int64)
    for row, ids in enumerate(rows.attributes):
        attributes[row, : len(ids)] = ids
    return {
        "active_object_mask": np.array(rows.active, dtype=bool).reshape(-1, 1),
        "attributes": attributes,
        "boxes_1024": _encode(boxes, side, 1024),
        "boxes_512": _encode(boxes, side, 512),
    }
