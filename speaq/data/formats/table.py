"""The formats that `speaq data convert --from` reads: a new one is a module, a name in `Source` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from speaq.data import DataError
from speaq.data.files import summary
from speaq.data.formats import Source, coco, gqa, open_images, psg, reltr, visual_genome
from speaq.data.formats.reading import Read, broken

READERS: Mapping[Source, Callable[[Path, Path | None], Read]] = {
    "coco": coco.read,
    "reltr": reltr.read,
    "psg": psg.read,
    "gqa": gqa.read,
    "open-images": open_images.read,
    "visual-genome": visual_genome.read,
}
WITH_RELATIONS = ("coco", "reltr")  # whose relations may be in a file of any name


def read(source: Source, annotations: Path, relations: Path | None) -> Read:
    """Annotations of a format, in our form. Raises DataError with the first things that are not of the format."""
    if relations is not None and source not in WITH_RELATIONS:
        raise DataError(f"--relations {relations}: --from {source} knows where its relations are; leave it out")
    if not annotations.exists():
        raise DataError(f"{annotations}: cannot be read (No such file or directory)")
    try:
        return READERS[source](annotations, relations)
    except ValidationError as error:  # of an entry that the reader made of what the file says
        raise DataError(summary(annotations, broken(annotations, error))) from error
