"""Where a step does not fit into the memory of a device, its images are trained on in smaller parts."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

from speaq import config as configs
from speaq.config import Config
from speaq.training.endings import OutOfMemory

log = logging.getLogger(__name__)

Train = Callable[[Config], dict[str, Any]]


def train_in_parts(config: Config, train: Train) -> tuple[Config, dict[str, Any]]:
    """Calls `train`; as long as memory is too small, calls it again with half as many images at once.

    Each call goes on from the last checkpoint of the one before.

    Returns:
        The config that fitted, with its `training.micro_batch_size`, and the result.

    Raises:
        OutOfMemory: not even one image fits.
    """
    while True:
        try:
            return config, train(config)
        except OutOfMemory as error:
            smaller = smaller_micro_batch(config)
            if smaller is None:
                raise
            log.warning("%s; going on with %d images at once", error, smaller)
        config = configs.apply(config, {"training.micro_batch_size": smaller})
        _give_back()  # not in the except block: the error there still holds the tensors of the failed step


def smaller_micro_batch(config: Config) -> int | None:
    """The largest number of images at once, at most half of the present one, that divides a worker's share."""
    share = config.training.batch_size // config.resources.num_workers
    half = (config.training.micro_batch_size or share) // 2
    return next((n for n in range(half, 0, -1) if share % n == 0), None)


def _give_back() -> None:
    """Frees the memory that PyTorch keeps for later. Where nothing has loaded PyTorch, nothing is loaded here."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None:
        torch.cuda.empty_cache()
