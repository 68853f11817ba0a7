"""Training health: how targets meet the groups' queries, starving groups, and one line on a run that goes bad."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from speaq.config import Config, LossConfig, MatchingConfig
from speaq.losses import SpeaQLoss
from speaq.matching.groups import PredicateGroups, make_groups
from speaq.matching.match import match
from speaq.structures import IntArray, LayerOutputs, Target
from speaq.targets import join
from speaq.training.health import REMEMBERED, STARVING_AFTER, Health
from speaq.training.step import clip_gradients
from tests.helpers.matching_cases import NUM_CLASSES, NUM_PREDICATES, PREDICATE_COUNT, random_case
from tests.helpers.tiny import tiny

NAMES = ("on", "has", "under", "behind", "over", "near", "riding")
MATCHING = MatchingConfig(num_groups=3, max_repeats=6)
GROUPS = make_groups(PREDICATE_COUNT, 3, 6)
CONFIG = tiny(
    matching__num_groups=3, matching__max_repeats=6, model__num_queries=6, training__batch_size=2
)  # of `random_case`s with 2 layers, 2 images, 12 queries


def criterion() -> SpeaQLoss:
    return SpeaQLoss(LossConfig(), MATCHING, GROUPS, 2, torch.ones(NUM_PREDICATES + 1), NUM_CLASSES)


def case(seed: int, relations: tuple[int, int] = (9, 2)) -> tuple[LayerOutputs, list[Target]]:
    return random_case(seed, num_layers=2, num_queries=12, relations=relations)


class Network(nn.Module):
    """Two parts, as a model has them; no step is made."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 3)
        self.transformer = nn.Linear(3, 2)


def health(groups: PredicateGroups | None = GROUPS, config: Config = CONFIG) -> tuple[Health, Network]:
    network = Network()
    return Health(config, network, groups, NAMES), network


def step(
    watched: Health,
    network: Network,
    number: int,
    gradient: float = 1.0,
    by_group: IntArray | None = None,
    **losses: float,
) -> None:
    """A step with the same gradient everywhere."""
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    norm, norms = clip_gradients(network, CONFIG.training)
    parts = {"loss": torch.tensor(sum(losses.values(), 1.0)), **{n: torch.tensor(v) for n, v in losses.items()}}
    watched.add(number, {**parts, "gradient_norm": norm}, norms, by_group)


def test_figures_count_what_the_assignment_says() -> None:
    """Five relations of the first group, which has four relation queries: it overflows."""
    outputs, targets = case(seed=3)
    targets[0].relations[:, 2] = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 6])
    *_, by_group = criterion().by_group(outputs, join(targets))
    watched, network = health()
    step(watched, network, 1, by_group=by_group, loss_ce=0.5)
    figures = watched.figures()

    found = match(outputs, join(targets), MATCHING, GROUPS, 2)
    group_of_predicate = np.array(GROUPS.group_of_predicate)
    owner = np.repeat(np.arange(3), np.array(GROUPS.queries) * 2)[found.query.numpy()]
    wanted = np.zeros(3)
    for target, repeats in zip(targets, found.repeats, strict=True):
        np.add.at(wanted, group_of_predicate[target.relations[:, 2].numpy()], repeats.sum(0).numpy())
    pairs = zip(found.image.tolist(), found.relation.tolist(), strict=True)
    groups = group_of_predicate[[int(targets[image].relations[row, 2]) for image, row in pairs]]
    for g, queries in enumerate(GROUPS.queries):
        assert figures[f"matched_share_group{g + 1}"] == pytest.approx((owner == g).sum() / (queries * 2 * 4))
        outside = ((groups == g) & (owner != g)).sum()
        assert figures[f"overflow_group{g + 1}"] == pytest.approx(outside / wanted[g])
    assert figures["unmatched_share"] == pytest.approx(1 - len(owner) / wanted.sum())
    assert figures["overflow_group1"]
    assert (figures["loss_ce"], figures["nonfinite_steps"], figures["starving_groups"]) == (0.5, 0, 0)
    assert figures["gradient_norm_backbone"] == pytest.approx(12**0.5)
    assert figures["gradient_norm_transformer"] == pytest.approx(8**0.5)


