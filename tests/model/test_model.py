from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.backbone import Normalise, ResNet
from speaq.model.detector import Detector, replicate
from speaq.model.position import padding_mask, sine_position
from speaq.model.speaq import SpeaQ
from speaq.model.transformer import Attention
from speaq.structures import LayerOutputs

C, P = 7, 5
TINY: dict[str, Any] = {
    "backbone": "small",
    "frozen_stages": 0,
    "hidden_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 24,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "dropout": 0.0,
    "num_queries": 6,
}


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(TINY | changes))


def build(seed: int = 0, **changes: Any) -> SpeaQ:
    """A model whose conditioning and refinement are not at their initial zero."""
    torch.manual_seed(seed)
    model = SpeaQ(config(**changes), C, P)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_uniform_(parameter)
    return model.eval()


def batch(count: int = 2, height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[height, width], [height - 16, width - 10]] * count)[:count]
    return images, sizes


def tensors(outputs: LayerOutputs) -> dict[str, Tensor]:
    return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"query_multiple": 1}, 6),
        ({"query_multiple": 3}, 18),
        ({"query_multiple": 2, "multiply_queries": "all"}, 12),
        ({"query_multiple": 2, "pre_norm": True, "num_encoder_layers": 0, "num_decoder_layers": 1}, 12),
        ({"query_multiple": 2, "reference_points": True, "dropout": 0.5}, 12),
    ],
)
def test_all_outputs_have_r_rows_and_boxes_lie_in_the_unit_square(changes: dict[str, Any], rows: int) -> None:
    num_layers = config(**changes).num_decoder_layers
    outputs = tensors(build(**changes)(*batch()))
    for name, value in outputs.items():
        channels = 4 if name.endswith("boxes") else (P if name == "predicate_logits" else C) + 1
        assert value.shape == (num_layers, 2, rows, channels), name
        if name.endswith("boxes"):
            assert ((value >= 0) & (value <= 1)).all()


def test_subject_and_object_rows_are_repeated_in_place() -> None:
    outputs = tensors(build(query_multiple=3)(*batch()))
    for name in ("subject_logits", "object_logits", "subject_boxes", "object_boxes"):
        rows = outputs[name].unflatten(2, (6, 3))
        assert (rows == rows[:, :, :, :1]).all()
    assert not torch.equal(outputs["relation_boxes"][:, :, 0], outputs["relation_boxes"][:, :, 1])


def test_queries_of_fully_multiplied_sets_are_all_different() -> None:
    subject_boxes = build(query_multiple=2, multiply_queries="all")(*batch()).subject_boxes
    assert len(subject_boxes[-1, 0].unique(dim=0)) == 12


def test_order_of_images_does_not_matter() -> None:
    model, (images, sizes) = build(), batch(3)
    forward, backward = model(images, sizes), model(images.flip(0), sizes.flip(0))
    for ours, theirs in zip(tensors(forward).values(), tensors(backward).values(), strict=True):
        torch.testing.assert_close(ours, theirs.flip(1), rtol=1e-4, atol=1e-5)


def test_order_of_queries_does_not_matter() -> None:
    model, inputs = build(query_multiple=2), batch()
    before = model(*inputs)
    order = torch.randperm(6)
    relation_order = (order[:, None] * 2 + torch.arange(2)).flatten()
    with torch.no_grad():
        for queries in (model.transformer.subject_queries, model.transformer.object_queries):
            queries.copy_(queries[order].clone())
        model.transformer.relation_queries.copy_(model.transformer.relation_queries[relation_order].clone())
    for ours, theirs in zip(tensors(model(*inputs)).values(), tensors(before).values(), strict=True):
        torch.testing.assert_close(ours, theirs[:, :, relation_order], rtol=1e-4, atol=1e-5)


