from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speaq.boxes import cxcywh_to_xyxy, giou
from speaq.config import LossConfig, MatchingConfig
from speaq.losses import DetectorLoss, SpeaQLoss, object_weights, predicate_weights
from speaq.matching.groups import make_groups
from speaq.matching.match import NonFiniteError, match
from speaq.structures import Assignment, DetectorOutputs, LayerOutputs, Target
from speaq.targets import join
from tests.helpers.matching_cases import NUM_CLASSES, PREDICATE_COUNT, random_boxes, random_case, random_target, select

CONFIG = LossConfig(weight_class=1.5, weight_predicate=0.7, weight_l1=4.0, weight_giou=1.25, no_object_weight=0.2)
DYNAMIC = MatchingConfig(num_groups=3)
WEIGHTS = predicate_weights(torch.tensor(PREDICATE_COUNT), 0.07, 1.5, 0.1)


def criterion(matching: MatchingConfig = DYNAMIC, num_queries: int = 6) -> SpeaQLoss:
    groups = make_groups(PREDICATE_COUNT, matching.num_groups, num_queries) if matching.num_groups > 1 else None
    return SpeaQLoss(CONFIG, matching, groups, 2, WEIGHTS, NUM_CLASSES)


def with_gradient(outputs: LayerOutputs) -> LayerOutputs:
    for field in fields(outputs):
        getattr(outputs, field.name).requires_grad_()
    return outputs


def naive_parts(outputs: LayerOutputs, targets: list[Target], assignment: Assignment, layer: int) -> dict[str, Tensor]:
    """Losses of one layer as method section 7 writes them, one image after the other."""
    mine = assignment.layer == layer
    image, query, relation = assignment.image[mine], assignment.query[mine], assignment.relation[mine]
    rows = [targets[i].relations[r] for i, r in zip(image.tolist(), relation.tolist(), strict=True)]
    parts = {}
    for element in ("subject", "object", "relation"):
        end = ("subject", "object", "relation").index(element)
        logits = outputs.predicate_logits[layer] if end == 2 else getattr(outputs, f"{element}_logits")[layer]
        labels = torch.full(logits.shape[:2], logits.shape[-1] - 1)
        boxes = []
        for i, q, r, row in zip(image.tolist(), query.tolist(), relation.tolist(), rows, strict=True):
            labels[i, q] = row[2] if end == 2 else targets[i].classes[row[end]]
            boxes.append(targets[i].relation_boxes[r] if end == 2 else targets[i].boxes[row[end]])
        weight = WEIGHTS if end == 2 else object_weights(NUM_CLASSES, CONFIG.no_object_weight)
        name = "loss_relation" if end == 2 else f"loss_ce_{element}"
        parts[name] = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)
        predicted, wanted = getattr(outputs, f"{element}_boxes")[layer, image, query], torch.stack(boxes)
        parts[f"loss_bbox_{element}"] = (predicted - wanted).abs().sum() / len(rows)
        overlap = giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        parts[f"loss_giou_{element}"] = (1 - overlap).sum() / len(rows)
    return parts


@pytest.mark.parametrize("independent", [True, False])
def test_parts_total_and_gradients_are_those_of_a_loop_over_layers(independent: bool) -> None:
    outputs, targets = random_case(seed=0, num_layers=3, num_queries=12, relations=(4, 0, 2))
    static = MatchingConfig(
        scheme="static", quality=None, predicate_weight=0.0, max_repeats=2, num_groups=3, independent=independent
    )
    total, parts = criterion(static)(with_gradient(outputs), join(targets))
    total.backward()
    ours = {field.name: getattr(outputs, field.name).grad.clone() for field in fields(outputs)}
    weights = {"ce": 1.5, "relation": 0.7, "bbox": 4.0, "giou": 1.25}
    assignment = match(outputs, join(targets), static, make_groups(PREDICATE_COUNT, 3, 6), 2)
    expected = torch.zeros(())
    for layer in range(3):
        for name, value in naive_parts(outputs, targets, assignment, layer).items():
            torch.testing.assert_close(parts[name + (f"_{layer}" if layer < 2 else "")], value.detach())
            expected = expected + weights[name.split("_")[1]] * value
    torch.testing.assert_close(total, expected)
    for field in fields(outputs):
        getattr(outputs, field.name).grad = None
    expected.backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, getattr(outputs, name).grad, atol=1e-6, rtol=1e-4)


