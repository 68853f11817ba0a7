"""G7: whole model: names and shapes, raw outputs, final lists, training losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from speaq.config import InferenceConfig
from speaq.inference import decode
from speaq.losses import RELATION_NAMES, named_parts
from speaq.model.reference_weights import UNUSED, reference_name
from speaq.model.speaq import SpeaQ
from speaq.structures import LayerOutputs, Sample
from tests.golden.case import OUTPUTS, Case, Check, compare
from tests.golden.g3 import make_criterion
from tests.golden.reference_model import build_model, inputs, load_weights, samples_of, targets

# The reference's final lists → our field and how it is compared.
FINAL: Mapping[str, tuple[str, str]] = {
    "boxes": ("boxes_xyxy", "pixel"),
    "scores": ("scores", "score"),
    "classes": ("classes", "exact"),
    "rel_pair_idxs": ("pairs", "exact"),
    "rel_labels": ("predicates", "exact"),
    "query_index": ("query_index", "exact"),
}


def run(case: Case) -> list[Check]:
    if case.file.suffix == ".json":
        return [check_names(case.content)]
    model = build_model(case.config, case.arrays["in.fg_rel_count"].shape[0] - 1)
    load_weights(case, model)
    samples = samples_of(case)
    finals = [check for n, sample in enumerate(samples) for check in check_final(case, model, n, sample)]
    return [*check_raw(case, model, samples), *finals, *check_losses(case, model, samples)]


def check_names(content: Mapping[str, Any]) -> Check:
    """Every entry of the state dict: shape, dtype, parameter or buffer, trainable."""
    expected = {entry["name"]: entry for entry in content["entries"]}
    num_predicates = expected["detr.transformer.relation_embed.bias"]["shape"][0] - 1
    with torch.device("meta"):
        entries = state_entries(build_model(content["config"], num_predicates))
    expected = {name: entry for name, entry in expected.items() if name not in UNUSED}
    names = sorted(entries.keys() | expected.keys())
    wrong = [name for name in names if entries.get(name) != expected.get(name)]
    return Check("names and shapes", len(wrong), detail=", ".join(wrong[:3]))


def state_entries(model: nn.Module) -> dict[str, dict[str, Any]]:
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return {
        reference_name(name): {
            "name": reference_name(name),
            "shape": list(value.shape),
            "dtype": str(value.dtype).removeprefix("torch."),
            "kind": "parameter" if name in trainable else "buffer",
            "requires_grad": trainable.get(name, False),
        }
        for name, value in model.state_dict().items()
    }


def check_raw(case: Case, model: SpeaQ, samples: list[Sample]) -> list[Check]:
    """Outputs of the padded batch in evaluation mode, last and first layer; of large cases every n-th query."""
    with torch.inference_mode():
        outputs: LayerOutputs = model.eval()(*inputs(case, samples))
    checks = []
    for field, name in OUTPUTS.items():
        ours, quantity = getattr(outputs, field), "boxes" if field.endswith("boxes") else "logits"
        for layer, label in ((-1, f"out.raw.{name}"), (0, f"out.raw.aux0.{name}")):
            if label in case.arrays:
                expected = case.arrays[label]
                step = ours.shape[2] // expected.shape[1]
                checks.append(compare(case, label, quantity, ours[layer, :, ::step], expected))
    return checks


def check_final(case: Case, model: SpeaQ, n: int, sample: Sample) -> list[Check]:
    """Final lists of one image, run alone."""
    with torch.inference_mode():
        outputs: LayerOutputs = model.eval()(*inputs(case, [sample]))
    config = InferenceConfig(nms_threshold=case.config.get("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5))
    scene = decode(outputs, [sample.original_hw], config)[0]
    theirs = {name: case.arrays[f"out.{n}.{name}"] for name in ("rel_scores", *FINAL)}
    shown = len(theirs["rel_scores"])  # large cases store the first rows alone
    return [
        *(
            compare(case, f"{n}.{name}", quantity, getattr(scene, field), theirs[name])
            for name, (field, quantity) in FINAL.items()
        ),
        compare(case, f"{n}.rel_scores", "score", scene.predicate_scores[:shown], theirs["rel_scores"]),
    ]


def check_losses(case: Case, model: SpeaQ, samples: list[Sample]) -> list[Check]:
    """Weighted losses of the padded batch in training mode, and the class weights behind them."""
    criterion = make_criterion(case.config, case.on_device("in.fg_rel_count"))
    with torch.no_grad():
        outputs: LayerOutputs = model.train()(*inputs(case, samples))
        _, parts = criterion(outputs, targets(case, samples))
    expanded = criterion.loss_weights[:, :, None].expand(-1, -1, len(outputs.subject_boxes))
    weights = named_parts(RELATION_NAMES, expanded)
    ours = {name: value * weights.get(name, 1.0) for name, value in parts.items()}
    theirs = {name.removeprefix("out.loss."): x for name, x in case.arrays.items() if name.startswith("out.loss.")}
    names = ours.keys() ^ theirs.keys()
    buffers = (
        ("state.criterion.empty_weight_obj", criterion.object_class_weights),
        ("state.criterion.empty_rel_weight", criterion.predicate_class_weights),
    )
    return [
        Check("loss keys", len(names), detail=", ".join(sorted(names)[:3])),
        *(compare(case, name, "loss", ours[name], theirs[name]) for name in ours if name in theirs),
        *(compare(case, name, "loss", x, case.arrays[name]) for name, x in buffers if name in case.arrays),
    ]
