"""How recalls are counted, and the short name that every number carries: `sgdet published`, `sgdet strict iou=0.7`.

Code bases differ in what "graph constraint" means; numbers of different protocols must not be compared.

- published: the ranked triplets as they were decoded, one for each query (or M), equal (subject box, object box,
  predicate) once. Several predicates of one pair of boxes survive. An image for which the model gives no triplet is
  skipped. Its list without constraint, `ng`, is the best 100 (triplet row, predicate); rows of one pair may bring a
  (pair, predicate) several times.
- strict: of every (subject box, object box) only the best triplet stays; an image without triplets counts 0. Its list
  without constraint, `ng-unique`, holds a (subject box, object box, predicate) once, at its best score.
- per-query: of every query only the best triplet stays (other than published where M > 1); the rest is as published.

"Best" is the first in the order given. M itself is no part of the name: it changes what the model says, not how that
is counted. Deviations are appended: `iou=0.7`, and `zs=recomputed` where zR's triplets are not the data set's list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from speaq.config import ConfigError, EvaluationConfig

Mode = Literal["sgdet", "sgcls", "predcls", "phrase"]
Protocol = Literal["published", "strict", "per_query"]
PROTOCOLS: tuple[Protocol, ...] = ("published", "strict", "per_query")


def protocol_name(config: EvaluationConfig, mode: Mode = "sgdet") -> str:
    """Short name of everything but the recalls without constraint."""
    return _name(mode, config.protocol.replace("_", "-"), config)


def unconstrained_name(config: EvaluationConfig, mode: Mode = "sgdet") -> str:
    """Short name of the recalls without constraint (ngR, ngmR): published and per-query share one list."""
    return _name(mode, "ng-unique" if config.protocol == "strict" else "ng", config)


def _name(mode: Mode, protocol: str, config: EvaluationConfig) -> str:
    differs = []
    if config.iou_threshold != 0.5:
        differs.append(f"iou={config.iou_threshold:g}")
    if config.zero_shot == "recompute":
        differs.append("zs=recomputed")
    return " ".join([mode, protocol, *differs])


def common_protocol(names: Iterable[str | None]) -> str | None:
    """The one protocol of numbers that are to be ranked or shown side by side; None where none of them says it.

    None among the names stands for a record made before records said it. Raises ConfigError, naming two, where they
    differ.
    """
    known = list(dict.fromkeys(name for name in names if name is not None))
    if len(known) > 1:
        raise ConfigError(f"numbers of different protocols cannot be compared: {known[0]!r} and {known[1]!r}")
    return known[0] if known else None
