"""PSG's JSON: panoptic segments of COCO's photos with relations between them.

    {"data": [{"image_id": "107902", "file_name": "train2017/000000417720.jpg", "height": 640, "width": 480,
               "segments_info": [{"id": 3648962, "category_id": 0, "iscrowd": 0, "isthing": 1}, …],
               "annotations": [{"bbox": [x1, y1, x2, y2], "bbox_mode": 0, "category_id": 0}, …],
               "relations": [[0, 1, 11], …]}, …],
     "thing_classes": [...], "stuff_classes": [...], "predicate_classes": [...], "test_image_ids": [...]}

`category_id` counts things and then stuff from 0; a relation is subject, object, predicate: places among the segments
and in `predicate_classes`. Masks, which are in other files, are not needed: every segment has a box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from speaq.data import DataError
from speaq.data.box_forms import Form
from speaq.data.coco.form import Annotation, Document, Image, Named, Relationship
from speaq.data.formats.reading import Entry, Read, as_box, parse

CORNERS, SIZES = 0, 1  # of `bbox_mode`: x1 y1 x2 y2, and left top width height
Four = tuple[float, float, float, float]


class _Segment(Entry):
    category_id: int
    iscrowd: int = 0
    bbox: Four | None = None  # COCO's own panoptic files have it here, as left, top, width, height


class _Box(Entry):
    bbox: Four
    bbox_mode: Literal[0, 1] = 0
    category_id: int


class _Scene(Entry):
    image_id: int | str
    file_name: str
    width: int
    height: int
    segments_info: tuple[_Segment, ...] = ()
    annotations: tuple[_Box, ...] | None = None
    relations: tuple[tuple[int, int, int], ...] = ()


class _File(Entry):
    data: list[_Scene]
    thing_classes: list[str]
    stuff_classes: tuple[str, ...] = ()
    predicate_classes: list[str]
    test_image_ids: tuple[int | str, ...] = ()


def read(path: Path, relations: Path | None) -> Read:
    """Reads one file such as `psg.json`. Raises DataError where it is not of the form."""
    content = parse(path, TypeAdapter(_File))
    test = set(map(str, content.test_image_ids))
    images, annotations, relationships = list[Image](), list[Annotation](), list[Relationship]()
    for row, scene in enumerate(content.data):
        name, split = str(scene.image_id), "test" if str(scene.image_id) in test else "train"
        images.append(
            Image(
                id=name,
                file_name=scene.file_name,
                width=scene.width,
                height=scene.height,
                split=split if test else None,  # type: ignore[arg-type]
            )
        )
        annotations += _boxes(scene, f"{path}: {path.name} · row {row} · data")
        relationships += [
            Relationship(image_id=name, subject_id=f"{name}/{one}", object_id=f"{name}/{other}", predicate_id=predicate)
            for one, other, predicate in scene.relations
        ]
    return Read(
        Document(
            images=images,
            annotations=annotations,
            categories=_counted([*content.thing_classes, *content.stuff_classes]),
            relationships=relationships,
            predicates=_counted(content.predicate_classes),
        ),
        Form(),
    )


def _counted(names: list[str]) -> list[Named]:
    return [Named(id=place, name=name) for place, name in enumerate(names)]


def _boxes(scene: _Scene, where: str) -> list[Annotation]:
    """Every segment's box: of `annotations`, or its own."""
    segments, boxes = scene.segments_info, scene.annotations
    if boxes is not None and segments and len(boxes) != len(segments):
        raise DataError(
            f"{where} · annotations and segments_info are as many · {len(boxes)} and {len(segments)} of image "
            f"{scene.image_id}"
        )
    if boxes is None:
        found = [(segment.bbox, segment.category_id) for segment in segments]
    else:
        found = [(as_box(*box.bbox) if box.bbox_mode == CORNERS else box.bbox, box.category_id) for box in boxes]
    return [
        Annotation(
            id=f"{scene.image_id}/{place}",
            image_id=str(scene.image_id),
            bbox=box,
            category_id=category,
            iscrowd=segments[place].iscrowd if segments else 0,
        )
        for place, (box, category) in enumerate(found)
    ]
