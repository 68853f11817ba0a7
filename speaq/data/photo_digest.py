"""Whether photos and zero-shot list of a data set are those of before: what its digest of annotations does not say.

Both are noted as JSON: `{"photos": {"times": …, "contents": …}, "zero_shot": …}`, SHA-256 each. `times` is over names,
sizes and times of change of all photos: where it is the same, nothing else is looked at. `contents` is over names and
sizes, and beginning and end of at most `MOST_READ` photos: it is the same of a copy. What lies between them is not
read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq.files.regular import sha256

if TYPE_CHECKING:  # imported when photos are looked at: who reads what was noted starts sooner
    from speaq.data.files import PhotoFolders
    from speaq.data.records import VisualGenome

MOST_READ = 4096  # photos, at even distances in the order of their names
PART = 4096  # bytes from the beginning and from the end of each
AT_ONCE, PIECE = 16, 512  # threads, since a network file system answers late; photos that one takes at a time

KEYS = ("photos", "zero_shot")
Seen = Mapping[str, Any]


def look(vg: VisualGenome) -> dict[str, Any]:
    """What to note of a data set that is opened with its photos."""
    return look_again(vg, {})[0]


def look_again(vg: VisualGenome, before: Seen) -> tuple[dict[str, Any], list[str]]:
    """What to note now and, in words, what differs from what was noted: what an earlier version did not note does not.

    Args:
        before: with the two keys, both, one or none; others are not looked at.
    """
    photos, then, found = _Photos(vg), before.get("photos"), list[str]()
    times = photos.times()
    if isinstance(then, Mapping) and then.get("times") == times:
        now = dict(then)
    else:
        now = {"times": times, "contents": photos.contents()}
        if isinstance(then, Mapping) and then.get("contents") != now["contents"]:
            found.append(f"photos {str(then.get('contents'))[:12]} then, {now['contents'][:12]} now")
    listed = None if vg.files.zero_shot is None else sha256(vg.files.zero_shot)
    if "zero_shot" in before and before["zero_shot"] != listed:
        was = str(before["zero_shot"] or "none")
        found.append(f"zero-shot list {was[:12]} then, {(listed or 'none')[:12]} now")
    return {"photos": now, "zero_shot": listed}, found


def noted(content: Seen) -> dict[str, Any]:
    """What was noted, out of a larger JSON object."""
    return {key: content[key] for key in KEYS if key in content}


class _Photos:
    """All photos that a split can draw, by id; each is asked for its size and time once."""

    def __init__(self, vg: VisualGenome) -> None:
        from speaq.data.records import used_rows

        assert vg.photos is not None, "opened with them"
        self._folders: PhotoFolders = vg.photos
        self._ids: list[str] = sorted(vg.images.ids[used_rows(vg.annotations)].tolist())
        self._found = _in_pieces(self._stat, self._ids)

    def _stat(self, image_id: str) -> tuple[Path, int, int] | None:
        """Path, size and time of a photo; None where there is no file, which is said elsewhere."""
        for folder in self._folders.folders:
            path = folder / f"{image_id}.jpg"
            try:
                there = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(there.st_mode):
                return path, there.st_size, there.st_mtime_ns
        return None

    def times(self) -> str:
        return _digest((name, found and found[1:]) for name, found in zip(self._ids, self._found, strict=True))

    def contents(self) -> str:
        import numpy as np

        count = len(self._ids)
        chosen = np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST_READ)).astype(int)).tolist()
        ends = _in_pieces(_ends, [self._found[index] for index in chosen])
        sizes = ((name, found and found[1]) for name, found in zip(self._ids, self._found, strict=True))
        return _digest([*sizes, *zip(chosen, ends, strict=True)])


def _ends(found: tuple[Path, int, int] | None) -> str | None:
    """A digest of the beginning and the end of a file; None where it cannot be read."""
    if found is None:
        return None
    try:
        with found[0].open("rb") as file:
            content = file.read(PART)
            file.seek(max(found[1] - PART, 0))
            return hashlib.sha256(content + file.read(PART)).hexdigest()
    except OSError:
        return None


def _in_pieces(function: Any, values: Sequence[Any]) -> list[Any]:
    """`[function(value) for value in values]` by several threads."""
    pieces = [values[start : start + PIECE] for start in range(0, len(values), PIECE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [result for piece in pool.map(lambda some: [function(one) for one in some], pieces) for result in piece]


def _digest(rows: Iterable[object]) -> str:
    total = hashlib.sha256()
    for row in rows:
        total.update(f"{row}\n".encode())
    return total.hexdigest()
