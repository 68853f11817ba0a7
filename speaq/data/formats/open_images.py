"""Open Images' visual relationships (V4 to V7): one CSV for each split, and one of class names.

    oidv6-train-annotations-vrd.csv, validation-annotations-vrd.csv, test-annotations-vrd.csv:
        ImageID,LabelName1,LabelName2,XMin1,XMax1,YMin1,YMax1,XMin2,XMax2,YMin2,YMax2,RelationshipLabel
    class-descriptions-boxable.csv (its name may hold a version): /m/011k07,Tortoise

Coordinates are fractions of the photo's sides. `is` joins an object with an attribute of it, which is no object: these
rows are left out. Boxes are those that a relation names; equal ones of a class are one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from speaq.data import DataError
from speaq.data.box_forms import Form
from speaq.data.coco.form import Annotation, Document, Image, Relationship, text_of
from speaq.data.files import Problem
from speaq.data.formats.reading import Read, Split, by_split, joined, listed, named
from speaq.plain_text import visible

COLUMNS = (
    *("ImageID", "LabelName1", "LabelName2", "RelationshipLabel"),
    *(f"{side}{which}" for which in "12" for side in ("XMin", "YMin", "XMax", "YMax")),
)
ATTRIBUTE = "is"


class _Scenes:
    """Rows of one file, as they come."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names, self.attributes = names, 0
        self.images: dict[str, None] = {}
        self.boxes: dict[tuple[str, str, tuple[float, ...]], str] = {}  # (image, class, corners) → id
        self.relations: dict[tuple[str, str, str, str], None] = {}

    def take(self, row: Mapping[str, str]) -> None:
        """Raises ValueError where a coordinate is no number."""
        image, predicate = row["ImageID"], row["RelationshipLabel"]
        if predicate == ATTRIBUTE:
            self.attributes += 1
            return
        self.images.setdefault(image)
        subject, other = (self._box(row, which) for which in "12")
        self.relations.setdefault((image, subject, other, predicate))

    def _box(self, row: Mapping[str, str], which: str) -> str:
        image, label = row["ImageID"], row[f"LabelName{which}"]
        corners = tuple(float(row[f"{side}{which}"]) for side in ("XMin", "YMin", "XMax", "YMax"))
        key = (image, self._names.get(label, label), corners)
        return self.boxes.setdefault(key, f"{image}/{len(self.boxes)}")

    def document(self, classes: list[str]) -> Document:
        """What was taken."""
        return Document(
            images=[Image(id=name, file_name=f"{name}.jpg") for name in self.images],
            annotations=[
                Annotation(id=key, image_id=image, bbox=corners, category_id=label)  # type: ignore[arg-type]
                for (image, label, corners), key in self.boxes.items()
            ],
            categories=named(classes),
            relationships=[
                Relationship(image_id=image, subject_id=subject, object_id=other, predicate=predicate)
                for image, subject, other, predicate in self.relations
            ],
        )


def read(annotations: Path, relations: Path | None) -> Read:
    """Reads one CSV of relations, or a folder with those of all splits; class names lie beside. Raises DataError."""
    files = by_split(annotations, "*annotations-vrd.csv")
    names = _class_names(annotations if annotations.is_dir() else annotations.parent)
    scenes: dict[Split | None, _Scenes] = {}
    for split, path in files.items():
        scenes[split] = _Scenes(names)
        for line, row in _rows(path):
            try:
                scenes[split].take(row)
            except ValueError as error:
                raise DataError(
                    f"{path}: {Problem(path.name, line, 'XMin1 … YMax2', 'are numbers', str(error))}"
                ) from error
    classes = sorted({label for some in scenes.values() for _, label, _ in some.boxes})
    attributes = sum(some.attributes for some in scenes.values())
    notes = [f"left out: attributes: {attributes} rows with {ATTRIBUTE!r}"] if attributes else []
    if not names:
        notes.append("no *class-descriptions*.csv lies beside them: classes keep their codes, such as /m/011k07")
    documents = {split: some.document(classes) for split, some in scenes.items()}
    return Read(joined(documents, files), Form("xyxy", fractions=True), notes)


def _class_names(folder: Path) -> dict[str, str]:
    """Code → name, of all files of class descriptions; some versions have a line of column names."""
    names: dict[str, str] = {}
    for path in listed(folder, "*class-descriptions*.csv"):
        for row in csv.reader(io.StringIO(text_of(path))):
            if len(row) == 2 and row[0].startswith("/"):
                names[row[0]] = row[1]
    return names


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by their number, from 0 below the line of column names. Raises DataError where columns are missing."""
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), restval="")
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        given = visible(", ".join(reader.fieldnames or ("nothing",))[:120])
        raise DataError(
            f"{path}: the first line names {', '.join(COLUMNS)} · {', '.join(missing)} missing; it has {given}"
        )
    try:
        yield from enumerate(reader)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
