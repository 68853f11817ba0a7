"""COCO's JSON with relationships: one file, or a folder with one for each split."""

from __future__ import annotations

from pathlib import Path

from speaq.data import DataError
from speaq.data.coco.form import read_document
from speaq.data.formats.reading import Read, by_split, joined


def read(annotations: Path, relations: Path | None) -> Read:
    """One file as it is; of a folder `train.json`, `val.json` and `test.json`, or names that hold these words.

    Raises DataError where a file is not of the form, or the splits do not fit together.
    """
    if not annotations.is_dir():
        return Read(read_document(annotations, relations), relations=relations.name if relations else None)
    if relations is not None:
        raise DataError(
            f"{annotations}: is a folder, whose files have relationships of their own; leave {relations} out"
        )
    files = by_split(annotations, "*.json")
    return Read(joined({split: read_document(path, None) for split, path in files.items()}, files))
