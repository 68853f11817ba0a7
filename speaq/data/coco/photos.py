"""Finds the photos that foreign annotations name, below one folder and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speaq.data import DataError
from speaq.data.coco.form import Image
from speaq.data.files import IMAGE_FOLDERS, Problem, Problems
from speaq.data.images import read_size

FIELD = "images.file_name"
MOST_LOOKED_AT = 1_000_000  # files below a folder, where photos are looked for by name
Progress = Callable[[int, int, str], None]


def find_photos(
    images: Sequence[Image], file: str, folder: Path, problems: Problems, *, by_name: bool, anywhere: bool
) -> list[Path | None]:
    """Where the photo of every image lies; None, with one line for all of a kind in `problems`, where it is not taken.

    Args:
        file: name of the annotations, for messages.
        by_name: photos are looked for by their file name alone, in every folder below `folder`.
        anywhere: names and links may lead out of `folder`.
    """
    if not folder.is_dir():
        problems.append(Problem(file, None, FIELD, "--images is a folder", str(folder)))
        return [None] * len(images)
    named = _below(folder, images) if by_name else None
    found = [_find(image.file_name, folder, named) for image in images]
    absent = [row for row, path in enumerate(found) if path is None]
    if absent:
        problems.append(_missing(images, file, folder, absent, by_name))
    if not anywhere:
        root = folder.resolve()
        outside = [row for row, path in enumerate(found) if path and not path.resolve().is_relative_to(root)]
        if outside:
            rule = "lies below --images, itself and not by a link (--outside-images takes others too)"
            value = _first([images[row].file_name for row in outside])
            problems.append(Problem(file, outside[0], FIELD, rule, f"{value}: {_of(outside, images)} lead out of it"))
    return found


def _find(name: str, folder: Path, named: dict[str, Path] | None) -> Path | None:
    if named is not None:
        return named.get(_last(name))
    names = [name] if "\\" not in name else [name, name.replace("\\", "/")]
    for path in (folder / part / one for one in names for part in ("", *IMAGE_FOLDERS)):
        if _is_there(path):
            return path
    return None


def _is_there(path: Path) -> bool:
    """Whether something lies there: also what is no photo, which is said when it is read."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        return False


def _missing(images: Sequence[Image], file: str, folder: Path, rows: Sequence[int], by_name: bool) -> Problem:
    """One line for all photos that are not there, with where they are likely to be."""
    value = f"{_first([images[row].file_name for row in rows])}: {_of(rows, images)} missing"
    if not by_name:
        wanted = [images[row] for row in rows]
        value += _elsewhere(folder, wanted) or _elsewhere(folder.parent, wanted, IMAGE_FOLDERS)
    return Problem(file, rows[0], FIELD, "is a photo in --images", value)


def _elsewhere(folder: Path, images: Sequence[Image], below: Sequence[str] = ("",)) -> str:
    """Words on photos of the same file names in other folders."""
    places: dict[str, Path] = {}
    for part in below:
        places |= _below(folder / part, images)
    if not places:
        return ""
    name, place = next(iter(places.items()))
    others = (
        f"{len(places)} of these names {'lies' if len(places) == 1 else 'lie'} elsewhere, as {name} in {place.parent}"
    )
    if below == ("",):
        return f"; {others}: --by-name takes them from there"
    return f"; {others}: --images {folder} --by-name takes them from there"


def _below(folder: Path, images: Sequence[Image]) -> dict[str, Path]:
    """Photos below a folder by their file name, of those that are wanted; a name in two folders is nobody's."""
    wanted, found = {_last(image.file_name) for image in images}, dict[str, list[Path]]()
    for path in _walk(folder):
        if path.name in wanted:
            found.setdefault(path.name, []).append(path)
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}


def _walk(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent) / name
        looked_at += len(names)
        if looked_at > MOST_LOOKED_AT:
            return


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _first(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:3]) + (", …" if len(names) > 3 else "")


def _of(rows: Sequence[int], images: Sequence[Image]) -> str:
    return f"{len(rows)} of {len(images)} photos" + (" is" if len(rows) == 1 else " are")


def read_sizes(
    images: Sequence[Image], file: str, photos: Sequence[Path | None], problems: Problems, progress: Progress
) -> list[tuple[int, int] | None]:
    """Height and width of every upright photo, with which the listed ones have to agree; None where it is not known."""
    sizes_hw: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, found in enumerate(pool.map(_size_or_reason, photos)):
            progress(row + 1, len(photos), "sizes of the photos")
            if isinstance(found, str):
                problems.append(Problem(file, row, FIELD, "is a photo in --images", found))
                found = None
            sizes_hw.append(found)
            if found is not None:
                problems += _differs(images[row], file, row, found)
    return sizes_hw


def _differs(image: Image, file: str, row: int, size_hw: tuple[int, int]) -> Problems:
    listed = image.width, image.height
    if all(one in (None, other) for one, other in zip(listed, reversed(size_hw), strict=True)):
        return []
    rule = f"is the size of the upright photo ({size_hw[1]} x {size_hw[0]})"
    return [Problem(file, row, "images.width, images.height", rule, f"{listed[0]} x {listed[1]}")]


def _size_or_reason(photo: Path | None) -> tuple[int, int] | str | None:
    if photo is None:  # has been said
        return None
    try:
        return read_size(photo)
    except DataError as error:
        return str(error)
