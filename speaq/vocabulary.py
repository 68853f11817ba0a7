"""Labels meet by name: two lists of names are the same labels in whatever order they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from speaq.structures import IntArray, SceneGraph, Vocabulary


def difference(theirs: Sequence[str], ours: Sequence[str]) -> str | None:
    """The first name that one list has and the other lacks, in words; None where both hold the same names.

    A name that `theirs` holds twice is a difference too: nothing tells which of its rows is meant.
    """
    there, here = Counter(theirs), set(ours)
    extra = next((name for name in theirs if name not in here), None)
    lacking = next((name for name in ours if name not in there), None)
    if extra is not None:
        return f"{extra!r} besides" if lacking is None else f"{extra!r}, not {lacking!r}"
    if lacking is not None:
        return f"without {lacking!r}"
    return next((f"{name!r} twice" for name, times in there.items() if times > 1), None)


def places(theirs: Sequence[str], ours: Sequence[str]) -> IntArray:
    """[len(ours)]: where each of our names stands among theirs, -1 where it does not."""
    known = {name: place for place, name in enumerate(theirs)}
    return np.array([known.get(name, -1) for name in ours], dtype=np.int64)


def in_words(graph: SceneGraph, vocabulary: Vocabulary) -> tuple[str, ...]:
    """An image's relations in their order, as "man riding horse"."""
    names, predicates = [vocabulary.objects[c] for c in graph.classes.tolist()], vocabulary.predicates
    return tuple(f"{names[s]} {predicates[p]} {names[o]}" for s, o, p in graph.relations.tolist())
