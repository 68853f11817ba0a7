"""Networks, costs, losses, optimizer steps and decoding on a CUDA device that is not there.

PyTorch's fake tensors know shape, type and device, and have no numbers. An operator whose inputs lie on different
devices raises there as it would on a GPU. Four things are cut, exactly there:

- the assignment, which SciPy solves on the host: `_pairs` is given the pairs of an assignment in order (query n learns
  row n) on the fake device instead of the costs' solution; the costs themselves are computed;
- the backward pass: PyTorch's engine, which no fake replaces, asks for the context of a real device; gradients are
  given instead, to clip and to step with;
- the scaler's step, which asks whether a gradient was infinite;
- what depends on how many boxes suppression keeps (`rank_triplets`): decoding is followed up to `query_outputs`'
  tensors, without its look at whether they are finite.

A frozen encoder looks at each picture by itself and asks for its size (`_apart`), so a frozen network is given the
stored outputs of its frozen parts, and these parts (`cells`) one picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from speaq import config as configs
from speaq.config import BASELINE, Config
from speaq.inference import query_outputs
from speaq.losses import DetectorLoss
from speaq.matching.match import Pairs
from speaq.matching.rows import Queries, Truth
from speaq.model.detector import Detector
from speaq.model.speaq import SpeaQ
from speaq.structures import LayerOutputs, Targets
from speaq.training.step import clip_gradients, make_optimizer
from speaq.training.tasks import make_criterion
from tests.helpers.tiny import TINY, tiny
from tests.helpers.waits import NUM_CLASSES, NUM_PREDICATES, VOCABULARY

CONFIGS = {
    "speaq": tiny(matching__num_groups=2),
    "no groups": tiny(matching__num_groups=1),
    "baseline": configs.apply(configs.apply(Config(), BASELINE), TINY),
    "checkpointing": tiny(matching__num_groups=2, model__activation_checkpointing=True),
    "frozen": tiny(matching__num_groups=2, model__frozen=["backbone", "encoder"], training__init_from="start"),
    "resnet": tiny(matching__num_groups=2, model__backbone="resnet18", model__frozen_stages=2),
}


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assignment is given instead of solved, see above; host numbers go to the device without pinned memory."""

    def pairs(
        costs: list[Tensor], repeats: Tensor, group: Tensor, bounds: Any, queries: Queries, truth: Truth
    ) -> Pairs:
        num_layers, _, num_queries = queries.shape
        assert all(cost.device == truth.image.device == repeats.device == group.device for cost in costs)
        assert sum(cost.shape[1] for cost in costs) == len(truth.image)
        rows = torch.arange(len(truth.image), device=truth.image.device)
        layer = torch.arange(num_layers, device=rows.device).repeat_interleave(len(rows))
        row = rows.repeat(num_layers)
        query = (layer * len(truth.counts) + truth.image[row]) * num_queries + row
        number = torch.full((num_layers,), len(rows), device=rows.device)
        by_group = np.zeros((len(bounds) - 1, len(bounds)), dtype=np.int64)
        return Pairs(layer, query, row, number, num_pairs_last=len(rows), by_group=by_group)

    monkeypatch.setattr("speaq.matching.match._pairs", pairs)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)


@contextlib.contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """`torch.autocast` on CUDA, which PyTorch turns off where there is no device."""
    torch.set_autocast_dtype("cuda", torch.float16 if dtype == torch.float32 else dtype)
    torch.set_autocast_enabled("cuda", dtype != torch.float32)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def targets() -> Targets:
    """Two images, four boxes and three relations each."""
    boxes, rows = torch.rand(8, 4, device="cuda"), torch.tensor([[0, 1, 2], [1, 2, 0], [3, 0, 5]] * 2, device="cuda")
    return Targets(torch.zeros(8, dtype=torch.int64, device="cuda"), boxes, rows, boxes[:6], (4, 4), (3, 3))


def inputs(config: Config) -> tuple[Tensor, Tensor, bool]:
    """Two pictures of two sizes, or what frozen parts have made of them."""
    sizes = torch.tensor([[48, 64], [40, 64]], device="cuda")
    if config.model.frozen:
        return torch.rand(2, 3, 4, config.model.hidden_dim, device="cuda"), sizes, True
    return torch.zeros(2, 3, 48, 64, dtype=torch.uint8, device="cuda"), sizes, False


def give_gradients(model: torch.nn.Module) -> None:
    """Every trained parameter gets a gradient on its device."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def on_device(outputs: Any) -> bool:
    return all(value.device.type == "cuda" for value in vars(outputs).values())


HALVES = [("speaq", torch.float16), ("checkpointing", torch.bfloat16), ("frozen", torch.float16)]


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in CONFIGS), *HALVES], ids=str)
def test_a_step_and_decoding_mix_no_devices(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS[name]
    counts = np.arange(NUM_PREDICATES, -1, -1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = SpeaQ(config.model, NUM_CLASSES, NUM_PREDICATES).train()
        criterion = make_criterion(config, counts, VOCABULARY).to("cuda")
        optimizer = make_optimizer(model, config.training)
        scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
        with autocast(dtype):
            outputs: LayerOutputs = model(*inputs(config))
        assert on_device(outputs)
        assert outputs.predicate_logits.dtype == dtype
        assert model.cells(inputs(CONFIGS["speaq"])[0][0]).device.type == "cuda"
        total, parts = criterion(outputs.float(), targets())
        assert {value.device.type for value in (total, *parts.values())} == {"cuda"}
        assert scaler.scale(total).device.type == "cuda"
        give_gradients(model)
        scaler.unscale_(optimizer)
        norm, norms = clip_gradients(model, config.training)
        assert norm.device.type == norms.device.type == "cuda"
        optimizer.step()
        monkeypatch.setattr("speaq.inference._require_finite", lambda **values: None)
        assert on_device(query_outputs(outputs))


def test_a_detectors_step_mixes_no_devices() -> None:
    config = tiny()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = Detector(config.model, NUM_CLASSES).train()
        criterion = DetectorLoss(config.losses, config.matching, NUM_CLASSES).to("cuda")
        optimizer = make_optimizer(model, config.training)
        total, parts = criterion(model(*inputs(config)).float(), targets())
        assert {value.device.type for value in (total, *parts.values())} == {"cuda"}
        assert total.requires_grad
        give_gradients(model)
        clip_gradients(model, config.training)
        optimizer.step()


def test_mixed_devices_are_found() -> None:
    """Else the tests above would prove nothing."""
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device="cuda") + torch.ones(2)
