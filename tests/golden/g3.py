"""G3: losses, their gradients, class weights and loss weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from speaq.config import LossConfig, MatchingConfig
from speaq.losses import RELATION_NAMES, SpeaQLoss, named_parts, object_weights, predicate_weights
from speaq.structures import LayerOutputs
from speaq.targets import join
from tests.golden.case import OUTPUTS, Case, Check, compare
from tests.golden.g2 import groups_of, matching_config, read_outputs, read_targets

REFERENCE_PAIR = (0.07, 1.5)  # OVERSAMPLE_PARAM, UNDERSAMPLE_PARAM of the README's command


def run(case: Case) -> list[Check]:
    if case.file.suffix == ".json":
        return [check for name, entry in case.content.items() for check in check_loss_weights(name, entry)]
    if "pairs_oversample_undersample" in case.config:
        return check_class_weights(case)
    return check_losses(case)


def check_losses(case: Case) -> list[Check]:
    outputs, criterion = read_outputs(case, aux=True), make_criterion(case.config, case.on_device("in.fg_rel_count"))
    for field in fields(outputs):
        getattr(outputs, field.name).requires_grad_()
    total, parts = criterion(outputs, join(read_targets(case)))
    total.backward()
    logged = sum(float(value) for name, value in parts.items() if not name.startswith("loss_"))
    expected = {name: case.arrays[f"out.loss.{name}"] for name in case.config["loss_keys_in_order"]}
    wrong = sorted(expected.keys() ^ parts.keys())
    return [
        Check("loss keys", len(wrong), detail=", ".join(wrong[:3])),
        *(compare(case, name, "loss", parts[name], expected[name]) for name in parts if name in expected),
        compare(case, "total_weighted", "loss", total, case.arrays["out.total_weighted"]),
        compare(case, "total_all_keys", "loss", total + logged, case.arrays["out.total_all_keys"]),
        compare(
            case, "empty_rel_weight", "weight", criterion.predicate_class_weights, case.arrays["out.empty_rel_weight"]
        ),
        *check_gradients(case, outputs),
    ]


def check_gradients(case: Case, outputs: LayerOutputs) -> list[Check]:
    checks = []
    for field, name in OUTPUTS.items():
        gradient = getattr(outputs, field).grad
        for key, ours in ((f"grad.{name}", gradient[-1]), (f"grad.aux.{name}", gradient[:-1])):
            if f"out.{key}" in case.arrays:
                checks.append(compare(case, key, "gradient", ours, case.arrays[f"out.{key}"]))
    return checks


def make_criterion(settings: Mapping[str, Any], predicate_count: Tensor) -> SpeaQLoss:
    """Our loss at the settings of a case and the counts [P+1] of its training set, on their device."""
    config = loss_config(settings)
    weights = predicate_weights(
        predicate_count[:-1].cpu(), config.oversample, config.undersample, config.no_relation_weight
    )
    matching, groups = matching_config(settings), groups_of(settings)
    multiple, num_classes = settings["MODEL.DETR.MULTIPLY_QUERY"], settings["MODEL.DETR.NUM_CLASSES"]
    return SpeaQLoss(config, matching, groups, multiple, weights, num_classes).to(predicate_count.device)


def loss_config(settings: Mapping[str, Any]) -> LossConfig:
    """Our loss weights at the settings of a case; the reference takes its matching costs for them."""
    detr = {key.removeprefix("MODEL.DETR."): value for key, value in settings.items()}
    over, under = (
        float(detr.get(name, default))
        for name, default in zip(("OVERSAMPLE_PARAM", "UNDERSAMPLE_PARAM"), REFERENCE_PAIR, strict=True)
    )
    reweight = detr.get("REWEIGHT_RELATIONS", True) and over > 0 and under > 0
    return LossConfig(
        weight_class=float(detr.get("COST_CLASS", 1.0)),
        weight_l1=float(detr.get("L1_WEIGHT", 5.0)),
        weight_giou=float(detr.get("GIOU_WEIGHT", 2.0)),
        no_object_weight=float(detr.get("NO_OBJECT_WEIGHT", 0.1)),
        no_relation_weight=float(detr.get("REWEIGHT_REL_EOS_COEF", 0.1)),
        oversample=over if reweight else 0.0,
        undersample=under if reweight else 0.0,
    )


def check_class_weights(case: Case) -> list[Check]:
    count = case.tensor("in.fg_rel_count")[:-1]
    checks = []
    for key, expected in case.arrays.items():
        switched = re.fullmatch(r"out\.(on|off)_eos([\d.]+)_noobj([\d.]+)_norel[\d.]+\.empty_(rel|weight)_\w+", key)
        pair = re.fullmatch(r"out\.(\d+)\.empty_rel_weight", key)
        if pair:
            over, under = case.config["pairs_oversample_undersample"][int(pair[1])]
            ours = predicate_weights(count, over, under, 0.1)
        elif switched and switched[4] == "rel":
            over, under = REFERENCE_PAIR if switched[1] == "on" else (0.0, 0.0)
            ours = predicate_weights(count, over, under, float(switched[2]))
        elif switched:
            ours = object_weights(len(expected) - 1, float(switched[3]))
        else:
            continue
        checks.append(compare(case, key, "weight", ours, expected))
    return checks


def check_loss_weights(name: str, entry: Mapping[str, Any]) -> list[Check]:
    """Every loss that we have carries the reference's weight; losses it lists but never makes are not compared."""
    config, expected = entry["config"], entry["weight_dict"]
    num_layers = config.get("DEC_LAYERS", 6) if config.get("DEEP_SUPERVISION", True) else 1
    criterion = SpeaQLoss(loss_config(config), MatchingConfig(), None, 1, object_weights(1, 0.1), 1)
    ours = named_parts(RELATION_NAMES, criterion.loss_weights[:, :, None].expand(-1, -1, num_layers))
    return [
        Check(f"{name}.{key}", abs(float(weight) - expected.get(key, float("inf")))) for key, weight in ours.items()
    ]
