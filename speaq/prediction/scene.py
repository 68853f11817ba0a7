"""A photo's scene graph as values: things, triplets, and the photo that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from speaq.data.images import Source


@dataclass(frozen=True)
class Thing:
    """An object that occurs in a triplet."""

    label: str
    label_index: int  # 0-based class
    score: float  # probability of the class
    box_xyxy: tuple[float, float, float, float]  # pixels of the upright photo


@dataclass(frozen=True)
class Triplet:
    """`subject` and `object` index the things."""

    subject: int
    predicate: str
    predicate_index: int  # 0-based
    object: int
    score: float  # by which triplets are ranked
    predicate_score: float  # probability of the predicate


@dataclass(frozen=True)
class Scene:
    """A photo's scene graph; triplets are ranked, the best first, and no two of them are the same."""

    image: Path | None  # its file, where it has one
    size_hw: tuple[int, int]  # pixels of the upright photo
    things: tuple[Thing, ...]
    triplets: tuple[Triplet, ...]
    source: Source | None = field(default=None, repr=False, compare=False)  # to draw on; default: the file

    def first(self, top: int) -> Self:
        """The best `top` triplets and what occurs in them."""
        triplets = self.triplets[:top]
        kept = sorted({end for triplet in triplets for end in (triplet.subject, triplet.object)})
        number = {thing: position for position, thing in enumerate(kept)}
        renumbered = (replace(t, subject=number[t.subject], object=number[t.object]) for t in triplets)
        return replace(self, things=tuple(self.things[thing] for thing in kept), triplets=tuple(renumbered))

    def words(self) -> list[str]:
        """All labels and predicates."""
        return [thing.label for thing in self.things] + [triplet.predicate for triplet in self.triplets]


def distinct_names(things: Sequence[Thing]) -> list[str]:
    """Labels, with a number where a label occurs more than once: `man 1`, `man 2`, `horse`."""
    labels = [thing.label for thing in things]
    return [
        f"{label} {labels[: row + 1].count(label)}" if labels.count(label) > 1 else label
        for row, label in enumerate(labels)
    ]
