"""A COCO document → scenes by position instead of id; what cannot be used is left out and counted."""

from __future__ import annotations

import functools
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq.data.box_forms import Fit, Form, likely_form
from speaq.data.coco.form import Annotation, Document, Id, Image, Named, Relationship
from speaq.data.coco.photos import Progress, find_photos, read_sizes
from speaq.data.files import Problem, Problems
from speaq.data.tables import NAMES, describe_doubles, double_key, doubles, is_name, names_a_file, tidy

BBOX = "annotations.bbox"


@dataclass(frozen=True)
class Reading:
    """How the document is read, where it leaves a choice."""

    form: Form | None = None  # of the boxes; None: COCO's, unless it looks like another
    clip: bool = False  # boxes that reach far outside their photo are cut at its edge; those beside it are left out
    merge_names: bool = False  # names that differ by case, spaces, underscores or hyphens alone are one
    by_name: bool = False  # see `find_photos`
    anywhere: bool = False
    skip_missing: bool = False  # images whose photo is not there are left out
    classes: int | None = None  # how many of the commonest are kept; None: all
    predicates: int | None = None


class Findings:
    """What is wrong with a document, what is changed in it, and what a data set goes without: by kind, the first."""

    def __init__(self, annotations: str, relations: str, *, ids: bool = False) -> None:
        """Takes the names of the two files, for messages; `ids`: rows are ours, and boxes are named by their ids."""
        self.file, self.relations_file, self.ids = annotations, relations, ids
        self.problems: Problems = []
        self.lines: list[str] = []  # what was changed, to be shown
        self.first: dict[str, Problem] = {}  # left out, by kind
        self.count: Counter[str] = Counter()

    def wrong(self, row: int, field: str, rule: str, value: str) -> None:
        """Notes a problem of the annotations, with at most 80 characters of the value."""
        self.problems.append(Problem(self.file, row, field, rule, value[:80]))

    def named(self, entry: Annotation) -> str:
        """Words on which box it is, where its row says nothing to whoever has the file."""
        return f" (box {entry.id} of image {entry.image_id})" if self.ids else ""

    def leave(self, kind: str, problem: Problem) -> None:
        """Counts one more of a kind that is left out."""
        self.first.setdefault(kind, problem)
        self.count[kind] += 1

    def left_out(self) -> list[str]:
        """One line for each kind, to be shown."""
        return [f"left out: {kind}: {self.count[kind]} (first: {problem})" for kind, problem in self.first.items()]


@dataclass(frozen=True)
class Scenes:
    """A document that is sound. Letters: A annotations, kept or not."""

    images: Sequence[Image]
    sizes_hw: Sequence[tuple[int, int]]
    photos: Sequence[Path]
    boxes: Sequence[Sequence[int]]  # of every image: which annotations it keeps
    corners_xyxy: NDArray[np.float64]  # [A, 4] pixels
    labels: NDArray[np.int64]  # [A] 0-based
    relations: Sequence[Sequence[tuple[int, int, int]]]  # of every image: rows of its boxes, 0-based predicate
    classes: Sequence[str]
    predicates: Sequence[str]


def resolve(document: Document, folder: Path, reading: Reading, found: Findings, progress: Progress) -> Scenes | None:
    """The scenes; None, with the reasons in `found.problems`, where ids do not fit together."""
    merge, file = reading.merge_names, found.file
    images = _rows(file, "images.id", [str(entry.id) for entry in document.images], found)
    _rows(file, "annotations.id", [entry.id for entry in document.annotations], found)
    classes = _table(document.categories, file, "categories", merge, found)
    _say_names("classes", (entry.name for entry in document.categories), merge, found)
    predicates = _predicates(document, merge, found)
    for row, entry in enumerate(document.images):
        if not names_a_file(str(entry.id)):
            found.wrong(row, "images.id", "can name a file", repr(entry.id))
    if found.problems:
        return None
    look = {"by_name": reading.by_name, "anywhere": reading.anywhere}
    photos = find_photos(document.images, file, folder, found.problems, **look)
    sizes_hw = read_sizes(document.images, file, photos, found.problems, progress)
    kept = _Boxes(document, images, classes.by_id, sizes_hw, found)
    corners = kept.in_photos(reading)
    if found.problems:
        return None
    boxes, where = kept.by_image()
    return Scenes(
        images=document.images,
        sizes_hw=[size_hw for size_hw in sizes_hw if size_hw is not None],
        photos=[photo for photo in photos if photo is not None],
        boxes=boxes,
        corners_xyxy=corners,
        labels=np.array(kept.labels, dtype=np.int64),
        relations=_relations(document, where, kept.left, predicates, found),
        classes=classes.names,
        predicates=predicates.names,
    )


