"""COCO's JSON with relations → the files that a data set consists of.

The form is COCO's object detection, and two more lists:

    {"images":        [{"id": 7, "file_name": "a/7.png", "width": 640, "height": 480, "split": "train"}, …],
     "annotations":   [{"id": 1, "image_id": 7, "bbox": [x, y, width, height], "category_id": 3}, …],
     "categories":    [{"id": 3, "name": "person"}, …],
     "relationships": [{"subject_id": 1, "object_id": 2, "predicate": "riding"}, …],
     "predicates":    [{"id": 1, "name": "riding"}, …]}

`bbox` is in pixels of the upright photo; where an annotation has none, the box around its `segmentation` is taken.
`subject_id` and `object_id` are ids of annotations. A relationship may name its `image_id`, and may give `predicate_id`
in place of `predicate`. `predicates` is optional: without it, the predicates that occur are numbered in alphabetical
order. `width` and `height` are optional: the photo knows them. `split` is train, val or test, of all images or of none.
Numbers may be written as text or with `.0`, ids of one number or text are the same id, other keys are ignored.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from speaq.data import DataError
from speaq.data.files import Problem, summary
from speaq.files import foreign
from speaq.files.foreign import ForeignError


def _number(value: Any) -> Any:
    """Numbers that are written as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _whole(value: Any) -> Any:
    """Whole numbers that are written as text, with `.0`, or as true and false."""
    if isinstance(value, bool):
        return int(value)
    number = _number(value)
    return int(number) if isinstance(number, float) and math.isfinite(number) and number.is_integer() else value


def _id(value: Any) -> Any:
    """7, 7.0 and "7" are one id; "007" is another."""
    if isinstance(value, bool):
        return value
    whole = _whole(value)
    return whole if not isinstance(value, str) or str(whole) == value else value


def _tidy_ids(content: dict[str, Any]) -> None:
    """All ids of an entry, in place; millions of entries have whole numbers, which need nothing."""
    for key in IDS:
        if key in content and type(content[key]) is not int:
            content[key] = _id(content[key])


IDS = ("id", "image_id", "category_id", "subject_id", "object_id", "predicate_id")
Whole = Annotated[int, BeforeValidator(_whole)]
Size = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
Id = int | str
Name = Annotated[str, Field(min_length=1)]
Box = tuple[float, float, float, float]
Model = TypeVar("Model", bound=BaseModel)


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class _Numbered(_Entry):
    @model_validator(mode="before")
    @classmethod
    def _tidy(cls, content: Any) -> Any:
        if isinstance(content, dict):
            _tidy_ids(content)
        return content


class Image(_Numbered):
    """An entry of `images`."""

    id: Id
    file_name: str
    width: Size | None = None
    height: Size | None = None
    split: Literal["train", "val", "test"] | None = None


class Annotation(_Entry):
    """An entry of `annotations`: a box in its image, and its class."""

    id: Id
    image_id: Id
    bbox: Box | None = None  # None: it has neither a box nor a segmentation that one could be taken from
    category_id: Id
    iscrowd: Whole | None = 0
    from_segmentation: bool = False

    @model_validator(mode="before")
    @classmethod
    def _take_box(cls, content: Any) -> Any:
        """Segmentations are large: only the box around one is kept, where it is needed."""
        if not isinstance(content, dict):
            return content
        content = {key: value for key, value in content.items() if key != "from_segmentation"}
        _tidy_ids(content)
        segmentation = content.pop("segmentation", None)
        if content.get("bbox") in (None, []):
            content["bbox"] = None if _whole(content.get("iscrowd")) else box_of(segmentation)
            content["from_segmentation"] = content["bbox"] is not None
        elif isinstance(content.get("bbox"), list):  # a list is no tuple to who judges Python's values
            content["bbox"] = tuple(map(_number, content["bbox"]))
        return content


class Named(_Numbered):
    """An entry of `categories` or `predicates`: a name and its id."""

    id: Id
    name: Name


class Relationship(_Numbered):
    """An entry of `relationships`: two annotations, and a predicate by name or by id."""

    subject_id: Id
    object_id: Id
    predicate: Name | None = None
    predicate_id: Id | None = None
    image_id: Id | None = None


class Relations(_Entry):
    """What `--relations` names: the two lists that COCO's own files lack."""

    relationships: list[Relationship]
    predicates: list[Named] | None = None


