"""A document without what the user does not want: images without a photo, and rare classes and predicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from speaq.data.coco.form import Document, Id, Relationship
from speaq.data.coco.photos import find_photos
from speaq.data.coco.scenes import Findings, Reading
from speaq.data.tables import tidy


def narrowed(document: Document, folder: Path, reading: Reading, found: Findings) -> Document:
    """The document as `reading` wants it; what is left out is counted in `found.lines`, for nobody has to judge it."""
    if reading.skip_missing:
        document = _with_photos(document, folder, reading, found)
    if reading.classes is not None:
        document = _commonest_classes(document, reading.classes, found)
    if reading.predicates is not None:
        document = _commonest_predicates(document, reading.predicates, found)
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


def _commonest_classes(document: Document, most: int, found: Findings) -> Document:
    """Boxes of other classes go, and relations to them."""
    kept = _commonest(Counter(entry.category_id for entry in document.annotations), most)
    categories = [entry for entry in document.categories if entry.id in kept]
    known = {entry.id for entry in document.categories}
    gone = {entry.id for entry in document.annotations if entry.category_id in known - kept}
    relationships = _without(document.relationships or (), gone)
    lost = len(document.relationships or ()) - len(relationships)
    if gone or len(categories) < len(known):
        found.lines.append(
            f"left out: all but the {len(categories)} commonest of {len(known)} classes: {len(gone)} boxes, {lost} "
            "relations"
        )
    return document.model_copy(
        update={
            "categories": categories,
            "annotations": [entry for entry in document.annotations if entry.id not in gone],
            "relationships": relationships,
        }
    )


def _commonest_predicates(document: Document, most: int, found: Findings) -> Document:
    """Relations with other predicates go."""
    given = {entry.name: entry.id for entry in document.predicates or ()}

    def key_of(entry: Relationship) -> Id | None:
        if entry.predicate is None:
            return entry.predicate_id
        return given.get(entry.predicate) if given else tidy(entry.predicate)

    keys = [key_of(entry) for entry in document.relationships or ()]
    counts = Counter(key for key in keys if key is not None)
    kept = _commonest(counts, most)
    relationships = [
        entry
        for entry, key in zip(document.relationships or (), keys, strict=True)
        if key is None or key in kept or (given and key not in given.values())
    ]
    predicates = None if document.predicates is None else [entry for entry in document.predicates if entry.id in kept]
    lost = len(keys) - len(relationships)
    if lost:
        found.lines.append(
            f"left out: all but the {len(kept)} commonest of {len(given) or len(counts)} predicates: {lost} relations"
        )
    return document.model_copy(update={"relationships": relationships, "predicates": predicates})


def _commonest(counts: Mapping[Id, int], most: int) -> set[Id]:
    """The `most` keys of the highest counts; of equal ones, the first by name."""
    return set(sorted(counts, key=lambda key: (-counts[key], str(key)))[:most])