def _rows(file: str, field: str, ids: Sequence[Id], found: Findings) -> dict[Id, int]:
    rows: dict[Id, int] = {}
    for row, name in enumerate(ids):
        first = rows.setdefault(name, row)
        if first != row:
            rule = f"is unique (row {first} has it too)"
            found.problems.append(Problem(file, row, field, rule, repr(name)[:80]))
    return rows


@dataclass(frozen=True)
class _Table:
    """Names in the order of their indices, and the index of each id."""

    names: list[str]
    by_id: Mapping[Id, int]
    merge: bool
    by_key: dict[str, int] = field(default_factory=dict)

    def index_of(self, entry: Relationship) -> int | None:
        """Of the predicate that a relationship names, by name or by id; None where there is no such one."""
        if entry.predicate is not None:
            return self.by_key.get(name_key(entry.predicate, self.merge))
        return None if entry.predicate_id is None else self.by_id.get(entry.predicate_id)


def name_key(name: str, merge: bool) -> str:
    """Names with the same key are one."""
    return double_key(name) if merge else tidy(name)


def _table(entries: Sequence[Named], file: str, field: str, merge: bool, found: Findings) -> _Table:
    """Entries that `merge` makes one, or that white space alone tells apart, get one index."""
    by_id = _rows(file, f"{field}.id", [entry.id for entry in entries], found)
    _rows(file, f"{field}.name", [entry.name for entry in entries], found)
    table = _Table([], {}, merge)
    index: dict[Id, int] = {}
    for row, entry in enumerate(entries):
        if not tidy(entry.name):
            found.problems.append(Problem(file, row, f"{field}.name", "has a letter", repr(entry.name)))
        elif not is_name(tidy(entry.name)):
            found.problems.append(Problem(file, row, f"{field}.name", NAMES, reprlib.repr(entry.name)))
        key = name_key(entry.name, merge)
        if key not in table.by_key:
            table.by_key[key] = len(table.names)
            table.names.append(tidy(entry.name))
        index[entry.id] = table.by_key[key]
    return _Table(table.names, {name: index[name] for name in by_id}, merge, table.by_key)


def _say_names(what: str, given: Iterable[str], merge: bool, found: Findings) -> None:
    """Which names were tidied or merged, and which are likely one."""
    given = dict.fromkeys(given)
    if tidied := [name for name in given if name != tidy(name)]:
        shown = ", ".join(map(repr, tidied[:3])) + (", …" if len(tidied) > 3 else "")
        found.lines.append(f"{what}: {len(tidied)} name{'s' * (len(tidied) > 1)} tidied (white space, NFC): {shown}")
    if groups := doubles(map(tidy, given)):
        text = "merged: {}" if merge else "stay apart: {}; --merge-names makes each one"
        found.lines.append(f"{what}: likely doubles {text.format(describe_doubles(groups))}")


def _predicates(document: Document, merge: bool, found: Findings) -> _Table:
    """Those of the list; without one those that occur, in alphabetical order, the commonest spelling of each."""
    used = Counter(entry.predicate for entry in document.relationships or () if entry.predicate is not None)
    given: list[str] = [entry.name for entry in document.predicates or ()]
    if document.predicates is not None:
        table = _table(document.predicates, found.relations_file, "predicates", merge, found)
    else:
        spelling: dict[str, Counter[str]] = {}
        for name, count in used.items():
            if tidy(name):
                spelling.setdefault(name_key(name, merge), Counter())[tidy(name)] += count
        if odd := [name for name in used if tidy(name) and not is_name(tidy(name))]:
            problem = Problem(found.relations_file, None, "relationships.predicate", NAMES, reprlib.repr(odd[0]))
            found.problems.append(problem)
        best = {key: min(names, key=lambda one: (-names[one], one)) for key, names in spelling.items()}
        order = sorted(best, key=lambda key: best[key])
        table = _Table([best[key] for key in order], {}, merge, {key: row for row, key in enumerate(order)})
    _say_names("predicates", [*given, *sorted(used, key=tidy)], merge, found)
    return table


