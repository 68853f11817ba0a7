"""AdamW with the method's parameter groups, its schedule and its clipping (method section 8)."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Literal

import torch
from torch import nn

from speaq.config import TrainingConfig

Part = Literal["rest", "relation", "entity", "backbone"]
# What the factors of method section 8 apply to, by names; a detector's queries become the subject queries.
RELATION = re.compile(
    r"transformer\.(predicate_head\.|relation_queries$|decoder\.(relation_norm\.|layers\.\d+\.(refinements\.)?relation"
    r"(_conditioning)?\.))"
)
ENTITY = re.compile(r"transformer\.(encoder\.(layers|norm)\.|(subject_)?queries$)")


def part_of(name: str) -> Part:
    """Which part of the network a parameter belongs to, by its name; `rest` is trained at the base learning rate."""
    if name.startswith("backbone."):
        return "backbone"
    if RELATION.match(name):
        return "relation"
    return "entity" if ENTITY.match(name) else "rest"


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, object]]:
    """Trainable parameters in groups of one learning rate each, parts of the same rate together.

    Weight decay applies to every parameter, norms and biases included, as in the reference (golden G10).
    """
    factors: dict[Part, float] = {
        "rest": 1.0,
        "relation": config.relation_multiplier,
        "entity": config.entity_multiplier,
        "backbone": config.backbone_multiplier * config.entity_multiplier,
    }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            groups.setdefault((part == "backbone", factors[part]), []).append(parameter)
    in_order = sorted(groups, key=lambda key: (key[0], key[1] != 1, key[1]))  # first what learns at the base rate
    rates = [config.learning_rate * factor for _, factor in in_order]
    return [
        {"params": groups[key], "lr": rate, "base_lr": rate, "weight_decay": config.weight_decay}
        for key, rate in zip(in_order, rates, strict=True)
    ]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.999), eps 1e-8, in its fused form."""
    return torch.optim.AdamW(parameter_groups(model, config), fused=True)


def lr_multiplier(step: int, config: TrainingConfig) -> float:
    """Factor of the learning rate at the 0-based `step`: linear warm-up, then a multi-step decay (golden G10)."""
    factor = config.decay_factor ** bisect_right(config.decay_steps, step)
    if step < config.warmup_steps:
        done = step / config.warmup_steps
        factor *= config.warmup_factor * (1 - done) + done
    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainingConfig) -> None:
    """Sets every group's learning rate for the 0-based `step`."""
    factor = lr_multiplier(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(model: nn.Module, config: TrainingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales the gradients of the whole model to at most `clip_norm`.

    Returns:
        The norm before, a 0-d tensor, and [N] the norm of every parameter that has a gradient, in the model's order.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(norms)
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, norm, foreach=True)
    return norm, norms
