"""A document without what the user does not want: images without a photo, and rare classes and predicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from speaq.data.coco.form import Document, Id, Relationship
from speaq.data.coco.photos import find_photos
from speaq.data.coco.scenes import Findings, Reading, name_key


def narrowed(document: Document, folder: Path, reading: Reading, found: Findings) -> Document:
    """The document as `reading` wants it; what is left out is counted in `found.lines`, for nobody has to judge it."""
    if reading.skip_missing:
        document = _with_photos(document, folder, reading, found)
    if reading.classes is not None:
        document = _commonest_classes(document, reading, reading.classes, found)
    if reading.predicates is not None:
        document = _commonest_predicates(document, reading, reading.predicates, found)
    return document


def _with_photos(document: Document, folder: Path, reading: Reading, found: Findings) -> Document:
    look = {"by_name": reading.by_name, "anywhere": True}  # what lies outside is refused later, by name
    photos = find_photos(document.images, found.file, folder, [], **look)
    absent = {str(image.id) for image, photo in zip(document.images, photos, strict=True) if photo is None}
    if not absent or len(absent) == len(document.images):  # none at all is no matter of single photos
        return document
    found.lines.append(f"left out: images without a photo: {len(absent)} of {len(document.images)}")
    gone = {entry.id for entry in document.annotations if str(entry.image_id) in absent}
    return document.model_copy(
        update={
            "images": [image for image in document.images if str(image.id) not in absent],
            "annotations": [entry for entry in document.annotations if entry.id not in gone],
            "relationships": _without(document.relationships or (), gone),
        }
    )


def _without(relationships: Iterable[Relationship], gone: set[Id]) -> list[Relationship]:
    return [entry for entry in relationships if entry.subject_id not in gone and entry.object_id not in gone]


def _commonest_classes(document: Document, reading: Reading, most: int, found: Findings) -> Document:
    """Boxes of other classes go, and relations to them."""
    key_of = {entry.id: name_key(entry.name, reading.merge_names) for entry in document.categories}
    keys = [key_of.get(entry.category_id) for entry in document.annotations]
    kept = _commonest(keys, most)
    gone = {
        entry.id for entry, key in zip(document.annotations, keys, strict=True) if key is not None and key not in kept
    }
    relationships = _without(document.relationships or (), gone)
    lost = len(document.relationships or ()) - len(relationships)
    all_classes = len(set(key_of.values()))
    if gone or len(kept) < all_classes:
        found.lines.append(
            f"left out: all but the {len(kept)} commonest of {all_classes} classes: {len(gone)} boxes, {lost} relations"
        )
    return document.model_copy(
        update={
            "categories": [entry for entry in document.categories if key_of[entry.id] in kept],
            "annotations": [entry for entry in document.annotations if entry.id not in gone],
            "relationships": relationships,
        }
    )


def _commonest_predicates(document: Document, reading: Reading, most: int, found: Findings) -> Document:
    """Relations with other predicates go; those of unknown ones stay, to be named later."""
    listed = {entry.id: name_key(entry.name, reading.merge_names) for entry in document.predicates or ()}
    names = set(listed.values())

    def key_of(entry: Relationship) -> str | None:
        if entry.predicate is None:
            return None if entry.predicate_id is None else listed.get(entry.predicate_id)
        key = name_key(entry.predicate, reading.merge_names)
        return key if document.predicates is None or key in names else None

    keys = [key_of(entry) or None for entry in document.relationships or ()]
    kept = _commonest(keys, most)
    relationships = [
        entry for entry, key in zip(document.relationships or (), keys, strict=True) if key is None or key in kept
    ]
    if lost := len(keys) - len(relationships):
        total = len({*names, *(key for key in keys if key is not None)})
        found.lines.append(f"left out: all but the {len(kept)} commonest of {total} predicates: {lost} relations")
    predicates = [entry for entry in document.predicates or () if listed[entry.id] in kept]
    return document.model_copy(
        update={"relationships": relationships, "predicates": predicates if document.predicates is not None else None}
    )


def _commonest(keys: Iterable[str | None], most: int) -> set[str]:
    """The `most` keys that occur most often; of equal ones, the first by name."""
    counts = Counter(key for key in keys if key is not None)
    return set(sorted(counts, key=lambda key: (-counts[key], key))[:most])
