"""GQA's scene graphs: `train_sceneGraphs.json` and `val_sceneGraphs.json`.

    {"2407890": {"width": 640, "height": 480,
                 "objects": {"271881": {"name": "chair", "x": 220, "y": 310, "w": 50, "h": 80,
                                        "relations": [{"name": "on", "object": "275312"}, …]}, …}}, …}

`x` and `y` are the upper left corner in pixels. The photo of an image is called after its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from speaq.data.box_forms import Form
from speaq.data.coco.form import Annotation, Document, Image, Relationship
from speaq.data.formats.reading import Entry, Read, by_split, joined, named, parse


class _Relation(Entry):
    name: str
    object: str


class _Object(Entry):
    name: str
    x: float
    y: float
    w: float
    h: float
    relations: tuple[_Relation, ...] = ()


class _Scene(Entry):
    width: int
    height: int
    objects: dict[str, _Object]


_Scenes = TypeAdapter(dict[str, _Scene])


def read(annotations: Path, relations: Path | None) -> Read:
    """Reads one file, or a folder with those of train and val; the latter is the test split.

    Raises DataError where a file is not of the form.
    """
    files = by_split(annotations, "*sceneGraphs.json")
    scenes = {split: parse(path, _Scenes) for split, path in files.items()}
    classes = sorted(
        {thing.name for some in scenes.values() for scene in some.values() for thing in scene.objects.values()}
    )
    documents = {split: _document(some, classes) for split, some in scenes.items()}
    notes = []
    if "train" in files and "val" in files and "test" not in files:  # GQA publishes no scene graphs for testing
        documents["test"] = documents.pop("val")
        notes.append(f"{files['val'].name} is the test split: there is no other")
    return Read(joined(documents, dict.fromkeys(documents, annotations)), Form(), notes)


def _document(scenes: Mapping[str, _Scene], classes: list[str]) -> Document:
    return Document(
        images=[
            Image(id=name, file_name=f"{name}.jpg", width=scene.width, height=scene.height)
            for name, scene in scenes.items()
        ],
        annotations=[
            Annotation(
                id=f"{name}/{key}",
                image_id=name,
                bbox=(thing.x, thing.y, thing.w, thing.h),
                category_id=thing.name,
            )
            for name, scene in scenes.items()
            for key, thing in scene.objects.items()
        ],
        categories=named(classes),
        relationships=[
            Relationship(
                image_id=name,
                subject_id=f"{name}/{key}",
                object_id=f"{name}/{relation.object}",
                predicate=relation.name,
            )
            for name, scene in scenes.items()
            for key, thing in scene.objects.items()
            for relation in thing.relations
        ],
    )
