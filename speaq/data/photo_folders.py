"""Where the photos of a data set lie: `<id>.jpg`, in one folder or in the two that Visual Genome is distributed in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speaq.data.files import IMAGE_FOLDERS, Problem, Problems
from speaq.structures import IntArray


@dataclass(frozen=True)
class PhotoFolders:
    """At least one folder; of several, all are there."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, directory: Path) -> PhotoFolders:
        """Those of a data set; the first of their usual names where there is none."""
        there = tuple(directory / name for name in IMAGE_FOLDERS if (directory / name).is_dir())
        return cls(there or (directory / IMAGE_FOLDERS[0],))

    @property
    def exist(self) -> bool:
        """Whether there is a folder at all: where none is, only the usual one is named."""
        return self.folders[0].is_dir()

    def path(self, image_id: str) -> Path:
        """Where the photo of an image is, or would be in the first folder."""
        places = [folder / f"{image_id}.jpg" for folder in self.folders]
        return places[0] if len(places) == 1 else next(filter(Path.exists, places), places[0])

    def names(self) -> set[str]:
        """Names of all files, by one look at each folder. Raises OSError."""
        return {entry.name for folder in self.folders for entry in os.scandir(folder)}


def missing_photos(photos: PhotoFolders, rows: IntArray, ids: Sequence[str], problems: Problems) -> IntArray:
    """Those of `rows` whose photo is not there, with one line for all of them; no photo is opened.

    Args:
        rows: [n] rows of the h5 that need a photo.
        ids: [I] of all rows.
    """
    name = photos.folders[0].name
    try:
        names = photos.names()
    except OSError as error:
        reason = error.strerror or "unreadable"
        problems.append(Problem(name, None, "", "is the folder of the photos", reason))
        return rows
    missing = rows[[f"{ids[row]}.jpg" not in names for row in rows]] if len(rows) else rows
    if not len(missing):
        return missing
    first = str(ids[missing[0]])
    value = "missing"
    if len(missing) > 1:
        more = ", ".join(f"{ids[row]}.jpg" for row in missing[1:4])
        value += f"; {len(missing)} of {len(rows)} photos are ({more}{', …' if len(missing) > 4 else ''} too)"
    if other := next((one for one in sorted(names) if one.rpartition(".")[0] == first), None):
        value += f"; {other} lies there, but photos are named <image_id>.jpg"
    problems.append(Problem(f"{name}/{first}.jpg", int(missing[0]), "", "is on disk", value))
    return missing
