"""COCO's JSON with relations → the files that a data set consists of.

The form is COCO's object detection, and two more lists:

    {"images":        [{"id": 7, "file_name": "a/7.png", "width": 640, "height": 480, "split": "train"}, …],
     "annotations":   [{"id": 1, "image_id": 7, "bbox": [x, y, width, height], "category_id": 3}, …],
     "categories":    [{"id": 3, "name": "person"}, …],
     "relationships": [{"subject_id": 1, "object_id": 2, "predicate": "riding"}, …],
     "predicates":    [{"id": 1, "name": "riding"}, …]}

`bbox` is in pixels of the upright photo; `subject_id` and `object_id` are ids of annotations. A relationship may name
its `image_id`, and may give `predicate_id` in place of `predicate`. `predicates` is optional: without it, the
predicates that occur are numbered in alphabetical order. `width` and `height` are optional: the photo knows them.
`split` is train, val or test, of all images or of none. Other keys are ignored; annotations with `iscrowd` are left
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speaq.data import DataError
from speaq.data.files import Problem, summary

Size = Annotated[int, Field(gt=0)]
Id = int | str
Model = TypeVar("Model", bound=BaseModel)


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Image(_Entry):
    id: Id
    file_name: str
    width: Size | None = None
    height: Size | None = None
    split: Literal["train", "val", "test"] | None = None


class Annotation(_Entry):
    id: Id
    image_id: Id
    bbox: tuple[float, float, Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    category_id: Id
    iscrowd: int = 0


class Named(_Entry):
    id: Id
    name: Annotated[str, Field(min_length=1)]


class Relationship(_Entry):
    subject_id: Id
    object_id: Id
    predicate: Annotated[str, Field(min_length=1)] | None = None
    predicate_id: Id | None = None
    image_id: Id | None = None


class Relations(_Entry):
    """What `--relations` names: the two lists that COCO's own files lack."""

    relationships: list[Relationship]
    predicates: list[Named] | None = None


class Document(_Entry):
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Named]
    relationships: list[Relationship] | None = None
    predicates: list[Named] | None = None


def read_document(annotations: Path, relations: Path | None) -> Document:
    document = _parse(annotations, Document)
    if relations is None:
        if document.relationships is None:
            raise DataError(
                f"{annotations}: relationships · is in the file, or in one given with --relations · missing"
            )
        return document
    if document.relationships is not None or document.predicates is not None:
        raise DataError(f"{annotations}: has relationships of its own; leave {relations} out, or take them out")
    extra = _parse(relations, Relations)
    return document.model_copy(update={"relationships": extra.relationships, "predicates": extra.predicates})


def _parse(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        found: dict[tuple[object, ...], Problem] = {}
        for detail in error.errors(include_url=False):
            place = detail["loc"][:3]
            row = next((part for part in place if isinstance(part, int)), None)
            field = ".".join(part for part in place if isinstance(part, str))
            value = "missing" if detail["type"] == "missing" else repr(detail["input"])[:80]
            found.setdefault(place, Problem(path.name, row, field, detail["msg"], value))
        raise DataError(summary(path, list(found.values()))) from error
