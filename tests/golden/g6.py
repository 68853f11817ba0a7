"""G6: transformer, heads and position encoding on given features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from speaq.config import ModelConfig
from speaq.model.position import sine_position
from speaq.model.reference_weights import from_reference
from speaq.model.speaq import SceneGraphTransformer
from speaq.structures import LayerOutputs
from tests.golden.case import OUTPUTS, Case, Check, compare


def run(case: Case) -> list[Check]:
    if "out.pos" in case.arrays:
        return [check_position(case, "out.pos")]
    return [check_position(case, "in.pos"), *check_outputs(case, transform(case))]


def check_position(case: Case, name: str) -> Check:
    expected = case.arrays[name]
    ours = sine_position(case.on_device("in.mask").bool(), expected.shape[1])
    return compare(case, name, "position", ours.permute(0, 3, 1, 2), expected)


def transform(case: Case) -> LayerOutputs:
    config, features = case.config, case.on_device("in.features")
    prefix = "transformer."
    model = SceneGraphTransformer(
        model_config(config), features.shape[1], config["NUM_CLASSES"], config["NUM_RELATION_CLASSES"]
    )
    states = {f"detr.{name[6:]}": case.tensor(name) for name in case.arrays if name.startswith("state.")}
    model.load_state_dict({name.removeprefix(prefix): value for name, value in from_reference(states).items()})
    with torch.inference_mode():
        outputs: LayerOutputs = model.to(case.device).eval()(features, case.on_device("in.mask").bool())
    return outputs


def model_config(settings: Mapping[str, Any], **others: Any) -> ModelConfig:
    """Our configuration for the reference's settings (keys without their prefix)."""
    multiple = settings.get("MULTIPLY_QUERY", 1)
    queries = settings["NUM_OBJECT_QUERIES"]
    assert settings.get("NUM_RELATION_QUERIES", queries) == queries, "relation queries are counted by the multiple"
    relation_only = settings.get("ONLY_PREDICATE_MULTIPLY", True) or multiple == 1
    return ModelConfig(
        hidden_dim=settings["HIDDEN_DIM"],
        num_heads=settings["NHEADS"],
        feedforward_dim=settings["DIM_FEEDFORWARD"],
        num_encoder_layers=settings["ENC_LAYERS"],
        num_decoder_layers=settings["DEC_LAYERS"],
        dropout=settings.get("DROPOUT", 0.0),
        num_queries=queries,
        query_multiple=multiple,
        multiply_queries="relation" if relation_only else "all",
        pre_norm=settings.get("PRE_NORM", False),
        **others,
    )


def check_outputs(case: Case, outputs: LayerOutputs) -> list[Check]:
    checks = []
    errors = case.config.get("properties", {}).get("float32_vs_float64_max_abs_error", {})
    for field, name in OUTPUTS.items():
        ours = getattr(outputs, field)
        checks.append(
            _widen(compare(case, f"out.{name}", "output", ours[-1], case.arrays[f"out.{name}"]), errors[name])
        )
        if f"out.aux.{name}" in case.arrays:
            aux = compare(case, f"out.aux.{name}", "output", ours[:-1], case.arrays[f"out.aux.{name}"])
            checks.append(_widen(aux, errors[name]))
    return checks


def _widen(check: Check, float64_error: float) -> Check:
    """The group's tolerance is 10 times the reference's own distance from float64, at least the table's."""
    return replace(check, tolerance=max(check.tolerance, 10 * float64_error))