def test_images_without_relations_leave_shares_undefined() -> None:
    outputs, targets = case(seed=1, relations=(0, 0))
    *_, by_group = criterion().by_group(outputs, join(targets))
    watched, network = health()
    step(watched, network, 1, by_group=by_group)
    figures = watched.figures()
    assert figures["matched_share_group1"] == 0
    assert (figures["overflow_group1"], figures["unmatched_share"]) == (None, None)


def test_a_starving_group_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    outputs, targets = case(seed=1, relations=(1, 1))
    (rare,) = [g for g, members in enumerate(GROUPS.predicates) if NAMES.index("riding") in members]
    for number, target in enumerate(targets):  # nothing of the last group is drawn
        target.relations[:, 2] = number
    *_, by_group = criterion().by_group(outputs, join(targets))
    watched, network = health()
    lines = []
    for number in range(1, STARVING_AFTER + 3):
        step(watched, network, number, by_group=by_group)
        lines.append({f"train/{name}": value for name, value in watched.figures().items()})
    assert [line["train/starving_groups"] for line in lines] == [0] * (STARVING_AFTER - 1) + [1] * 3
    assert rare == 2
    queries = GROUPS.queries[rare] * 2
    members = ", ".join(NAMES[p] for p in GROUPS.predicates[rare])
    assert [record.getMessage() for record in caplog.records] == [
        f"predicate group 3 of 3 starves: its {queries} relation queries got no target in the last 10 logged steps, so "
        f"they learn nothing; its predicates are {members}; lower matching.num_groups (3), or draw these predicates "
        "more often (data.resampling)"
    ]
    resumed, network = health()
    resumed.resume(lines)
    step(resumed, network, STARVING_AFTER + 3, by_group=by_group)
    assert resumed.figures()["starving_groups"] == 1
    assert len(caplog.records) == 1


def test_the_first_loss_that_is_not_finite_is_named_with_the_gradient_before() -> None:
    watched, network = health(None)
    for number in range(1, 61):
        step(watched, network, number, gradient=10.0 ** (number / 12), loss_giou_subject_1=0.5, loss_ce=1.0)
    step(watched, network, 61, gradient=1e6, loss_giou_subject_1=math.nan, loss_ce=math.nan)
    step(watched, network, 62, gradient=math.nan, loss_giou_subject_1=math.inf, loss_ce=1.0)
    assert watched.figures()["loss"] is None
    first = 10 ** (13 / 12) * 20**0.5
    assert watched.explain(62) == (
        "step 61: loss_giou_subject of decoder layer 2 is nan (2 of 2 losses); the gradient norm rose from "
        f"{first:.3g} to {1e6 * 20**0.5:.3g} over the last {REMEMBERED} steps; lower training.learning_rate (0.001)"
    )


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter() -> None:
    watched, network = health(None)
    step(watched, network, 1, loss_ce=1.0)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert network.transformer.bias.grad is not None
    network.transformer.bias.grad[0] = math.inf
    norm, norms = clip_gradients(network, CONFIG.training)
    watched.add(2, {"loss": torch.ones(()), "loss_ce": torch.ones(()), "gradient_norm": norm}, norms)
    assert watched.figures()["nonfinite_steps"] == 1
    assert watched.explain(3, "boxes: NaN") == (
        "step 2: the gradient of transformer.bias is not finite (1 of 4 parameters), all losses are; "
        "lower training.learning_rate (0.001)"
    )


def test_weights_that_grew_are_named_where_losses_and_gradients_were_fine() -> None:
    watched, network = health(None, tiny(training__clip_norm=1e30))
    step(watched, network, 1, loss_ce=1.0)
    with torch.no_grad():
        network.backbone.weight[0, 0] = 1e6
    advice = "lower training.learning_rate (0.001) or training.clip_norm (1e+30)"
    assert watched.explain(2, "boxes: NaN") == f"step 2: boxes: NaN; weights reach 1e+06 (backbone.weight); {advice}"


def test_a_start_that_is_not_finite_is_told_from_a_rate_that_is_too_high() -> None:
    watched, network = health(None, tiny(training__init_from="DETECTOR"))
    with torch.no_grad():
        network.backbone.bias[0] = math.nan
    assert watched.explain(1, "boxes: NaN") == (
        "step 1: boxes: NaN; the weights backbone.bias are not finite (1 of 4 parameters); "
        "nothing was learned yet: it started from DETECTOR"
    )
