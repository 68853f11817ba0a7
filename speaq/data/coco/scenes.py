"""A COCO document → scenes by position instead of id; what cannot be used is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq.data.box_forms import Fit, Form, likely_form
from speaq.data.coco.form import Document, Id, Image, Named, Relationship
from speaq.data.coco.photos import Progress, find_photos, read_sizes
from speaq.data.files import Problem, Problems
from speaq.data.tables import describe_doubles, double_key, doubles, names_a_file, tidy

BBOX = "annotations.bbox"


@dataclass(frozen=True)
class Reading:
    """How the document is read, where it leaves a choice."""

    form: Form | None = None  # of the boxes; None: COCO's, unless it looks like another
    clip: bool = False  # boxes that reach far outside their photo are cut at its edge; those beside it are left out
    merge_names: bool = False  # names that differ by case, spaces, underscores or hyphens alone are one
    by_name: bool = False  # see `find_photos`
    anywhere: bool = False


class LeftOut:
    """What a data set goes without, by kind: how many, and the first of them."""

    def __init__(self) -> None:
        self.first: dict[str, Problem] = {}
        self.count: Counter[str] = Counter()

    def add(self, kind: str, problem: Problem) -> None:
        """Counts one more of a kind."""
        self.first.setdefault(kind, problem)
        self.count[kind] += 1

    def lines(self) -> list[str]:
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


@dataclass
class Notes:
    """What is said about a document that is converted."""

    left_out: LeftOut = field(default_factory=LeftOut)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FileNames:
    """For messages."""

    annotations: str
    relations: str


def resolve(
    document: Document, files: FileNames, folder: Path, reading: Reading, problems: Problems, progress: Progress
) -> tuple[Scenes, Notes] | None:
    """The scenes and what is said about them; None, with the reasons in `problems`, where ids do not fit together."""
    file, notes = files.annotations, Notes()
    images = _rows(file, "images.id", [str(entry.id) for entry in document.images], problems)
    _rows(file, "annotations.id", [entry.id for entry in document.annotations], problems)
    classes = _classes(document, file, reading, problems, notes)
    predicates = Predicates.of(document, files.relations, reading, problems, notes)
    for row, entry in enumerate(document.images):
        if not names_a_file(str(entry.id)):
            problems.append(Problem(file, row, "images.id", "can name a file", repr(entry.id)[:80]))
    if problems:
        return None
    look = {"by_name": reading.by_name, "anywhere": reading.anywhere}
    photos = find_photos(document.images, file, folder, problems, **look)
    sizes_hw = read_sizes(document.images, file, photos, problems, progress)
    kept = _Boxes(document, file, images, classes.by_id, sizes_hw, problems)
    corners = kept.in_photos(reading, problems, notes)
    if problems:
        return None
    boxes, where = kept.by_image()
    relations = _relations(document, files.relations, where, kept, predicates, problems, left_out=notes.left_out)
    scenes = Scenes(
        images=document.images,
        sizes_hw=[size_hw for size_hw in sizes_hw if size_hw is not None],
        photos=[photo for photo in photos if photo is not None],
        boxes=boxes,
        corners_xyxy=corners,
        labels=np.array(kept.labels, dtype=np.int64),
        relations=relations,
        classes=classes.names,
        predicates=predicates.names,
    )
    return scenes, notes


def _rows(file: str, field: str, ids: Sequence[Id], problems: Problems) -> dict[Id, int]:
    rows: dict[Id, int] = {}
    for row, name in enumerate(ids):
        first = rows.setdefault(name, row)
        if first != row:
            problems.append(Problem(file, row, field, f"is unique (row {first} has it too)", repr(name)[:80]))
    return rows


@dataclass(frozen=True)
class _Table:
    """Names in the order of their indices, and the index of each id."""

    names: list[str]
    by_id: Mapping[Id, int]
    merge: bool
    by_key: dict[str, int] = field(default_factory=dict)

    def index_of(self, name: str) -> int | None:
        return self.by_key.get(_key(name, self.merge))


def _key(name: str, merge: bool) -> str:
    """Names with the same key are one."""
    return double_key(name) if merge else tidy(name)


def _table(entries: Sequence[Named], file: str, field: str, merge: bool, problems: Problems) -> _Table:
    """Entries that `merge` makes one, or that white space alone tells apart, get one index."""
    by_id = _rows(file, f"{field}.id", [entry.id for entry in entries], problems)
    _rows(file, f"{field}.name", [entry.name for entry in entries], problems)
    table = _Table([], {}, merge)
    index: dict[Id, int] = {}
    for row, entry in enumerate(entries):
        if not tidy(entry.name):
            problems.append(Problem(file, row, f"{field}.name", "has a letter", repr(entry.name)))
        key = _key(entry.name, merge)
        if key not in table.by_key:
            table.by_key[key] = len(table.names)
            table.names.append(tidy(entry.name))
        index[entry.id] = table.by_key[key]
    return _Table(table.names, {name: index[name] for name in by_id}, merge, table.by_key)


def _say_names(what: str, given: Iterable[str], merge: bool, notes: Notes) -> None:
    """Which names were tidied or merged, and which are likely one."""
    given = dict.fromkeys(given)
    if tidied := [name for name in given if name != tidy(name)]:
        more = ", …" if len(tidied) > 3 else ""
        shown = ", ".join(map(repr, tidied[:3])) + more
        notes.lines.append(f"{what}: {len(tidied)} name{'s' * (len(tidied) > 1)} tidied (white space, NFC): {shown}")
    groups = doubles(map(tidy, given))
    if groups and merge:
        notes.lines.append(f"{what}: likely doubles merged: {describe_doubles(groups)}")
    elif groups:
        text = f"{what}: likely doubles stay apart: {describe_doubles(groups)}; --merge-names makes each one"
        notes.lines.append(text)


def _classes(document: Document, file: str, reading: Reading, problems: Problems, notes: Notes) -> _Table:
    table = _table(document.categories, file, "categories", reading.merge_names, problems)
    _say_names("classes", (entry.name for entry in document.categories), reading.merge_names, notes)
    return table


@dataclass(frozen=True)
class Predicates:
    """The predicates of a document, and which of them a relationship names."""

    table: _Table

    @property
    def names(self) -> list[str]:
        """P names, in the order of their indices."""
        return self.table.names

    @classmethod
    def of(cls, document: Document, file: str, reading: Reading, problems: Problems, notes: Notes) -> Predicates:
        """Those of the list; without one those that occur, in alphabetical order, the commonest spelling of each."""
        merge = reading.merge_names
        used = Counter(entry.predicate for entry in document.relationships or () if entry.predicate is not None)
        if document.predicates is not None:
            table = _table(document.predicates, file, "predicates", merge, problems)
            given: list[str] = [entry.name for entry in document.predicates]
        else:
            spelling: dict[str, Counter[str]] = {}
            for name, count in used.items():
                if tidy(name):
                    spelling.setdefault(_key(name, merge), Counter())[tidy(name)] += count
            best = {key: min(names, key=lambda one: (-names[one], one)) for key, names in spelling.items()}
            order = sorted(best, key=lambda key: best[key])
            table = _Table([best[key] for key in order], {}, merge, {key: row for row, key in enumerate(order)})
            given = []
        _say_names("predicates", [*given, *sorted(used, key=tidy)], merge, notes)
        return cls(table)

    def index(self, entry: Relationship) -> int | str | None:
        """0-based index; None where there is no such predicate; or the rule that the relationship breaks."""
        if (entry.predicate is None) == (entry.predicate_id is None):
            return "has one of predicate and predicate_id"
        if entry.predicate is not None:
            return self.table.index_of(entry.predicate)
        assert entry.predicate_id is not None
        return self.table.by_id.get(entry.predicate_id)


class _Boxes:
    """Annotations that can be judged, and then those that are kept."""

    def __init__(
        self,
        document: Document,
        file: str,
        images: Mapping[Id, int],
        classes: Mapping[Id, int],
        sizes_hw: Sequence[tuple[int, int] | None],
        problems: Problems,
    ) -> None:
        self._entries, self._file, self._num_images = document.annotations, file, len(document.images)
        self.left: dict[Id, str] = {}  # id → kind
        self.labels = [classes.get(entry.category_id, -1) for entry in self._entries]
        self._image = [images.get(str(entry.image_id), -1) for entry in self._entries]
        for row, entry in enumerate(self._entries):
            if self._image[row] < 0:
                problems.append(Problem(file, row, "annotations.image_id", "is an image", repr(entry.image_id)[:80]))
            if self.labels[row] < 0:
                value = repr(entry.category_id)[:80]
                problems.append(Problem(file, row, "annotations.category_id", "is a category", value))
        known = [self._size_wh(row, sizes_hw) for row in range(len(self._entries))]
        self._rows = np.array([row for row, size in enumerate(known) if size is not None], dtype=np.int64)
        self._sizes_wh = np.array([size for size in known if size is not None], dtype=np.float64).reshape(-1, 2)

    def _size_wh(self, row: int, sizes_hw: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
        """Of the photo of a box that is to be judged."""
        size_hw = None if self._image[row] < 0 else sizes_hw[self._image[row]]
        if size_hw is None or self._entries[row].iscrowd or self._entries[row].bbox is None:
            return None
        return size_hw[1], size_hw[0]

    def in_photos(self, reading: Reading, problems: Problems, notes: Notes) -> NDArray[np.float64]:
        """[A, 4] corners within the photos; what cannot be kept is noted or, where it has to be decided, a problem."""
        for row, entry in enumerate(self._entries):
            if entry.iscrowd:
                self._leave("crowds", Problem(self._file, row, "annotations.iscrowd", "is 0", "1"), notes)
            elif entry.bbox is None:
                rule = "is given, or a segmentation that a box can be taken from"
                self._leave("annotations without a box", Problem(self._file, row, BBOX, rule, "missing"), notes)
        values = np.array([self._entries[row].bbox for row in self._rows], dtype=np.float64).reshape(-1, 4)
        drawn = np.array([self._entries[row].from_segmentation for row in self._rows], dtype=np.bool_)
        if drawn.any():
            notes.lines.append(f"{int(drawn.sum())} boxes are those around their segmentations")
        given = ~drawn
        problems += self._judge_form(values[given], self._sizes_wh[given], reading)
        form = reading.form or Form()
        corners = Form().corners(values, self._sizes_wh)
        corners[given] = form.corners(values[given], self._sizes_wh[given])
        if not problems:
            self._cut(values, corners, reading, problems, notes)
        result = np.zeros((len(self._entries), 4))
        result[self._rows] = corners
        return result

    def _judge_form(self, values: NDArray[np.float64], sizes_wh: NDArray[np.float64], reading: Reading) -> Problems:
        """Whether the boxes look like another form than COCO's. Nothing where the user says what they are."""
        found = None if reading.form is not None else likely_form(values, sizes_wh, Form())
        if found is None:
            return []
        form, share = found
        fit = Fit.of(Form().corners(values, sizes_wh), sizes_wh)
        wrong = np.flatnonzero(fit.flat | fit.far) if not form.fractions else np.arange(len(values))
        rows = ", ".join(str(row) for row in self._rows[wrong[:3]])
        option = f"--boxes {form.layout}" + (" --fractions" if form.fractions else "")
        value = (
            f"{values[wrong[0]].tolist()}: {len(wrong)} of {len(values)} boxes are none (rows {rows}, …); they look "
            f"like {form}, which {share:.0%} fit: {option} reads them so, --boxes xywh as they are"
        )
        rule = f"is {Form()} in pixels"
        return [Problem(self._file, int(self._rows[wrong[0]]), BBOX, rule, value)]

    def _cut(
        self,
        values: NDArray[np.float64],
        corners: NDArray[np.float64],
        reading: Reading,
        problems: Problems,
        notes: Notes,
    ) -> None:
        """Leaves flat boxes out, cuts at the edge of the photo what reaches outside (far outside: only if wanted)."""
        fit = Fit.of(corners, self._sizes_wh)
        for which in np.flatnonzero(fit.flat):
            row, rule = int(self._rows[which]), "width and height are above 0"
            problem = Problem(self._file, row, BBOX, rule, str(values[which].tolist()))
            self._leave("boxes without width or height", problem, notes)
        far = np.flatnonzero(fit.far)
        if len(far) and not reading.clip:
            problems.append(self._far(values, far))
        for which in np.flatnonzero(fit.absent) if reading.clip else ():
            self._leave("boxes beside their photo", self._far(values, np.array([which])), notes)
        cut = fit.outside & ~fit.absent
        np.clip(corners, 0, np.tile(self._sizes_wh, 2), out=corners)
        if cut.any():
            much = int((fit.far & cut).sum())
            notes.lines.append(f"{int(cut.sum())} boxes cut at the edge of their photo ({much} reached far outside)")

    def _far(self, values: NDArray[np.float64], which: NDArray[np.int64]) -> Problem:
        row, (width, height) = int(self._rows[which[0]]), self._sizes_wh[which[0]].astype(int).tolist()
        text = str(values[which[0]].tolist())
        if len(which) > 1:
            others = ", ".join(str(row) for row in self._rows[which[1:4]])
            text += f"; {len(which)} of {len(values)} boxes reach far outside (rows {others}, … too)"
        rule = f"lies in the photo ({width} x {height})"
        return Problem(self._file, row, BBOX, rule, f"{text}; --clip cuts such boxes, --boxes says what they are")

    def _leave(self, kind: str, problem: Problem, notes: Notes) -> None:
        assert problem.row is not None
        self.left[self._entries[problem.row].id] = kind
        notes.left_out.add(kind, problem)

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
    document: Document,
    file: str,
    where: Mapping[Id, tuple[int, int]],
    boxes: _Boxes,
    predicates: Predicates,
    problems: Problems,
    left_out: LeftOut,
) -> list[list[tuple[int, int, int]]]:
    """(subject, object, predicate) of every image."""
    relations: list[list[tuple[int, int, int]]] = [[] for _ in document.images]
    for row, entry in enumerate(document.relationships or ()):
        index = predicates.index(entry)
        if isinstance(index, str):
            value = f"{entry.predicate!r}, {entry.predicate_id!r}"[:80]
            problems.append(Problem(file, row, "relationships", index, value))
            continue
        if (reason := _unusable(entry, file, row, index, where, boxes)) is not None:
            left_out.add(*reason)
            continue
        assert index is not None
        (image, subject), (other_image, other) = where[entry.subject_id], where[entry.object_id]
        named = str(document.images[image].id) if entry.image_id is None else str(entry.image_id)
        if image != other_image or named != str(document.images[image].id):
            value = f"image {named}: {entry.subject_id!r}, {entry.object_id!r}"
            problems.append(Problem(file, row, "relationships", "joins two annotations of its image", value[:80]))
            continue
        relations[image].append((subject, other, index))
    if not any(relations) and not problems:
        value = "none" if not document.relationships else f"all {len(document.relationships)} are left out"
        lines = "; ".join(left_out.lines())
        problems.append(Problem(file, None, "relationships", "hold at least one entry", f"{value} {lines}"))
    return relations


def _unusable(
    entry: Relationship,
    file: str,
    row: int,
    index: int | None,
    where: Mapping[Id, tuple[int, int]],
    boxes: _Boxes,
) -> tuple[str, Problem] | None:
    """The kind of relation that is left out, and what is wrong with it; None for one that is kept."""
    for field_name, name in (("subject_id", entry.subject_id), ("object_id", entry.object_id)):
        if name not in where:
            kind = f"relations to {boxes.left.get(name, 'unknown annotations')}"
            rule = "is an annotation, and no crowd" if boxes.left.get(name, "crowds") == "crowds" else "has a box"
            return kind, Problem(file, row, f"relationships.{field_name}", rule, repr(name)[:80])
    if index is not None:
        return None
    field_name = "predicate_id" if entry.predicate is None else "predicate"
    value = repr(entry.predicate_id if entry.predicate is None else entry.predicate)[:80]
    return "relations of unknown predicates", Problem(
        file, row, "relationships", f"{field_name} is one of predicates", value
    )
