"""Which images are shown: conditions on relations, written in the address so that they can be shared.

M relations of the split. Masks over columns: a hundred thousand images take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from speaq.config import short
from speaq.data.tables import tidy
from speaq.evaluation.recall import THIRDS
from speaq.explore.context import NotFound
from speaq.explore.view import View
from speaq.files.foreign import whole_number
from speaq.structures import IntArray

Found = Literal["", "hit", "wrong", "missed"]
Sort = Literal["", "worst", "best"]
MAX_K = 1000


class Selected(NamedTuple):
    """Rows of the split, ascending, and [M] which relations fulfil all conditions."""

    images: IntArray
    relations: NDArray[np.bool_]


@dataclass(frozen=True)
class Filter:
    """Conditions that one and the same relation of an image fulfils; "" is any. Behind them how images are shown.

    `text` is looked for in the names of a relation's two objects; without another condition in those of all objects.
    """

    predicate: str = ""
    part: str = ""  # head, body or tail
    found: str = ""  # hit, wrong or missed, within the best k triplets
    said: str = ""  # predicate that the pair's best triplet has instead
    zero: str = ""  # 1: triplets that training never shows
    text: str = ""  # part of a class name
    k: int = 20
    sort: str = ""  # worst: images of whose relations the best k triplets find least come first; best: most
    score: float = 0.0  # that a predicted triplet has at least, to be drawn

    @classmethod
    def read(cls, query: Mapping[str, str], view: View) -> Filter:
        """From an address. Raises NotFound, which names the key, for a value that is none."""
        names = ("predicate", "part", "found", "said", "zero", "text", "sort")
        text = {name: query.get(name, "") for name in names} | {"text": query.get("text", "").strip()}
        predicates = ("", *view.data.vocabulary.predicates)
        _one_of("predicate", text["predicate"], predicates)
        _one_of("said", text["said"], predicates)
        _one_of("part", text["part"], ("", *THIRDS))
        _one_of("zero", text["zero"], ("", "1"))
        _one_of("found", text["found"], get_args(Found))
        _one_of("sort", text["sort"], get_args(Sort))
        if view.predictions is None and (text["found"] or text["said"] or text["sort"]):
            raise NotFound("found, said and sort need predictions, and there are none for this split.")
        k = _whole("k", query.get("k", ""), view.evaluation.recall_at[0], MAX_K)
        return cls(**text, k=k, score=_share("score", query.get("score", "")))

    def query(self, **changes: str | int) -> str:
        """For an address, without what is as usual; begins with ? where it is not empty."""
        usual = asdict(Filter(k=-1))
        values = {name: value for name, value in (asdict(self) | changes).items() if value != usual.get(name, "")}
        return f"?{urlencode(values)}" if values else ""

    def select(self, view: View) -> Selected:
        """The images that have such a relation, or such an object."""
        relations = self._relations(view)
        split = view.split
        if relations is None:
            everything = np.ones(len(split.relations), dtype=np.bool_)
            if not self.text:
                return Selected(np.arange(len(split)), everything)
            named = self._named(view)
            image_of_box = np.repeat(np.arange(len(split)), np.diff(split.box_offsets))
            return Selected(np.unique(image_of_box[named[split.classes]]), _either(named, view))
        return Selected(np.unique(split.relation_image[relations]), relations)

    def ordered(self, selected: Selected, view: View) -> IntArray:
        """The rows of the selected images in the order in which they are shown.

        Sorted, by the share that is found of the relations that fulfil the conditions, of equal shares those of more
        relations first; images without such a relation come last.
        """
        images = selected.images
        if not self.sort:
            return images
        some, size = view.split.relation_image[selected.relations], len(view.split)
        total = np.bincount(some, minlength=size)[images]
        hit = np.bincount(some, view.judgement.hit(self.k)[selected.relations], minlength=size)[images]
        share = hit / np.maximum(total, 1)
        return images[np.lexsort((-total, share if self.sort == "worst" else -share, total == 0))]

    def _relations(self, view: View) -> NDArray[np.bool_] | None:
        """[M] the relations that fulfil the conditions; None without conditions on relations."""
        masks: list[NDArray[np.bool_]] = []
        predicate = view.split.relations[:, 2]
        names = view.data.vocabulary.predicates
        if self.predicate:
            masks.append(predicate == names.index(self.predicate))
        if self.part:
            masks.append(view.part[predicate] == THIRDS.index(self.part))
        if self.zero:
            masks.append(view.zero_shot)
        if self.found:
            masks.append(getattr(view.judgement, self.found)(self.k))
        if self.said:
            within = view.judgement.pair_rank < self.k
            masks.append(within & (view.judgement.said == names.index(self.said)))
        if masks and self.text:
            masks.append(_either(self._named(view), view))
        return np.logical_and.reduce(masks) if masks else None

    def _named(self, view: View) -> NDArray[np.bool_]:
        """[C] classes whose name holds the text."""
        text = tidy(self.text).casefold()
        return np.array([text in tidy(name).casefold() for name in view.data.vocabulary.objects], dtype=np.bool_)


def _either(named: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
    """[M] whether the class of subject or object is among `named` [C]."""
    return named[view.relation_classes[:, 0]] | named[view.relation_classes[:, 1]]


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NotFound(f"{key}={short(value)}: is none of {', '.join(choice for choice in choices if choice)[:200]}.")


def _whole(key: str, value: str, usual: int, most: int) -> int:
    if not value:
        return usual
    number = whole_number(value)
    if number is None or not 1 <= number <= most:
        raise NotFound(f"{key}={short(value)}: is a whole number from 1 to {most}.")
    return number


def _share(key: str, value: str) -> float:
    if not value:
        return 0.0
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise NotFound(f"{key}={short(value)}: is a number from 0 to 1.")
    return number
