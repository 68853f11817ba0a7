"""Learning rates, schedule and clipping of method section 8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speaq.config import TrainingConfig
from speaq.training.optimizer import clip_gradients, lr_multiplier, make_optimizer, set_learning_rate


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        self.head = nn.Linear(3, 2)
        self.backbone[0].requires_grad_(False)


def test_backbone_has_its_own_rate_and_frozen_weights_have_none() -> None:
    rest, backbone = make_optimizer(Model(), TrainingConfig(learning_rate=1e-4)).param_groups
    assert (rest["lr"], len(rest["params"])) == (1e-4, 2)
    assert (backbone["lr"], len(backbone["params"])) == (pytest.approx(1e-5), 2)
    assert rest["weight_decay"] == backbone["weight_decay"] == 1e-4


def test_published_schedule() -> None:
    config = TrainingConfig()
    assert [lr_multiplier(step, config) for step in (0, 9, 10, 95_999)] == [1.0] * 4
    assert [lr_multiplier(step, config) for step in (96_000, 149_999)] == [pytest.approx(0.1)] * 2


def test_warm_up_is_linear_and_applies_to_every_group() -> None:
    config = TrainingConfig(warmup_steps=10, warmup_factor=0.1, learning_rate=1.0, backbone_multiplier=0.5)
    optimizer = make_optimizer(Model(), config)
    set_learning_rate(optimizer, 5, config)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.55), pytest.approx(0.275)]
    assert lr_multiplier(0, config) == pytest.approx(0.1)
    assert lr_multiplier(10, config) == 1.0


def test_clipping_is_over_the_whole_model() -> None:
    model = Model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, each = clip_gradients(model, TrainingConfig(clip_norm=0.01))
    after = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert before == pytest.approx(32**0.5)
    assert each.tolist() == pytest.approx([p.numel() ** 0.5 for p in model.parameters()])
    assert after == pytest.approx(0.01, rel=1e-4)
