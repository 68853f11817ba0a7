"""Activation checkpointing changes memory, not results."""

from __future__ import annotations

import pytest
import torch

from speaq.model.speaq import SpeaQ
from speaq.structures import LayerOutputs
from tests.helpers.tiny import tiny

CLASSES, PREDICATES = 5, 4


def model(recompute: bool, **changes: object) -> SpeaQ:
    torch.manual_seed(0)
    return SpeaQ(tiny(model__activation_checkpointing=recompute, **changes).model, CLASSES, PREDICATES)


def kept_bytes_and_gradients(network: SpeaQ) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes that the forward pass keeps (parameters left out), and the gradients of a sum of all outputs."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    torch.manual_seed(1)
    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        outputs: LayerOutputs = network(images, torch.tensor([[64, 96], [50, 96]]))
    torch.stack([value.sigmoid().square().sum() for value in vars(outputs).values()]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return sum(kept.values()), gradients


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_the_same_bit_for_bit_and_less_is_kept(backbone: str, dropout: float) -> None:
    changes = {"model__backbone": backbone, "model__dropout": dropout}
    plain_bytes, plain = kept_bytes_and_gradients(model(False, **changes))
    small_bytes, again = kept_bytes_and_gradients(model(True, **changes))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert small_bytes < plain_bytes / 2


def test_frozen_stages_still_get_no_gradient() -> None:
    _, gradients = kept_bytes_and_gradients(model(True, model__backbone="resnet18", model__frozen_stages=2))
    assert not [name for name in gradients if name.startswith(("backbone.conv1", "backbone.layer1"))]
    assert [name for name in gradients if name.startswith("backbone.layer2")]