def test_what_lies_in_the_padding_does_not_matter() -> None:
    model, (images, sizes) = build(), batch()
    other = images.clone()
    other[1, :, sizes[1, 0] :] = 255
    other[1, :, :, sizes[1, 1] :] = 77
    for ours, theirs in zip(tensors(model(images, sizes)).values(), tensors(model(other, sizes)).values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padding_changes_nothing_where_the_features_are_the_same(pre_norm: bool) -> None:
    transformer = build(pre_norm=pre_norm).transformer
    features = torch.randn(1, 96, 3, 4)
    alone = transformer(features, torch.zeros(1, 3, 4, dtype=torch.bool))
    padding = torch.ones(2, 5, 6, dtype=torch.bool)
    padding[0] = False
    padding[1, :3, :4] = False
    wider = torch.randn(2, 96, 5, 6)
    wider[1, :, :3, :4] = features[0]
    padded = transformer(wider, padding)
    for ours, theirs in zip(tensors(padded).values(), tensors(alone).values(), strict=True):
        torch.testing.assert_close(ours[:, 1:], theirs, rtol=1e-4, atol=1e-5)


def test_every_trainable_parameter_has_a_gradient_and_frozen_ones_none() -> None:
    torch.manual_seed(0)
    model = SpeaQ(config(backbone="resnet18", frozen_stages=2, reference_points=True), C, P)
    sum(value.sum() for value in tensors(model(*batch(height=64, width=64))).values()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}


def test_conditioning_and_refinement_start_at_zero() -> None:
    model = SpeaQ(config(), C, P)
    zero = {name for name, parameter in model.named_parameters() if parameter.dim() > 1 and not parameter.any()}
    assert len(zero) == 2 * 2 + 3
    assert all(name.endswith("output.weight") for name in zero)


def test_the_encoder_takes_halves_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = build()(*batch())
    assert all(value.isfinite().all() for value in tensors(outputs).values())


def test_float_images_equal_bytes() -> None:
    model, (images, sizes) = build(), batch()
    for ours, theirs in zip(
        tensors(model(images.float(), sizes)).values(), tensors(model(images, sizes)).values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_normalised_padding_is_zero() -> None:
    images, sizes = batch()
    normalised = Normalise()(images, sizes)
    height, width = sizes[1].tolist()
    assert not normalised[1, :, height:].any()
    assert not normalised[1, :, :, width:].any()
    assert normalised[1, :, :height, :width].abs().min() > 0


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_take_torchvisions_weights_and_give_its_features(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(norm_layer=torchvision.ops.FrozenBatchNorm2d).eval()
    for module in theirs.modules():
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
            module.weight.uniform_(0.2, 0.6)
    ours = ResNet(int(name[6:]))
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 70, 90)
    with torch.inference_mode():
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
        features = ours(images)
    assert features.shape == (2, ours.out_channels, math.ceil(70 / 32), math.ceil(90 / 32))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet101", "small"])
def test_random_backbones_keep_the_scale_of_their_input(name: str) -> None:
    torch.manual_seed(0)
    frozen = 0 if name == "small" else 2
    features = SpeaQ(config(backbone=name, frozen_stages=frozen), C, P).backbone(torch.randn(1, 3, 96, 96))
    assert 0.05 < features.std() < 20


def test_frozen_small_backbone_is_refused() -> None:
    with pytest.raises(ValidationError, match="small needs frozen_stages 0"):
        config(frozen_stages=1)


@pytest.mark.parametrize("source_dim", [None, 24])
def test_attention_equals_pytorchs(source_dim: int | None) -> None:
    torch.manual_seed(0)
    ours = Attention(16, 4, 0.0, source_dim)
    theirs = nn.MultiheadAttention(16, 4, kdim=source_dim, vdim=source_dim, batch_first=True)
    theirs.load_state_dict(theirs.state_dict() | {"in_proj_bias": torch.randn(48)})
    ours.load_state_dict(theirs.state_dict())
    query, source = torch.randn(1, 5, 16), torch.randn(3, 7, source_dim or 16)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    expected, _ = theirs(query.expand(3, -1, -1), source, source, key_padding_mask=padding)
    found = ours(query, source, source, ~padding[:, None, None, :])
    torch.testing.assert_close(found, expected)
    if source_dim is None:
        itself, _ = theirs(source, source, source * 2)
        torch.testing.assert_close(ours(source, source, source * 2), itself)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([16, 32]))
@settings(max_examples=50, deadline=None)
def test_padding_starts_at_the_ceiling(height: int, width: int, stride: int) -> None:
    cells = (math.ceil(200 / stride), math.ceil(200 / stride))
    mask = padding_mask(torch.tensor([[height, width]]), cells, stride)
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    assert int((~mask).sum()) == rows * columns
    assert not mask[0, :rows, :columns].any()


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([4, 12, 16]))
@settings(max_examples=25, deadline=None)
def test_position_depends_on_the_image_alone(height: int, width: int, channels: int) -> None:
    padding = torch.ones(1, 7, 8, dtype=torch.bool)
    padding[:, :height, :width] = False
    padded = sine_position(padding, channels)
    alone = sine_position(torch.zeros(1, height, width, dtype=torch.bool), channels)
    torch.testing.assert_close(padded[:, :height, :width], alone)
    assert padded.abs().max() <= 1


@pytest.mark.parametrize("changes", [{}, {"pre_norm": True}, {"reference_points": True}, {"query_multiple": 1}])
def test_a_replicated_detector_predicts_its_boxes_in_the_first_layer(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    detector, model = Detector(config(**changes), C).eval(), SpeaQ(config(**changes), C, P).eval()
    replicate(detector.state_dict(), model)
    multiple = config(**changes).query_multiple
    found, outputs = detector(*batch()), model(*batch())
    for logits in (outputs.subject_logits, outputs.object_logits):
        torch.testing.assert_close(logits[0], found.logits[0].repeat_interleave(multiple, dim=1), rtol=1e-4, atol=1e-5)
    boxes = found.boxes[0].repeat_interleave(multiple, dim=1)
    for ours in (outputs.subject_boxes, outputs.object_boxes, outputs.relation_boxes):
        torch.testing.assert_close(ours[0], boxes, rtol=1e-4, atol=1e-5)


def test_replication_keeps_queries_whose_number_differs() -> None:
    model = SpeaQ(config(num_queries=8), C, P)
    before = model.transformer.subject_queries.clone()
    replicate(Detector(config(), C).state_dict(), model)
    assert torch.equal(model.transformer.subject_queries, before)


@pytest.mark.parametrize(
    ("changes", "num_classes", "message"),
    [
        ({}, C + 1, "class_head.weight of the detector has shape"),
        ({"hidden_dim": 32}, C, "has shape"),
        ({"num_decoder_layers": 3}, C, "which the model has not"),
        ({"num_decoder_layers": 1}, C, "which the model needs"),
        ({"reference_points": True}, C, "which the model has not"),
        ({"backbone": "resnet18"}, C, "which the model has not"),
    ],
)
def test_another_detector_is_refused_and_changes_nothing(
    changes: dict[str, Any], num_classes: int, message: str
) -> None:
    model = SpeaQ(config(), C, P)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        replicate(Detector(config(**changes), num_classes).state_dict(), model)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
