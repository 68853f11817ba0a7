"""AdamW with the method's parameter groups, its schedule and its clipping (method section 8)."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import nn

from speaq.config import TrainingConfig


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, object]]:
    """Trainable parameters in two groups: everything else, and the backbone at its own learning rate.

    Weight decay applies to every parameter, norms and biases included, as in the reference (golden G10).
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    backbone = [p for name, p in trainable if name.startswith("backbone.")]
    rest = [p for name, p in trainable if not name.startswith("backbone.")]
    rates = (config.learning_rate, config.learning_rate * config.backbone_multiplier)
    return [
        {"params": params, "lr": rate, "base_lr": rate, "weight_decay": config.weight_decay}
        for params, rate in zip((rest, backbone), rates, strict=True)
        if params
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