class _Boxes:
    """Annotations that can be judged, and then those that are kept."""

    def __init__(
        self,
        document: Document,
        images: Mapping[Id, int],
        classes: Mapping[Id, int],
        sizes_hw: Sequence[tuple[int, int] | None],
        found: Findings,
    ) -> None:
        self._entries, self._num_images, self._found = document.annotations, len(document.images), found
        self.left: dict[Id, str] = {}  # id → kind
        self.labels = [classes.get(entry.category_id, -1) for entry in self._entries]
        self._image = [images.get(str(entry.image_id), -1) for entry in self._entries]
        for row, entry in enumerate(self._entries):
            if self._image[row] < 0:
                found.wrong(row, "annotations.image_id", "is an image", repr(entry.image_id))
            if self.labels[row] < 0:
                found.wrong(row, "annotations.category_id", "is a category", repr(entry.category_id))
        known = [self._size_wh(row, sizes_hw) for row in range(len(self._entries))]
        self._rows = np.array([row for row, size in enumerate(known) if size is not None], dtype=np.int64)
        self._sizes_wh = np.array([size for size in known if size is not None], dtype=np.float64).reshape(-1, 2)

    def _size_wh(self, row: int, sizes_hw: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
        """Of the photo of a box that is to be judged."""
        size_hw = None if self._image[row] < 0 else sizes_hw[self._image[row]]
        if size_hw is None or self._entries[row].iscrowd or self._entries[row].bbox is None:
            return None
        return size_hw[1], size_hw[0]

    def in_photos(self, reading: Reading) -> NDArray[np.float64]:
        """[A, 4] corners within the photos; what cannot be kept is noted or, where it has to be decided, a problem."""
        for row, entry in enumerate(self._entries):
            if entry.iscrowd:
                self._leave("crowds", row, "annotations.iscrowd", "is 0", "1")
            elif entry.bbox is None:
                rule = "is given, or a segmentation that a box can be taken from"
                self._leave("annotations without a box", row, BBOX, rule, "missing")
        values = np.array([self._entries[row].bbox for row in self._rows], dtype=np.float64).reshape(-1, 4)
        drawn = np.array([self._entries[row].from_segmentation for row in self._rows], dtype=np.bool_)
        if drawn.any():
            self._found.lines.append(f"{int(drawn.sum())} boxes are those around their segmentations")
        given = ~drawn
        self._judge_form(values[given], self._sizes_wh[given], reading)
        form = reading.form or Form()
        corners = Form().corners(values, self._sizes_wh)
        corners[given] = form.corners(values[given], self._sizes_wh[given])
        if not self._found.problems:
            self._cut(values, corners, reading)
        result = np.zeros((len(self._entries), 4))
        result[self._rows] = corners
        return result

    def _judge_form(self, values: NDArray[np.float64], sizes_wh: NDArray[np.float64], reading: Reading) -> None:
        """Whether the boxes look like another form than COCO's. Nothing where the user says what they are."""
        likely = None if reading.form is not None else likely_form(values, sizes_wh, Form())
        if likely is None:
            return
        form, share = likely
        fit = Fit.of(Form().corners(values, sizes_wh), sizes_wh)
        wrong = np.flatnonzero(fit.flat | fit.far) if not form.fractions else np.arange(len(values))
        rows = ", ".join(str(row) for row in self._rows[wrong[:3]])
        option = f"--boxes {form.layout}" + (" --fractions" if form.fractions else "")
        value = (
            f"{values[wrong[0]].tolist()}{self._named(int(wrong[0]))}: {len(wrong)} of {len(values)} boxes are none "
            f"(rows {rows}, …); they look like {form}, which {share:.0%} fit: {option} reads them so, --boxes xywh as "
            "they are"
        )
        row, rule = int(self._rows[wrong[0]]), f"is {Form()} in pixels"
        self._found.problems.append(Problem(self._found.file, row, BBOX, rule, value))

    def _cut(self, values: NDArray[np.float64], corners: NDArray[np.float64], reading: Reading) -> None:
        """Leaves flat boxes out, cuts at the edge of the photo what reaches outside (far outside: only if wanted)."""
        fit = Fit.of(corners, self._sizes_wh)
        for which in np.flatnonzero(fit.flat):
            row, value = int(self._rows[which]), f"{values[which].tolist()}{self._named(int(which))}"
            self._leave("boxes without width or height", row, BBOX, "width and height are above 0", value)
        far = np.flatnonzero(fit.far)
        if len(far) and not reading.clip:
            self._found.problems.append(Problem(self._found.file, *self._far(values, far)))
        for which in np.flatnonzero(fit.absent) if reading.clip else ():
            self._leave("boxes beside their photo", *self._far(values, np.array([which])))
        cut = fit.outside & ~fit.absent
        np.clip(corners, 0, np.tile(self._sizes_wh, 2), out=corners)
        if cut.any():
            much = int((fit.far & cut).sum())
            self._found.lines.append(
                f"{int(cut.sum())} boxes cut at the edge of their photo ({much} reached far outside)"
            )

    def _far(self, values: NDArray[np.float64], which: NDArray[np.int64]) -> tuple[int, str, str, str]:
        """Row, field, rule and value of the first of such boxes."""
        row, (width, height) = int(self._rows[which[0]]), self._sizes_wh[which[0]].astype(int).tolist()
        text = f"{values[which[0]].tolist()}{self._named(which[0])}"
        if len(which) > 1:
            others = ", ".join(str(row) for row in self._rows[which[1:4]])
            text += f"; {len(which)} of {len(values)} boxes reach far outside (rows {others}, … too)"
        rule = f"lies in the photo ({width} x {height})"
        remedy = "--clip cuts such boxes" + ("" if self._found.ids else ", --boxes says what they are")
        return row, BBOX, rule, f"{text}; {remedy}"

    def _named(self, which: int) -> str:
        return self._found.named(self._entries[int(self._rows[which])])

    def _leave(self, kind: str, row: int, field: str, rule: str, value: str) -> None:
        self.left[self._entries[row].id] = kind
        self._found.leave(kind, Problem(self._found.file, row, field, rule, value))

    def by_image(self) -> tuple[list[list[int]], dict[Id, tuple[int, int]]]:
        """Annotations that every image keeps, and (image, place among its annotations) of each, by id."""
        boxes: list[list[int]] = [[] for _ in range(self._num_images)]
        where: dict[Id, tuple[int, int]] = {}
        for row, entry in enumerate(self._entries):
            if entry.id not in self.left:
                where[entry.id] = self._image[row], len(boxes[self._image[row]])
                boxes[self._image[row]].append(row)
        return boxes, where


def _relations(
    document: Document, where: Mapping[Id, tuple[int, int]], left: Mapping[Id, str], predicates: _Table, found: Findings
) -> list[list[tuple[int, int, int]]]:
    """(subject, object, predicate) of every image; `left`: kinds of the annotations that are left out."""
    relations: list[list[tuple[int, int, int]]] = [[] for _ in document.images]
    for row, entry in enumerate(document.relationships or ()):
        problem = functools.partial(Problem, found.relations_file, row)
        if (entry.predicate is None) == (entry.predicate_id is None):
            value = f"{entry.predicate!r}, {entry.predicate_id!r}"[:80]
            found.problems.append(problem("relationships", "has one of predicate and predicate_id", value))
            continue
        index = predicates.index_of(entry)
        if (reason := _unusable(entry, index, where, left)) is not None:
            kind, field_name, rule, value = reason
            found.leave(kind, problem(field_name, rule, value))
            continue
        assert index is not None
        (image, subject), (other_image, other) = where[entry.subject_id], where[entry.object_id]
        named = str(document.images[image].id) if entry.image_id is None else str(entry.image_id)
        if image != other_image or named != str(document.images[image].id):
            value = f"image {named}: {entry.subject_id!r}, {entry.object_id!r}"[:80]
            found.problems.append(problem("relationships", "joins two annotations of its image", value))
            continue
        relations[image].append((subject, other, index))
    if not any(relations) and not found.problems:
        value = "none" if not document.relationships else f"all {len(document.relationships)} are left out"
        value += f" {'; '.join(found.left_out())}"
        found.problems.append(Problem(found.relations_file, None, "relationships", "hold at least one entry", value))
    return relations


def _unusable(
    entry: Relationship, index: int | None, where: Mapping[Id, tuple[int, int]], left: Mapping[Id, str]
) -> tuple[str, str, str, str] | None:
    """The kind of relation that is left out, with field, rule and value of what is wrong; None for one that is kept."""
    for field_name, name in (("subject_id", entry.subject_id), ("object_id", entry.object_id)):
        if name not in where:
            kind = left.get(name, "unknown annotations")
            rule = "is an annotation, and no crowd" if left.get(name, "crowds") == "crowds" else "has a box"
            return f"relations to {kind}", f"relationships.{field_name}", rule, repr(name)[:80]
    if index is not None:
        return None
    field_name = "predicate_id" if entry.predicate is None else "predicate"
    value = repr(getattr(entry, field_name))[:80]
    return "relations of unknown predicates", "relationships", f"{field_name} is one of predicates", value
