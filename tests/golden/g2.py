"""G2: repeats, costs and assignment of one matcher call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speaq.config import MatchingConfig
from speaq.matching.assign import Blocks, outside_cost
from speaq.matching.cost import compare as compare_rows
from speaq.matching.groups import VISUAL_GENOME_COUNTS, PredicateGroups, make_groups
from speaq.matching.match import match
from speaq.matching.repeats import best_sum, quality
from speaq.matching.rows import Truth, relation_queries, relation_truth
from speaq.structures import LayerOutputs, Target, split_by_counts
from speaq.targets import join
from tests.golden.case import OUTPUTS, Case, Check, compare

QUALITIES: Mapping[str, Literal["min", "max", "geometric", "arithmetic"]] = {
    "min": "min",
    "max": "max",
    "gm": "geometric",
    "am": "arithmetic",
}


def run(case: Case) -> list[Check]:
    config, groups = matching_config(case.config), groups_of(case.config)
    outputs, targets = read_outputs(case, aux=needs_aux(case.config)), read_targets(case)
    assignment = match(outputs, join(targets), config, groups, case.config["MODEL.DETR.MULTIPLY_QUERY"])
    last = assignment.layer == len(outputs.subject_boxes) - 1
    costs, sums = costs_and_sums(case, outputs, targets)
    checks = []
    for image, target in enumerate(targets):
        mine = last & (assignment.image == image)
        query, relation = assignment.query[mine], assignment.relation[mine]
        checks += check_assignment(case, image, target, query, relation)
        checks += check_repeats(case, image, target, assignment.repeats[image][-1], sums[image])
        checks += check_costs(case, image, costs[image], assignment.repeats[image][-1])
    if "out.k_mean_log" in case.arrays:
        repeats = torch.cat([k[-1] for k in assignment.repeats]).float()
        mean = repeats.mean() if len(repeats) else torch.zeros(())
        checks.append(compare(case, "k_mean_log", "k_mean_log", mean, case.arrays["out.k_mean_log"]))
    return checks


def check_assignment(case: Case, image: int, target: Target, query: Tensor, relation: Tensor) -> list[Check]:
    """The pairs (query, original relation) as sets, and the objects that they point to."""
    ends = target.relations[relation]
    results = (
        ("query_index", query),  # both ascend, so equal rows are equal sets of pairs
        ("original_relation", relation),
        ("subject_target", ends[:, 0]),
        ("object_target", ends[:, 1]),
    )
    return [
        compare(case, f"{image}.{name}", "exact", ours, case.arrays[f"out.{image}.{name}"]) for name, ours in results
    ]


def check_repeats(case: Case, image: int, target: Target, repeats: Tensor, sums: Tensor | None) -> list[Check]:
    checks = [compare(case, f"{image}.k", "exact", repeats, case.arrays[f"out.{image}.k"])]
    if sums is not None and f"out.{image}.k_sum" in case.arrays:
        checks.append(compare(case, f"{image}.k_sum", "k_sum", sums, case.arrays[f"out.{image}.k_sum"]))
    prefix = f"out.{image}.augmented."
    for name, rows, quantity in (
        ("image_relations", target.relations, "exact"),
        ("relation_boxes", target.relation_boxes, "exact"),
        ("relation_labels", target.relations[:, 2], "exact"),
    ):
        if prefix + name in case.arrays:
            ours = rows.repeat_interleave(repeats, dim=0)
            checks.append(compare(case, f"{image}.augmented.{name}", quantity, ours, case.arrays[prefix + name]))
    return checks


def check_costs(case: Case, image: int, cost: NDArray[np.float64], repeats: Tensor) -> list[Check]:
    """Costs of the matched pairs, and the whole matrix where the case has it; [M, R] with the mask."""
    query, relation = (case.arrays[f"out.{image}.{name}"] for name in ("query_index", "original_relation"))
    found = [("matched_cost", cost[relation, query])]
    if f"out.{image}.cost" in case.arrays:
        found.append(("cost", np.repeat(cost, repeats.cpu().numpy(), axis=0).T))
    checks = []
    for name, ours in found:
        theirs = case.arrays[f"out.{image}.{name}"]
        masked = theirs > 1e5
        for quantity, where in (("cost", ~masked), ("masked_cost", masked)):
            both = (np.where(where, x, 0) for x in (ours, theirs)) if ours.shape == theirs.shape else (ours, theirs)
            checks.append(compare(case, f"{image}.{name} ({quantity})", quantity, *both))
    return checks


def costs_and_sums(
    case: Case, outputs: LayerOutputs, targets: list[Target]
) -> tuple[list[NDArray[np.float64]], list[Tensor | None]]:
    """Cost with the mask [M, R] of every image, and the quality sums [M] of the last layer (dynamic only)."""
    config, groups = matching_config(case.config), groups_of(case.config)
    queries, truth = relation_queries(outputs), relation_truth(join(targets))
    comparison = compare_rows(queries, truth, config)
    blocks = blocks_of(groups, truth, case)
    mask = outside_cost(blocks.group_of_row, blocks)
    layers = comparison.cost[-1:] if config.independent else comparison.cost
    cost = layers.double().sum(0).cpu().numpy() + mask  # once, however many layers are summed
    sums: list[Tensor | None] = [None] * len(targets)
    if config.scheme == "dynamic":
        outside = torch.from_numpy(mask > 0).to(case.device) if groups else None
        best = best_sum(quality(comparison, config, outside), config.max_repeats)[-1]
        sums = [*split_by_counts(best, truth.counts)]
    return np.split(cost, np.cumsum(truth.counts)[:-1]), sums


def blocks_of(groups: PredicateGroups | None, truth: Truth, case: Case) -> Blocks:
    if groups is None:
        return Blocks(
            np.zeros(len(truth.image), dtype=np.int64), (0, case.arrays["in.outputs.relation_boxes"].shape[1])
        )
    group_of_row = np.asarray(groups.group_of_predicate)[truth.classes[2].cpu().numpy()]
    return Blocks(group_of_row, tuple(case.config["MODEL.DETR.MULTIPLY_QUERY"] * b for b in groups.bounds))


def matching_config(settings: Mapping[str, Any]) -> MatchingConfig:
    """Our matching at the settings of a case."""
    detr = {key.removeprefix("MODEL.DETR."): value for key, value in settings.items()}
    plain = settings.get("matcher") == "IterativeHungarianMatcher"
    dynamic = detr["ONE2MANY_SCHEME"] == "dynamic" and not plain
    score = dynamic and detr["ONE2MANY_PREDICATE_SCORE"]
    return MatchingConfig(
        scheme="dynamic" if dynamic else "static",
        max_repeats=1 if plain else detr["ONE2MANY_K"],
        quality=QUALITIES[detr["ONE2MANY_DYNAMIC_SCHEME"]] if dynamic else None,
        predicate_weight=float(detr["ONE2MANY_PREDICATE_WEIGHT"]) if score else 0.0,
        independent=bool(detr["MATCH_INDEPENDENT"]) and not plain,
        num_groups=1 if plain or not detr["USE_GROUP_MASK"] else detr["NUM_GROUPS"],
        cost_class=float(detr.get("COST_CLASS", 1.0)),
        cost_l1=float(detr.get("L1_WEIGHT", 5.0)),
        cost_giou=float(detr.get("GIOU_WEIGHT", 2.0)),
    )


def groups_of(settings: Mapping[str, Any]) -> PredicateGroups | None:
    """The reference's groups: of Visual Genome's table, whatever the data; None where the mask is off."""
    if matching_config(settings).num_groups == 1:
        return None
    num_groups, num_queries = settings["MODEL.DETR.NUM_GROUPS"], settings["MODEL.DETR.NUM_OBJECT_QUERIES"]
    return make_groups(VISUAL_GENOME_COUNTS, num_groups, num_queries, min_queries=0)


def needs_aux(settings: Mapping[str, Any]) -> bool:
    return not matching_config(settings).independent and settings.get("MODEL.DETR.DEEP_SUPERVISION", True)


def read_outputs(case: Case, aux: bool) -> LayerOutputs:
    """The matched layer last, after the earlier ones where they are wanted and stored."""

    def layers(name: str) -> Tensor:
        last = case.on_device(f"in.outputs.{name}")[None]
        stored = f"in.outputs.aux.{name}"
        return torch.cat((case.on_device(stored), last)) if aux and stored in case.arrays else last

    return LayerOutputs(**{field: layers(name) for field, name in OUTPUTS.items()})


def read_targets(case: Case) -> list[Target]:
    targets = []
    for image in range(case.config["batch"]):
        prefix = f"in.targets.{image}."
        names = ("combined_labels", "combined_boxes", "image_relations", "relation_boxes")
        targets.append(Target(*(case.on_device(prefix + name) for name in names)))
    return targets
