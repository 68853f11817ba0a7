"""A training step waits for its device once: when the matching costs come to the host."""

from __future__ import annotations

import pytest
import torch

from speaq.config import Config
from tests.helpers.waits import CONFIGS, Waits, step


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "checkpointing"])
def test_only_the_look_at_the_padding_waits(config: Config) -> None:
    """On a CPU it spares the mask where nothing is padded, for nothing; on a GPU it is not taken (see `_place`)."""
    work = step(config, "cpu")
    work()
    with Waits() as waits:
        work()
    assert waits.found == [("_local_scalar_dense", "_place")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_only_the_matching_costs_wait() -> None:
    work = step(CONFIGS[0], "cuda")
    work()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing CUDA operation") as warned:
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(warned) == 1
