"""Device memory of the official model: kept activations are counted, the largest batch is modelled from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from speaq.config import ModelConfig
from speaq.model.speaq import SpeaQ
from speaq.model.transformer import Attention
from tests.bench import workloads
from tests.bench.measure import MIB, Settings, Values, measure
from tests.bench.steps import SMALL

CARDS_GB = (24, 40, 80, 139)
RESERVE_MIB = 1500  # CUDA context and libraries' workspaces
SLACK = 1.15  # gradients of activations, losses, fragmentation: modelled, not measured


def memory(settings: Settings) -> Values:
    """MiB of activations that a forward pass keeps for each image of 800 × 1333 pixels, by precision, with and without
    `model.activation_checkpointing`; weights with gradients and AdamW's state; and, modelled from these, the largest
    batch on cards of 24 to 139 GB. `seconds` is a forward pass in float32.
    """
    size_hw = (96, 128) if settings.quick else (800, 1333)
    values: Values = {}
    for recompute in (False, True):
        model = _model(settings, recompute)
        fixed = state_mib(model)
        if not recompute:
            values = measure(partial(model, *_picture(size_hw)), 1, warm_up=False)
            values["weights_and_optimizer_mib"] = fixed
        for precision in (torch.float32, torch.bfloat16):
            kept, copies = kept_mib(model, size_hw, precision)
            name = str(precision).removeprefix("torch.") + ("_checkpointing" if recompute else "")
            values[f"activations_mib_per_image_{name}"] = kept
            values[f"largest_batch_modelled_{name}"] = {
                f"{card} GB": _batch(card, fixed + copies, kept) for card in CARDS_GB
            }
    return values


def _model(settings: Settings, recompute: bool) -> SpeaQ:
    changes: dict[str, Any] = SMALL if settings.quick else {}
    config = ModelConfig(**changes, activation_checkpointing=recompute)
    torch.manual_seed(0)
    model = SpeaQ(config, workloads.OBJECTS, workloads.PREDICATES).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, Attention):
            # With dropout, attention on a CPU is not fused and keeps its matrices; a GPU's never does.
            module.dropout = 0.0
    return model


def _batch(card_gb: int, fixed_mib: float, kept_mib: float) -> int:
    return max(int((card_gb * 1e9 / MIB - RESERVE_MIB - fixed_mib) / (kept_mib * SLACK)), 0)


def state_mib(model: torch.nn.Module) -> float:
    """Weights, buffers, and for what is trained a gradient and AdamW's two moments, float32."""
    weights = sum(p.numel() * (4 if p.requires_grad else 1) for p in model.parameters())
    return 4 * (weights + sum(b.numel() for b in model.buffers())) / MIB


def kept_mib(model: SpeaQ, size_hw: tuple[int, int], precision: torch.dtype) -> tuple[float, float]:
    """What the graph of one image keeps besides parameters and buffers, each storage once: activations, and copies of
    weights (scaled by a frozen norm, or in bfloat16), which a batch needs once.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    shapes = {tuple(sorted(p.shape)) for p in model.parameters() if p.dim() > 1}
    activations: dict[int, int] = {}
    copies: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept = copies if tuple(sorted(x.shape)) in shapes else activations
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    images, sizes = _picture(size_hw)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", precision, enabled=precision != torch.float32),
    ):
        outputs = model(images, sizes)
    del outputs
    return sum(activations.values()) / MIB, sum(copies.values()) / MIB


def _picture(size_hw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(256, (1, 3, *size_hw), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last), torch.tensor([size_hw])