class Document(_Entry):
    """A whole file: COCO's three lists, with the relationships and their predicates."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Named]
    relationships: list[Relationship] | None = None
    predicates: list[Named] | None = None


def read_document(annotations: Path, relations: Path | None) -> Document:
    """Reads and joins both files. Raises DataError, with the first entries that are not of the form."""
    text = text_of(annotations)
    document = _parse(annotations, text, Document)
    if relations is None:
        if document.relationships is None:
            rule = "is in the file, or in one given with --relations"
            raise DataError(f"{annotations}: relationships · {rule} · missing{_likely_relations(text)}")
        return document
    if document.relationships is not None or document.predicates is not None:
        raise DataError(f"{annotations}: has relationships of its own; leave {relations} out, or take them out")
    extra = _parse(relations, text_of(relations), Relations)
    return document.model_copy(update={"relationships": extra.relationships, "predicates": extra.predicates})


def parse_document(path: Path) -> Document:
    """Reads one file, with relationships or without. Raises DataError, with the first entries not of the form."""
    return _parse(path, text_of(path), Document)


def text_of(path: Path) -> str:
    """What a foreign text file holds. Raises DataError where it cannot be read."""
    try:
        return foreign.read_text(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ForeignError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _parse(path: Path, text: str, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        found: dict[tuple[object, ...], Problem] = {}
        for detail in error.errors(include_url=False):
            place = detail["loc"][:3]
            row = next((part for part in place if isinstance(part, int)), None)
            field = ".".join(part for part in place if isinstance(part, str))
            rule, value = _explain(detail, field)
            if detail["type"] == "missing" and field == "relationships":
                value += _likely_relations(text)
            found.setdefault(place, Problem(path.name, row, field, rule, value))
        raise DataError(summary(path, list(found.values()))) from error


def _explain(detail: ErrorDetails, field: str) -> tuple[str, str]:
    """Rule and value of what pydantic found; an entry that lacks a key shows those that it has."""
    given = detail["input"]
    if detail["type"] == "missing":
        keys = f"; it has {', '.join(map(str, given))}"[:120] if isinstance(given, dict) and "." in field else ""
        return detail["msg"], f"missing{keys}"
    if field == "relationships" and isinstance(given, list) and len(given) in (3, 4):
        rule = 'is {"subject_id": …, "object_id": …, "predicate": …}'
        return rule, f"{reprlib.repr(given)}, which looks like [subject, object, predicate]"
    return detail["msg"], repr(given)[:80]


def _likely_relations(text: str) -> str:
    """Words on the key that likely holds the relationships, where one does."""
    try:
        content = foreign.parse_json(text)
    except ForeignError:
        return ""
    if not isinstance(content, dict):
        return ""
    for where, table in _tables(content):
        for key, value in table.items():
            if isinstance(value, list | dict) and value and any(part in str(key).lower() for part in ("rel", "tripl")):
                first = value[0] if isinstance(value, list) else None
                keys = f" of {', '.join(map(str, first))}"[:80] if isinstance(first, dict) else ""
                return f"; {where}{key!r} looks like them ({len(value)} entries{keys}): rename it to 'relationships'"
    return ""


def _tables(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The document and the first entry of each of its lists, with words on where that is."""
    yield "its key ", content
    for name, value in content.items():
        if isinstance(value, dict):
            yield f"in {name!r}, ", value
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"in each of {name!r}, ", value[0]


def box_of(segmentation: Any) -> Box | None:
    """left, top, width, height in pixels; None where the segmentation is empty or not understood."""
    try:
        if isinstance(segmentation, dict):
            return _box_of_runs(segmentation["counts"], *segmentation["size"])
        points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation if polygon]
        corners = np.concatenate(points)
        if not np.isfinite(corners).all():
            return None
    except (TypeError, ValueError, KeyError, OverflowError):  # whatever else stands there is no segmentation
        return None
    return _box(*corners.min(0).tolist(), *corners.max(0).tolist())


def _box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return x1, y1, x2 - x1, y2 - y1


def _box_of_runs(counts: list[int] | str, height: int, width: int) -> Box | None:
    """Runs of 0 and 1 in turn, column by column. Raises ValueError where they do not fill the mask."""
    runs = np.array(_decoded(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    ends = np.cumsum(runs)
    if not len(runs) or (runs < 0).any() or ends[-1] != height * width:
        raise ValueError("the runs do not fill the mask")
    first, last = (ends - runs)[1::2], ends[1::2] - 1
    first, last = first[last >= first], last[last >= first]  # runs may be empty
    if not len(first):
        return None
    crosses = first // height != last // height  # from the foot of one column to the head of the next
    top = 0 if crosses.any() else int((first % height).min())
    bottom = height if crosses.any() else int((last % height).max()) + 1
    return _box(float((first // height).min()), float(top), float((last // height).max()) + 1, float(bottom))


def _decoded(text: str) -> list[int]:
    """pycocotools' text of runs: 5 bits a letter, lowest first, signed; from the third run on, the change by two."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError("not a run-length text")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
