"""RelTR's and EGTR's layout: COCO's JSON for each split, and all relations in `rel.json` beside them.

    rel.json: {"train": {"7": [[0, 1, 31], …], …}, "val": …, "test": …,
               "rel_categories": ["__background__", "above", …]}

A relation is subject, object, predicate: places among the annotations of its image, crowds left out, and in
`rel_categories`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from speaq.data import DataError
from speaq.data.coco.form import Document, Id, Named, Relationship, parse_document
from speaq.data.formats.reading import SPLITS, Entry, Read, Split, joined, parse

BACKGROUND = "__background__"
Triplets = dict[str, list[tuple[int, int, int]]]


class _Relations(Entry):
    rel_categories: list[str]
    train: Triplets | None = None
    val: Triplets | None = None
    test: Triplets | None = None


def read(folder: Path, relations: Path | None) -> Read:
    """Reads a folder with `rel.json` and any of `train.json`, `val.json`, `test.json`. Raises DataError."""
    source = relations or folder / "rel.json"
    files: dict[Split | None, Path] = {split: path for split in SPLITS if (path := folder / f"{split}.json").is_file()}
    if not files or not source.is_file():
        missing = "train.json, val.json or test.json" if not files else source.name
        raise DataError(f"{folder}: is a folder with {missing}, which --from reltr reads; there is none")
    triplets = parse(source, TypeAdapter(_Relations))
    _check_counting(source, triplets)
    predicates = [
        Named(id=place, name=name) for place, name in enumerate(triplets.rel_categories) if name != BACKGROUND
    ]
    documents = {
        split: _with_relations(parse_document(path), getattr(triplets, str(split)) or {}, predicates)
        for split, path in files.items()
    }
    return Read(joined(documents, files), relations=source.name)


def _check_counting(source: Path, triplets: _Relations) -> None:
    """Raises DataError where relations count from 1 in names without a background: each would have the next name."""
    names = triplets.rel_categories
    used = {predicate for part in (triplets.train, triplets.val, triplets.test) for _, _, predicate in _all(part)}
    if BACKGROUND not in names and len(names) in used and min(used) > 0:
        value = f"1 to {max(used)} are used, the first name is {names[0] if names else 'missing'!r}"
        raise DataError(f"{source}: rel_categories · begin with {BACKGROUND!r} where relations count from 1 · {value}")


def _all(part: Triplets | None) -> Iterator[tuple[int, int, int]]:
    return (triplet for some in (part or {}).values() for triplet in some)


def _with_relations(document: Document, triplets: Triplets, predicates: list[Named]) -> Document:
    """Places become ids; a place that no annotation has becomes the id of none."""
    places: dict[Id, list[Id]] = defaultdict(list)
    for entry in document.annotations:
        if not entry.iscrowd:
            places[str(entry.image_id)].append(entry.id)

    def id_of(image: str, place: int) -> Id:
        return places[image][place] if 0 <= place < len(places[image]) else f"{image}, place {place}"

    relationships = [
        Relationship(
            image_id=image, subject_id=id_of(image, subject), object_id=id_of(image, other), predicate_id=predicate
        )
        for image, some in triplets.items()
        for subject, other, predicate in some
    ]
    return document.model_copy(update={"relationships": relationships, "predicates": predicates})
