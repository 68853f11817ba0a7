"""Visual Genome's raw files, version 1.2 and later: `objects.json` and `relationships.json` in one folder.

    objects.json:
        [{"image_id": 1, "objects": [{"object_id": 5, "x": 0, "y": 1, "w": 2, "h": 3, "names": ["cat"]}, …]}, …]
    relationships.json:
        [{"image_id": 1, "relationships": [{"predicate": "ON", "subject": {"object_id": 5, "x": …, "name": "cat"},
                                            "object": {…}}, …]}, …]

`x` and `y` are the upper left corner in pixels. Relationships name objects that objects.json lacks: they are added.
Names are written in small letters; `object_alias.txt` and `relationship_alias.txt`, where they lie beside, make the
names of a line its first one. Boxes of one thing are not merged, as the field's VG150 does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from speaq.data import DataError
from speaq.data.box_forms import Form
from speaq.data.coco.form import Annotation, Document, Image, Relationship, text_of
from speaq.data.files import summary
from speaq.data.formats.reading import Entry, Read, broken, named
from speaq.files import foreign
from speaq.files.foreign import ForeignError

OBJECTS, RELATIONSHIPS = "objects.json", "relationships.json"


class _Object(Entry):
    object_id: int
    x: float
    y: float
    w: float
    h: float
    names: list[str] = Field(default_factory=list)
    name: str = ""

    @property
    def label(self) -> str:
        return self.names[0] if self.names else self.name


class _Objects(Entry):
    image_id: int
    objects: list[_Object]


class _Relation(Entry):
    predicate: str
    subject: _Object
    object: _Object


class _Relations(Entry):
    image_id: int
    relationships: list[_Relation]


Scene = TypeVar("Scene", _Objects, _Relations)


class _Scenes:
    """Objects and relations of all images, as they come."""

    def __init__(self, folder: Path) -> None:
        self._aliases = {kind: _aliases(folder / f"{kind}_alias.txt") for kind in ("object", "relationship")}
        self.images: dict[str, None] = {}
        self.boxes: dict[str, tuple[str, str, tuple[float, float, float, float]]] = {}  # id → image, class, box
        self.relations: list[Relationship] = []
        self.unnamed = self.added = 0

    def _tidy(self, name: str, kind: str) -> str:
        name = " ".join(name.lower().split()).rstrip(".")
        return self._aliases[kind].get(name, name)

    def _take(self, image: str, thing: _Object) -> str:
        key, label = f"{image}/{thing.object_id}", self._tidy(thing.label, "object")
        if not label:
            self.unnamed += key not in self.boxes
        else:
            self.boxes.setdefault(key, (image, label, (thing.x, thing.y, thing.w, thing.h)))
        return key

    def take_objects(self, scene: _Objects) -> None:
        self.images.setdefault(str(scene.image_id))
        for thing in scene.objects:
            self._take(str(scene.image_id), thing)

    def take_relations(self, scene: _Relations) -> None:
        image = str(scene.image_id)
        self.images.setdefault(image)
        before = len(self.boxes)
        for relation in scene.relationships:
            predicate = self._tidy(relation.predicate, "relationship")
            subject, other = self._take(image, relation.subject), self._take(image, relation.object)
            if not predicate:
                self.unnamed += 1
                continue
            self.relations.append(
                Relationship(image_id=image, subject_id=subject, object_id=other, predicate=predicate)
            )
        self.added += len(self.boxes) - before


def read(folder: Path, relations: Path | None) -> Read:
    """Reads the folder's two files, image by image. Raises DataError where they are missing or not of the form."""
    for name in (OBJECTS, RELATIONSHIPS):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: is a folder with {OBJECTS} and {RELATIONSHIPS} · {name} is missing")
    scenes = _Scenes(folder)
    for objects in _entries(folder / OBJECTS, TypeAdapter(_Objects)):
        scenes.take_objects(objects)
    for some in _entries(folder / RELATIONSHIPS, TypeAdapter(_Relations)):
        scenes.take_relations(some)
    notes = [f"{scenes.added} objects are named by {RELATIONSHIPS} alone"] if scenes.added else []
    if scenes.unnamed:
        notes.append(f"left out: objects and relations without a name: {scenes.unnamed}")
    document = Document(
        images=[Image(id=name, file_name=f"{name}.jpg") for name in scenes.images],
        annotations=[
            Annotation(id=key, image_id=image, bbox=box, category_id=label)
            for key, (image, label, box) in scenes.boxes.items()
        ],
        categories=named(sorted({label for _, label, _ in scenes.boxes.values()})),
        relationships=scenes.relations,
    )
    return Read(document, Form(), notes, relations=RELATIONSHIPS)


def _entries(path: Path, kind: TypeAdapter[Scene]) -> Iterator[Scene]:
    try:
        for row, entry in enumerate(foreign.json_entries(path)):
            yield _judged(path, row, entry, kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ForeignError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _judged(path: Path, row: int, entry: Any, kind: TypeAdapter[Scene]) -> Scene:
    try:
        return kind.validate_python(entry)
    except ValidationError as error:
        raise DataError(summary(path, broken(path, error, row))) from error


def _aliases(path: Path) -> dict[str, str]:
    """Every name of a line → the line's first name; nothing where there is no such file."""
    if not path.is_file():
        return {}
    lines = ([" ".join(name.lower().split()) for name in line.split(",")] for line in text_of(path).splitlines())
    return {name: names[0] for names in lines for name in names if name and names[0]}
