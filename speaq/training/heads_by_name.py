"""Rows of a checkpoint's class and predicate heads under another vocabulary: by name, never by number.

Letters: C object classes, P predicates, d hidden size. A head is [C+1, d] or [P+1, d] with its bias, background last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from speaq.config import ConfigError
from speaq.structures import Vocabulary
from speaq.training import checkpoint, distributed
from speaq.vocabulary import difference, places

log = logging.getLogger(__name__)

MOST_NAMES = 30  # in one line
WORDS = {"objects": "classes", "predicates": "predicates"}


@dataclass(frozen=True)
class _Head:
    """One head of a checkpoint, the names of its rows there and those that are wanted here."""

    key: Literal["objects", "predicates"]  # of a checkpoint's content
    theirs: tuple[str, ...] | None  # None: converted without data
    ours: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, str]:
        name = "class_head" if self.key == "objects" else "predicate_head"
        return f"transformer.{name}.weight", f"transformer.{name}.bias"


def by_name(
    content: Mapping[str, Any], vocabulary: Vocabulary, where: object, there: object, remedy: str = ""
) -> dict[str, Tensor]:
    """A checkpoint's weights with the rows of its heads in the order of `vocabulary`; says where that is another.

    A checkpoint without names (one that was converted without data) keeps its order, and that is said.

    Args:
        content: as `checkpoint.load` gives it.
        where: the checkpoint, for messages.
        there: what has the vocabulary, for messages.
        remedy: what a refusal ends with.

    Raises:
        ConfigError: other names, or another number of them; says the first that differs.
    """
    weights: dict[str, Tensor] = dict(content["model"])
    for head in _heads(content, vocabulary, where):
        word = WORDS[head.key]
        if head.theirs is None:
            count = len(weights[head.parameters[1]]) - 1
            if count != len(head.ours):
                raise ConfigError(f"{where}: has {count} {head.key}, {there} has {len(head.ours)}{remedy}")
            _say("%s: knows no names (it was converted without --data): its %s are taken in order", where, word)
        elif (differs := difference(head.theirs, head.ours)) is not None:
            counts = f"{len(head.theirs)} then, {len(head.ours)} here"
            raise ConfigError(
                f"{where}: was trained with other {head.key} than {there} has: {differs} ({counts}){remedy}"
            )
        elif head.theirs != head.ours:
            order = torch.from_numpy(places(head.theirs, head.ours))
            for name in head.parameters:
                weights[name] = _picked(weights[name], order)
            _say("%s: has its %s in another order than %s; they meet by name", where, word, there)
    return weights


def matching(
    content: Mapping[str, Any], vocabulary: Vocabulary, own: Mapping[str, Tensor], where: object
) -> dict[str, Tensor]:
    """A checkpoint's weights with heads for `vocabulary`: rows of names that it knows are its own, the rest of `own`.

    Background keeps its row. Says how many rows are kept, and which names are new or left out.

    Raises ConfigError where the checkpoint knows no names.
    """
    weights: dict[str, Tensor] = dict(content["model"])
    for head in _heads(content, vocabulary, where):
        if head.theirs is None:
            raise ConfigError(
                f"training.init_heads: matching needs names, and {where} knows none: convert it with --data"
            )
        order = torch.from_numpy(places(head.theirs, head.ours))
        for name in head.parameters:
            known = _picked(weights[name], order.clamp(min=0))
            new = torch.cat((order < 0, torch.tensor([False])))
            if own[name].shape == known.shape:  # otherwise another network: refused by name where it is loaded
                known[new] = own[name][new]
            weights[name] = known
        fresh = [name for name in head.ours if name not in head.theirs]
        left = [name for name in head.theirs if name not in head.ours]
        text = f"{len(head.ours) - len(fresh)} of {len(head.ours)} {WORDS[head.key]} keep the rows of {where}"
        _say("%s; new: %s; left out: %s", text, _listed(fresh), _listed(left))
    return weights


def new(
    content: Mapping[str, Any], vocabulary: Vocabulary, own: Mapping[str, Tensor], where: object
) -> dict[str, Tensor]:
    """A checkpoint's weights with the heads of `own`, background included."""
    weights: dict[str, Tensor] = dict(content["model"])
    for head in _heads(content, vocabulary, where):
        weights |= {name: own[name] for name in head.parameters}
        _say("all %d rows of %s are new: nothing of them is taken from %s", len(head.ours), WORDS[head.key], where)
    return weights


def _heads(content: Mapping[str, Any], vocabulary: Vocabulary, where: object) -> Sequence[_Head]:
    """Those that the checkpoint has: a detector knows no predicate, whatever data it was trained on.

    Raises CheckpointError where rows, biases and names are not equally many.
    """
    found = []
    for key, ours in (("objects", vocabulary.objects), ("predicates", vocabulary.predicates)):
        names = content[key]
        head = _Head(key, None if names is None else tuple(names), ours)  # type: ignore[arg-type]
        if head.parameters[1] not in content["model"]:
            continue
        count = checkpoint.count(content, head.parameters[1].split(".")[1], where)
        rows = content["model"].get(head.parameters[0])
        if rows is None or rows.ndim != 2 or len(rows) != count + 1:
            raise checkpoint.CheckpointError(f"{where}: {head.parameters[0]} is missing, or not of {count + 1} rows")
        if head.theirs is not None and len(head.theirs) != count:
            raise checkpoint.CheckpointError(f"{where}: names {len(head.theirs)} {key}, its head tells {count} apart")
        found.append(head)
    return found


def _picked(rows: Tensor, order: Tensor) -> Tensor:
    """The rows at the places of `order`, and last that of background."""
    return torch.cat((rows[:-1][order], rows[-1:]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return (", ".join(names[:MOST_NAMES]) or "none") + (f" and {more} more" if more > 0 else "")


def _say(text: str, *values: object) -> None:
    """To everybody's terminal, Ray's workers' too, once."""
    if distributed.world()[0] == 0:
        log.warning(text, *values)