def test_parts_are_named_and_carry_no_gradient() -> None:
    outputs, targets = random_case(seed=1, num_layers=2, num_queries=12, relations=(3, 1))
    total, parts = criterion()(with_gradient(outputs), join(targets))
    elements = [f"loss_{kind}_{end}" for end in ("subject", "object") for kind in ("ce", "bbox", "giou")]
    elements += ["loss_relation", "loss_bbox_relation", "loss_giou_relation"]
    names = {*elements, *(f"{name}_0" for name in elements)}
    assert parts.keys() == {*names, "class_error_subject", "class_error_object", "k_log_layer1", "k_log_layer2"}
    assert total.requires_grad
    assert all(part.shape == () and not part.requires_grad for part in parts.values())


def test_an_image_without_relations_is_background() -> None:
    outputs, targets = random_case(seed=2, num_layers=1, num_queries=12, relations=(3, 0))
    total, _ = criterion()(with_gradient(outputs), join(targets))
    total.backward()
    gradient = outputs.subject_logits.grad
    assert gradient is not None
    assert bool((gradient[0, 1, :, -1] < 0).all())  # pushed up
    assert outputs.subject_boxes.grad is not None
    assert outputs.subject_boxes.grad[0, 1].abs().sum() == 0


def test_a_batch_without_relations_has_zero_box_losses_with_gradient() -> None:
    outputs, targets = random_case(seed=3, num_layers=2, num_queries=12, relations=(0, 0))
    total, parts = criterion()(with_gradient(outputs), join(targets))
    total.backward()
    assert parts["loss_bbox_subject"] == parts["loss_giou_relation_0"] == 0
    assert parts["class_error_object"] == 100
    assert parts["k_log_layer1"] == 0
    for field in fields(outputs):
        gradient = getattr(outputs, field.name).grad
        assert gradient is not None
        assert bool((gradient != 0).any()) == field.name.endswith("logits")


def test_perfect_outputs_have_no_box_loss_and_no_class_error() -> None:
    _, targets = random_case(seed=4, num_layers=1, num_queries=4, relations=(1,))
    subject, object_, predicate = targets[0].relations[0].tolist()
    ends = [targets[0].classes[subject], targets[0].classes[object_]]
    outputs = LayerOutputs(
        *(20.0 * F.one_hot(label, NUM_CLASSES + 1).float().expand(1, 1, 4, -1) for label in ends),
        20.0 * F.one_hot(torch.tensor(predicate), len(PREDICATE_COUNT) + 1).float().expand(1, 1, 4, -1),
        *(box.expand(1, 1, 4, 4) for box in (targets[0].boxes[subject], targets[0].boxes[object_])),
        targets[0].relation_boxes[0].expand(1, 1, 4, 4),
    )
    static = MatchingConfig(scheme="static", quality=None, predicate_weight=0.0, max_repeats=4, num_groups=1)
    _, parts = criterion(static)(outputs, join(targets))
    assert parts["class_error_subject"] == parts["class_error_object"] == 0
    for name in ("bbox_subject", "bbox_relation", "giou_object", "giou_relation"):
        assert float(parts[f"loss_{name}"]) == pytest.approx(0, abs=1e-6)
    assert float(parts["loss_relation"]) < 1e-6
    assert parts["k_log_layer1"] == 4


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_losses_do_not_depend_on_the_order_of_images(seed: int) -> None:
    outputs, targets = random_case(seed, num_layers=2, num_queries=12, relations=(3, 0, 5))
    total, parts = criterion()(outputs, join(targets))
    moved, moved_parts = criterion()(select(outputs, 1, (2, 0, 1)), join([targets[i] for i in (2, 0, 1)]))
    torch.testing.assert_close(total, moved)
    for name, part in parts.items():
        torch.testing.assert_close(part, moved_parts[name])


