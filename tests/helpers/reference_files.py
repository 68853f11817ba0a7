"""Checkpoints as the reference writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speaq import config as configs
from speaq.model.reference_weights import reference_name
from speaq.model.speaq import SpeaQ
from speaq.training import checkpoint

C, P = 7, 5


SHAPE: dict[str, Any] = {
    "backbone": "resnet18",
    "hidden_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 24,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_queries": 6,
}


HEADS = "model: {num_heads: 2}\n"


def shape(**changes: Any) -> configs.ModelConfig:
    return configs.ModelConfig(**(SHAPE | changes))


def build(num_objects: int = C, num_predicates: int = P, **changes: Any) -> SpeaQ:
    """A model whose every parameter differs from its initial value."""
    torch.manual_seed(0)
    model = SpeaQ(shape(**changes), num_objects, num_predicates)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


def written(run: Path) -> tuple[dict[str, Any], SpeaQ]:
    """A run's checkpoint, and the model that it makes."""
    content = checkpoint.load(run / "checkpoints" / "best.pt")
    config = configs.from_dict(content["config"])
    assert config == configs.load(run / "config.yaml")
    state = content["model"]
    num_objects, num_predicates = (
        len(state[f"transformer.{head}.bias"]) - 1 for head in ("class_head", "predicate_head")
    )
    model = SpeaQ(config.model, num_objects, num_predicates)
    model.load_state_dict(state)
    return content, model.eval()


def assert_same_outputs(one: SpeaQ, other: SpeaQ) -> None:
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[64, 90]])
    with torch.inference_mode():
        for ours, theirs in zip(vars(one(images, sizes)).values(), vars(other(images, sizes)).values(), strict=True):
            assert ours.isfinite().all()
            assert torch.equal(ours, theirs)


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `SpeaQ` under the reference's names; the inverse of `from_reference`."""
    return {reference_name(name): value for name, value in state.items()}
