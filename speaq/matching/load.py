"""How much the queries of each predicate group would have to learn, from a data set alone (method section 4).

Letters: G groups, I images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speaq.data.split import Split
from speaq.matching.groups import PredicateGroups

STARVED = 0.25  # of the usual targets per query: below, a group's queries hardly learn
OVERLOADED = 0.05  # of the images that show a group: above, too many have more targets than it has queries


@dataclass(frozen=True)
class Load:
    """One group's targets: ground-truth relations, each once; with K repeats there are up to K times as many."""

    targets_per_image: float  # mean over all images
    targets_per_query: float  # the same, by relation query
    overloaded: float  # share of the images that show the group in which it has more targets than relation queries
    warning: str | None


def group_loads(split: Split, groups: PredicateGroups, query_multiple: int) -> list[Load]:
    """[G] the load of every group on a split with at least one relation."""
    group = np.asarray(groups.group_of_predicate)[split.relations[:, 2]]
    targets = np.zeros((len(split), len(groups.queries)), dtype=np.int64)  # [I, G]
    np.add.at(targets, (split.relation_image, group), 1)
    queries = [number * query_multiple for number in groups.queries]
    usual = targets.sum() / len(split) / sum(queries)
    return [_load(targets[:, g], number, float(usual)) for g, number in enumerate(queries)]


def _load(targets: np.ndarray[tuple[int], np.dtype[np.int64]], queries: int, usual: float) -> Load:
    shown = targets[targets > 0]
    mean = float(targets.mean())
    each = mean / queries if queries else 0.0
    overloaded = float((shown > queries).mean()) if len(shown) else 0.0
    warning = None
    if queries == 0:
        warning = "without a query: nothing can predict it"
    elif overloaded > OVERLOADED:
        warning = f"overloaded: more targets than queries in {overloaded:.0%} of its images"
    elif each < STARVED * usual:
        warning = f"starved: {each / usual:.0%} of the usual targets per query"
    return Load(mean, each, overloaded, warning)
