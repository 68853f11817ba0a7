"""How far queries have specialized in predicates, from what they predict.

Letters: R relation queries, P predicates, G groups. n[q, p] counts how often query q is among the N best triplets of an
image (ranked as recall ranks them) with predicate p, over all images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speaq.config import ConfigError
from speaq.files import atomic
from speaq.files.regular import check_regular
from speaq.matching.groups import PredicateGroups
from speaq.structures import FloatArray, IntArray, ScenePrediction
from speaq.vocabulary import difference, places

FOLDER, FILE = "specialization", "specialization.json"  # in a run folder, for `speaq explore`


@dataclass(frozen=True)
class Specialization:
    """What `specialization` says of counts; a number is None where it has no meaning."""

    entropy: FloatArray  # [R] nats, in [0, ln P]; NaN of dead queries
    mean_entropy: float | None  # over the queries that are not dead
    predicate_entropy: float | None  # of all queries' predictions together: what entropies are compared with
    leakage: float | None  # None without groups
    group_leakage: tuple[float | None, ...]  # G, of the queries of each group
    dead: tuple[int, ...]  # queries


def count_predictions(
    predictions: Iterable[ScenePrediction], num_queries: int, num_predicates: int, top: int
) -> IntArray:
    """n [R, P] from the `top` best triplets of every image."""
    counts = np.zeros((num_queries, num_predicates), dtype=np.int64)
    for prediction in predictions:
        np.add.at(counts, (prediction.query_index[:top], prediction.predicates[:top]), 1)
    return counts


def entropies(counts: IntArray) -> FloatArray:
    """[...] of counts [..., P]: H = -Σ_p s_p ln s_p with s_p = n_p / Σ n, in nats; NaN where nothing was counted.

    0 where all predictions have one predicate, ln P where all predicates are as frequent. A few predictions can only
    show a few predicates: of n predictions H is at most ln n, so compare it between equal numbers of images.
    """
    total = counts.sum(-1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    logarithm = np.log(share, out=np.zeros(counts.shape), where=share > 0)
    entropy: FloatArray = np.where(total[..., 0] > 0, -(share * logarithm).sum(-1) + 0.0, np.nan)
    return entropy


def specialization(counts: IntArray, groups: PredicateGroups | None, query_multiple: int) -> Specialization:
    """Entropy, leakage and dead queries of counts n [R, P].

    Leakage is the share of predictions whose predicate is of another group than their query:
    Σ_{q, p: g(p) ≠ g(q)} n[q, p] / Σ n. Training matches queries only inside their group (unless it overflows), so 0 is
    full separation; queries that predicted regardless of their group would leak the groups' shares of other queries.
    A query is dead where Σ_p n[q, p] = 0: it is never among the best triplets.

    Args:
        groups: with R / m queries in all; None: no grouping, and no leakage.
        query_multiple: m, relation queries for each subject query.
    """
    entropy = entropies(counts)
    used = counts.sum(1)
    total = int(used.sum())
    dead = used == 0
    leakage: float | None = None
    by_group: tuple[float | None, ...] = ()
    if groups is not None:
        query_group = groups.group_of_query(query_multiple)
        outside = np.asarray(groups.group_of_predicate)[None] != query_group[:, None]
        leaked = (counts * outside).sum(1)
        members = [query_group == g for g in range(len(groups.queries))]
        by_group = tuple(_ratio(leaked[rows], used[rows]) for rows in members)
        leakage = _ratio(leaked, used)
    return Specialization(
        entropy=entropy,
        mean_entropy=None if dead.all() else float(entropy[~dead].mean()),
        predicate_entropy=float(entropies(counts.sum(0))) if total else None,
        leakage=leakage,
        group_leakage=by_group,
        dead=tuple(np.flatnonzero(dead).tolist()),
    )


def _ratio(part: IntArray, whole: IntArray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.sum() else None


@dataclass(frozen=True)
class Analysed:
    """Counts of one checkpoint of a run, with what they were made from."""

    run: str
    checkpoint: str  # names of the files that hold it: best, last
    step: int
    split: str
    images: int
    top: int  # best triplets of an image that were counted
    predicates: tuple[str, ...]
    groups: PredicateGroups | None
    query_multiple: int
    counts: IntArray  # [R, P]

    @property
    def title(self) -> str:
        """What a picture says above the counts."""
        return f"{self.run} · {self.checkpoint}, step {self.step}"

    def in_order_of(self, predicates: tuple[str, ...]) -> Analysed:
        """The same with another order of the names. Raises ValueError where they are other names; says the first."""
        if (differs := difference(self.predicates, predicates)) is not None:
            raise ValueError(differs)
        there = places(self.predicates, predicates)
        groups = None if self.groups is None else self.groups.renumbered(there.tolist())
        return replace(self, predicates=predicates, groups=groups, counts=self.counts[:, there])

    def result(self) -> Specialization:
        """What the counts say of the queries."""
        return specialization(self.counts, self.groups, self.query_multiple)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` needs `counts`, the rest is for readers."""
        result = self.result()
        groups = self.groups
        names = {} if groups is None else {"names": list(groups.names)}
        content = {name: getattr(self, name) for name in ("run", "checkpoint", "step", "split", "images", "top")}
        return {
            **content,
            "query_multiple": self.query_multiple,
            "predicates": list(self.predicates),
            "groups": None
            if groups is None
            else {"predicates": [list(some) for some in groups.predicates], "queries": list(groups.queries), **names},
            "mean_entropy": result.mean_entropy,
            "max_entropy": math.log(len(self.predicates)),
            "predicate_entropy": result.predicate_entropy,
            "leakage": result.leakage,
            "group_leakage": list(result.group_leakage),
            "dead": list(result.dead),
            "entropy": [None if math.isnan(value) else value for value in result.entropy.tolist()],
            "counts": self.counts.tolist(),
        }


def from_json(content: dict[str, Any]) -> Analysed:
    """The inverse of `Analysed.to_json`. Raises KeyError, TypeError or ValueError on other content."""
    given = content["groups"]
    groups = None
    if given is not None:
        members = tuple(tuple(some) for some in given["predicates"])
        groups = PredicateGroups(_owners(members), members, tuple(given["queries"]), tuple(given["names"]))
    names = ("run", "checkpoint", "step", "split", "images", "top", "query_multiple")
    return Analysed(
        **{name: content[name] for name in names},
        predicates=tuple(content["predicates"]),
        groups=groups,
        counts=np.asarray(content["counts"], dtype=np.int64),
    )


def _owners(members: Sequence[Sequence[int]]) -> tuple[int, ...]:
    owner = {p: g for g, some in enumerate(members) for p in some}
    return tuple(owner[p] for p in range(len(owner)))


def save(found: Sequence[Analysed], folder: Path) -> None:
    """Writes FILE into `folder`, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / FILE, json.dumps([one.to_json() for one in found], allow_nan=False) + "\n")


def load(folder: Path) -> list[Analysed]:
    """What `save` wrote. Raises ConfigError where it cannot be read."""
    path = folder / FILE
    try:
        return [from_json(content) for content in json.loads(check_regular(path).read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not what speaq specialization writes ({type(error).__name__}: {error})") from error
