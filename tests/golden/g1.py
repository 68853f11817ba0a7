"""G1: predicate groups and queries per group."""

from __future__ import annotations

from speaq.matching.groups import PredicateGroups, make_groups
from tests.golden.case import Case, Check, compare


def run(case: Case) -> list[Check]:
    count = case.arrays["in.predicate_count"].tolist()
    multiple = case.config["MODEL.DETR.MULTIPLY_QUERY"]
    num_queries = case.config["MODEL.DETR.NUM_OBJECT_QUERIES"]
    if not case.config["MODEL.DETR.ONLY_PREDICATE_MULTIPLY"]:
        num_queries *= multiple  # the reference then multiplies the mask's rows once more
    groups = make_groups(count, case.config["MODEL.DETR.NUM_GROUPS"], num_queries, min_queries=0)
    return [compare(case, name, "exact", ours, case.arrays[f"out.{name}"]) for name, ours in rows(groups, multiple)]


def rows(groups: PredicateGroups, multiple: int) -> list[tuple[str, list[int]]]:
    return [
        ("size_of_groups", [len(members) for members in groups.predicates]),
        ("predicates_in_group_order", [p for members in groups.predicates for p in members]),
        ("group_of_predicate", list(groups.group_of_predicate)),
        ("n_queries_per_group", list(groups.queries)),
        ("mask_rows_per_group", [queries * multiple for queries in groups.queries]),
    ]
