"""G11: a short training: losses, gradient norms and learning rates of every step, and how far every weight moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speaq.config import TrainingConfig
from speaq.losses import RELATION_NAMES, SpeaQLoss, named_parts
from speaq.model.speaq import SpeaQ
from speaq.training.step import clip_gradients, make_optimizer, set_learning_rate
from tests.golden.case import TOLERANCES, Case, Check, compare
from tests.golden.g3 import make_criterion
from tests.golden.reference_model import build_model, inputs, load_weights, samples_of, targets
from tests.helpers.reference_files import to_reference


def run(case: Case) -> list[Check]:
    model = build_model(case.config, case.arrays["in.fg_rel_count"].shape[0] - 1)
    load_weights(case, model)
    before = {name: value.clone() for name, value in to_reference(dict(model.named_parameters())).items()}
    criterion = make_criterion(case.config, case.on_device("in.fg_rel_count"))
    history = train(case, model.train(), criterion)
    after = to_reference(dict(model.named_parameters()))
    names = case.config["parameter_names"]
    moved = np.array([float((after[name] - before[name]).detach().double().norm()) for name in names])
    sizes = np.array([after[name].numel() for name in names])
    return [
        *(check for key, ours in history.items() for check in check_series(case, key, ours)),
        check_updates(case, moved, sizes),
    ]


def check_updates(case: Case, moved: NDArray[np.float64], sizes: NDArray[np.int64]) -> Check:
    """Update norms, with a floor for weights whose gradient is zero but for rounding.

    The content is zero in the first decoder layer, so its self-attention averages equal values: query and key weights
    have no gradient there, and Adam, which divides by the gradient's size, turns rounding noise into a movement of
    about 1e-5 of a full one (a full one is lr · steps · √n). Such a movement is not the reference's to reproduce.
    """
    theirs = case.arrays["out.param_update_norm"].astype(np.float64)
    full = case.config["SOLVER.BASE_LR"] * case.config["steps"] * np.sqrt(sizes)
    allowed = TOLERANCES["G11"]["update"][1] * theirs + TOLERANCES["G11"]["rounding"][1] * full
    worst = int(np.argmax(np.abs(moved - theirs) / np.maximum(allowed, np.finfo(np.float64).tiny)))
    error = abs(moved[worst] - theirs[worst]) / max(allowed[worst], np.finfo(np.float64).tiny)
    absolute = float(np.abs(moved - theirs).max())
    return Check("param_update_norm", float(error), 1.0, case.config["parameter_names"][worst], absolute)


def train(case: Case, model: SpeaQ, criterion: SpeaQLoss) -> dict[str, list[float]]:
    """{name of the output: value of every step}."""
    settings = case.config
    config = TrainingConfig(
        learning_rate=settings["SOLVER.BASE_LR"],
        backbone_multiplier=settings["SOLVER.BACKBONE_MULTIPLIER"],
        weight_decay=settings["SOLVER.WEIGHT_DECAY"],
        clip_norm=settings["CLIP_VALUE"],
        max_steps=settings["steps"],
    )
    optimizer = make_optimizer(model, config)
    history: dict[str, list[float]] = {}
    for step in range(config.max_steps):
        samples = samples_of(case, f"in.batch{step % settings['batches']}.")
        set_learning_rate(optimizer, step, config)
        outputs = model(*inputs(case, samples))
        total, parts = criterion(outputs, targets(case, samples))
        optimizer.zero_grad()
        total.backward()
        norm, _ = clip_gradients(model, config)
        optimizer.step()
        values = weighted(criterion, parts, len(outputs.subject_boxes))
        logged = sum(float(value) for name, value in parts.items() if not name.startswith("loss_"))
        values |= {"grad_norm": float(norm), "total_weighted": total.item(), "total_all_keys": total.item() + logged}
        for name, value in values.items():
            history.setdefault(name, []).append(value)
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    return history | {"lrs": [rates] * config.max_steps}  # type: ignore[dict-item]


def weighted(criterion: SpeaQLoss, parts: Mapping[str, Tensor], num_layers: int) -> dict[str, float]:
    weights = named_parts(RELATION_NAMES, criterion.loss_weights[:, :, None].expand(-1, -1, num_layers))
    return {f"loss.{name}": float(value * weights.get(name, 1.0)) for name, value in parts.items()}


def check_series(case: Case, key: str, ours: list[float]) -> list[Check]:
    """The first step is compared closely, later ones with the tolerance of totals or of single entries."""
    theirs = case.arrays[f"out.{key}"]
    later = "single" if key.startswith("loss.") else "later"
    return [
        compare(case, f"{key} first", "first", np.asarray(ours[:1]), theirs[:1]),
        compare(case, f"{key} later", later, np.asarray(ours[1:]), theirs[1:]),
    ]
