"""What the readers of all formats share: judged JSON, splits by the names of files, and splits put together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from speaq.data import DataError
from speaq.data.box_forms import Form
from speaq.data.coco.form import Annotation, Document, Image, Named, Relationship, text_of
from speaq.data.files import Problem, summary

Content = TypeVar("Content")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Entry(BaseModel):
    """A part of a foreign file: of the types that its description gives; other keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True)
class Read:
    """Annotations in our form, and what the format alone knows."""

    document: Document
    form: Form | None = None  # of the boxes; None: COCO's
    notes: Sequence[str] = ()  # what was left out on the way, one line each
    relations: str | None = None  # name of the file with the relations, where it is another one


def parse(path: Path, kind: TypeAdapter[Content]) -> Content:
    """The content of a JSON file. Raises DataError with the first places that are not of the form."""
    text = text_of(path)
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise DataError(summary(path, broken(path, error))) from error


def broken(path: Path, error: ValidationError, row: int | None = None) -> list[Problem]:
    """What pydantic found, place by place; `row`: of the entry that was judged, where they are judged one by one."""
    return [
        Problem(path.name, row, ".".join(map(str, detail["loc"])), detail["msg"], repr(detail["input"])[:80])
        for detail in error.errors(include_url=False)
    ]


def by_split(folder: Path, pattern: str) -> dict[Split | None, Path]:
    """Files of a folder that fit a pattern, by the split in their names; a file given instead is all there is.

    Raises DataError where there is none, or several of one split.
    """
    if not folder.is_dir():
        return {None: folder}
    found: dict[Split | None, Path] = {}
    for path in listed(folder, pattern):
        split = split_of(path)
        if split is None:
            continue
        if split in found:
            raise DataError(f"{folder}: {found[split].name} and {path.name} are both {split}; keep one of them there")
        found[split] = path
    if not found:
        raise DataError(f"{folder}: holds no file {pattern} with train, val or test in its name")
    return dict(sorted(found.items(), key=lambda item: SPLITS.index(item[0] or "train")))


def listed(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that fit a pattern, by name; hidden ones, as a Mac leaves beside others, are not meant."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def split_of(path: Path) -> Split | None:
    """The split that a file's name holds as a word (`val2017`, `validation-x`); None where it holds none (`latest`)."""
    words = re.findall(r"(?<![a-z])(train|val|test)(?:ing|id|idation)?(?![a-z])", path.stem.lower())
    return next((split for split in SPLITS if split in words), None)


def as_box(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Corners as left, top, width, height."""
    return x1, y1, x2 - x1, y2 - y1


def named(names: Sequence[str]) -> list[Named]:
    """Names that are their own ids."""
    return [Named(id=name, name=name) for name in names]


def joined(documents: Mapping[Split | None, Document], files: Mapping[Split | None, Path]) -> Document:
    """One document of all splits; ids that several of them use are told apart by the split's name.

    Raises DataError where the splits name other categories or predicates.
    """
    if len(documents) == 1:
        return next(iter(documents.values()))
    first, *others = documents
    for split in others:
        for what in ("categories", "predicates"):
            if getattr(documents[first], what) != getattr(documents[split], what):
                raise DataError(f"{files[split]}: {what} · are those of {files[first].name}, in this order · others")
    images = _repeat(documents, "images")
    annotations = images or _repeat(documents, "annotations")
    parts = [_told_apart(part, f"{split}_", images, annotations) for split, part in documents.items()]
    return parts[0].model_copy(
        update={
            "images": [
                image.model_copy(update={"split": split})
                for split, part in zip(documents, parts, strict=True)
                for image in part.images
            ],
            "annotations": [entry for part in parts for entry in part.annotations],
            "relationships": [entry for part in parts for entry in part.relationships or ()],
        }
    )


def _repeat(documents: Mapping[Split | None, Document], what: str) -> bool:
    ids = [{entry.id for entry in getattr(part, what)} for part in documents.values()]
    return len(set().union(*ids)) < sum(map(len, ids))


def _told_apart(part: Document, prefix: str, images: bool, annotations: bool) -> Document:
    image = prefix if images else ""
    mark = prefix if annotations else ""
    if not mark:
        return part
    return part.model_copy(
        update={
            "images": [_marked(entry, {"id": image}) for entry in part.images],
            "annotations": [_marked(entry, {"id": mark, "image_id": image}) for entry in part.annotations],
            "relationships": [
                _marked(entry, {"subject_id": mark, "object_id": mark, "image_id": image})
                for entry in part.relationships or ()
            ],
        }
    )


Marked = TypeVar("Marked", Image, Annotation, Relationship)


def _marked(entry: Marked, prefixes: Mapping[str, str]) -> Marked:
    changed = {
        name: f"{prefix}{value}"
        for name, prefix in prefixes.items()
        if prefix and (value := getattr(entry, name)) is not None
    }
    return entry.model_copy(update=changed)
