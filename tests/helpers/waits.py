"""A training step of the smallest model, and what of it would wait for a GPU."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speaq.config import Config
from speaq.model.speaq import SpeaQ
from speaq.structures import Target, Vocabulary
from speaq.targets import join
from speaq.training.step import clip_gradients, make_optimizer
from speaq.training.tasks import make_criterion
from tests.helpers.tiny import tiny

NUM_CLASSES, NUM_PREDICATES = 5, 6
VOCABULARY = Vocabulary(tuple("abcde"), tuple("uvwxyz"))
# Operators whose result, or whose size, the host has to know before it can go on.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal", "repeat_interleave.Tensor")


class Waits(TorchDispatchMode):
    """Collects (operator, our innermost function) of every operator that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        boolean_index = name.startswith("index") and _has_mask(args)
        if name.startswith(WAITS) or boolean_index:
            ours = [frame.name for frame in traceback.extract_stack() if "/speaq/" in frame.filename]
            self.found.append((name, ours[-1] if ours else "elsewhere"))
        return function(*args, **(kwargs or {}))


def _has_mask(args: Any) -> bool:
    given = [x for part in args if isinstance(part, list | tuple) for x in part]
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in given)


def step(config: Config, device: str) -> Any:
    torch.manual_seed(0)
    model = SpeaQ(config.model, NUM_CLASSES, NUM_PREDICATES).to(device)
    counts = torch.arange(NUM_PREDICATES, -1, -1).numpy()
    criterion = make_criterion(config, counts, VOCABULARY).to(device)
    optimizer = make_optimizer(model, config.training)
    images = torch.randint(256, (2, 3, 48, 64), dtype=torch.uint8, device=device)
    sizes = torch.tensor([[48, 64], [40, 64]], device=device)
    targets = join([target() for _ in range(2)]).mapped(lambda column: column.to(device))

    def work() -> None:
        criterion(model(images, sizes), targets)[0].backward()
        clip_gradients(model, config.training)
        optimizer.step()

    return work


def target() -> Target:
    boxes = torch.rand(4, 4) * 0.4 + 0.1
    rows = torch.tensor([[0, 1, 2], [1, 2, 0], [3, 0, 5]])
    return Target(torch.randint(NUM_CLASSES, (4,)), boxes, rows, boxes[:3])


CONFIGS = [tiny(matching__num_groups=2), tiny(matching__num_groups=2, model__activation_checkpointing=True)]