def test_non_finite_outputs_are_refused() -> None:
    outputs, targets = random_case(seed=5, num_layers=2, num_queries=12, relations=(3,))
    outputs.subject_logits[0, 0, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="subject_logits of decoder layer 1 of 2"):
        criterion()(outputs, join(targets))


def test_class_weights_come_from_the_configuration_not_from_a_checkpoint() -> None:
    assert criterion().state_dict() == {}


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.floats(0.01, 1), st.floats(0.1, 2))
@settings(deadline=None)
def test_rarer_predicates_weigh_more(counts: list[int], oversample: float, undersample: float) -> None:
    weights = predicate_weights(torch.tensor(counts), oversample, undersample, 0.3)
    assert weights.shape == (len(counts) + 1,)
    assert weights[-1] == torch.tensor(0.3)
    ordered = weights[:-1][torch.tensor(counts).argsort()]
    assert bool((ordered.diff() <= 0).all())
    assert bool((ordered >= 1).all())


def test_weighting_is_off_at_zero() -> None:
    assert predicate_weights(torch.tensor([5, 0, 100]), 0.0, 0.0, 0.1).tolist() == pytest.approx([1, 1, 1, 0.1])


def detector_case(seed: int, num_boxes: tuple[int, ...]) -> tuple[DetectorOutputs, list[Target]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(num_boxes), 7)
    logits = torch.randn(*shape, NUM_CLASSES + 1, generator=generator)
    outputs = DetectorOutputs(logits.requires_grad_(), random_boxes(*shape, generator=generator).requires_grad_())
    return outputs, [random_target(count, 0, generator) for count in num_boxes]


def test_detector_learns_its_own_boxes() -> None:
    outputs, targets = detector_case(seed=0, num_boxes=(3, 1))
    order = [2, 0, 1]
    with torch.no_grad():
        outputs.boxes[:, 0, [4, 5, 6]] = targets[0].boxes[order]
        outputs.boxes[:, 1, [0]] = targets[1].boxes
        outputs.logits[:, 0, [4, 5, 6], targets[0].classes[order]] = 50
        outputs.logits[:, 1, 0, targets[1].classes] = 50
    total, parts = DetectorLoss(CONFIG, DYNAMIC, NUM_CLASSES)(outputs, join(targets))
    names = ("loss_ce", "loss_bbox", "loss_giou")
    assert parts.keys() == {*names, *(f"{name}_0" for name in names), "class_error"}
    for name in ("loss_bbox", "loss_giou", "loss_bbox_0", "class_error"):
        assert float(parts[name]) == pytest.approx(0, abs=1e-6)
    layers = [{name: parts[name + suffix] for name in names} for suffix in ("", "_0")]
    expected = sum(1.5 * p["loss_ce"] + 4 * p["loss_bbox"] + 1.25 * p["loss_giou"] for p in layers)
    torch.testing.assert_close(total.detach(), expected)


@pytest.mark.parametrize("num_boxes", [(0, 0), (0, 3), (9, 1)])
def test_detector_loss_of_empty_and_crowded_images_has_a_gradient(num_boxes: tuple[int, ...]) -> None:
    outputs, targets = detector_case(seed=1, num_boxes=num_boxes)
    total, _ = DetectorLoss(CONFIG, DYNAMIC, NUM_CLASSES)(outputs, join(targets))
    total.backward()
    assert outputs.logits.grad is not None
    assert outputs.boxes.grad is not None
    matched = outputs.boxes.grad[-1].abs().sum(-1) > 0
    assert matched.sum(1).tolist() == [min(count, 7) for count in num_boxes]


def _worker(rank: int, store: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    outputs, targets = random_case(seed=6, num_layers=2, num_queries=12, relations=(5, 1))
    _, parts = criterion()(select(outputs, 1, [rank]), join(targets[rank : rank + 1]))
    torch.save(parts, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_average_to_the_box_losses_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    workers = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    outputs, targets = random_case(seed=6, num_layers=2, num_queries=12, relations=(5, 1))
    _, parts = criterion()(outputs, join(targets))
    for name, value in parts.items():
        if "bbox" in name or "giou" in name:
            torch.testing.assert_close((workers[0][name] + workers[1][name]) / 2, value)
