"""Annotations of other data sets, each brought into the form of `speaq.data.coco.form`: one module a format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Source = Literal["coco", "reltr", "psg", "gqa", "open-images", "visual-genome"]

# By which a folder is known that nobody has converted yet; the first that fits.
SIGNS: Mapping[Source, str] = {
    "reltr": "rel.json",
    "gqa": "*sceneGraphs.json",
    "open-images": "*annotations-vrd.csv",
    "visual-genome": "relationships.json",
    "psg": "psg*.json",
    "coco": "*.json",
}


def to_convert(path: Path) -> str:
    """Words on how a file or folder of foreign annotations is made a data set; empty where it looks like none."""
    if path.suffix in (".json", ".csv") and path.is_file():
        found = path
        source = next(source for source, sign in SIGNS.items() if path.match(sign) or sign == "*.json")
    else:
        signs = ((source, sorted(path.glob(sign))[:1]) for source, sign in SIGNS.items())
        source, found = next(((source, files[0]) for source, files in signs if files), ("coco", path))
        if found == path:
            return ""
    option = "" if source == "coco" else f" --from {source}"
    return f"; {found.name} is what `speaq data convert{option}` makes a data set of"
