"""G10: learning rate and weight decay of every parameter, schedule and clipping."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from speaq.config import ModelConfig, TrainingConfig
from speaq.model.reference_weights import reference_name
from speaq.model.speaq import SpeaQ
from speaq.training.step import clip_gradients, lr_multiplier, make_optimizer, parameter_groups
from tests.golden.case import Case, Check, compare


def run(case: Case) -> list[Check]:
    content = case.content
    config = training_config(content)
    with torch.device("meta"):
        model = SpeaQ(ModelConfig(frozen_stages=2), 150, 50)
    steps = list(content["lr_multiplier_at_iteration"])
    ours = [lr_multiplier(int(step), config) for step in steps]
    theirs = [content["lr_multiplier_at_iteration"][step] for step in steps]
    return [
        *check_groups(case, model, config),
        compare(case, "lr multiplier", "relative", ours, theirs),
        check_clipping(case, config, content["clip_gradients"]),
        check_defaults(content),
    ]


def training_config(content: dict[str, Any]) -> TrainingConfig:
    solver = {key.removeprefix("SOLVER."): value for key, value in content["config"].items()}
    assert solver.get("BIAS_LR_FACTOR", 1.0) == 1.0, "BIAS_LR_FACTOR other than 1 has no counterpart"
    return TrainingConfig(
        learning_rate=solver["BASE_LR"],
        backbone_multiplier=solver["BACKBONE_MULTIPLIER"],
        relation_multiplier=solver.get("RELATION_MULTIPLIER", 1.0),
        entity_multiplier=solver.get("ENTITY_MULTIPLIER", 1.0),
        weight_decay=solver["WEIGHT_DECAY"],
        decay_steps=tuple(solver["STEPS"]),
        decay_factor=solver["GAMMA"],
        warmup_steps=solver["WARMUP_ITERS"],
        warmup_factor=solver["WARMUP_FACTOR"],
        max_steps=solver["MAX_ITER"],
        clip_norm=content["clip_gradients"]["CLIP_VALUE"],
    )


def check_groups(case: Case, model: SpeaQ, config: TrainingConfig) -> list[Check]:
    names = {id(parameter): reference_name(name) for name, parameter in model.named_parameters()}
    ours = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    theirs = {entry["name"]: (entry["lr"], entry["weight_decay"]) for entry in case.content["groups_in_order"]}
    frozen = {reference_name(name) for name, parameter in model.named_parameters() if not parameter.requires_grad}
    differing = sorted(ours.keys() ^ theirs.keys()) + sorted(frozen ^ set(case.content["frozen_parameters"]))
    shared = sorted(ours.keys() & theirs.keys())
    return [
        Check("names", len(differing), detail=", ".join(differing[:3])),
        compare(case, "lr, weight decay", "relative", [ours[n] for n in shared], [theirs[n] for n in shared]),
    ]


def check_clipping(case: Case, config: TrainingConfig, expected: dict[str, Any]) -> Check:
    """The norm is the L2 norm of all gradients together."""
    assert (expected["CLIP_TYPE"], expected["NORM_TYPE"]) == ("full_model", 2.0)
    model = torch.nn.Linear(3, 4).double().to(case.device)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip_gradients(model, config)
    norm = np.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    return Check("clipped norm", abs(norm / expected["CLIP_VALUE"] - 1), 1e-5)


def check_defaults(content: dict[str, Any]) -> Check:
    model = torch.nn.Linear(1, 1)
    defaults = make_optimizer(model, TrainingConfig()).defaults
    same = list(defaults["betas"]) == content["defaults"]["betas"] and defaults["eps"] == content["defaults"]["eps"]
    return Check("betas and eps", 0.0 if same and content["optimizer"] == "AdamW" else float("inf"))
