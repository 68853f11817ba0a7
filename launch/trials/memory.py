"""A device that is too small for a step: the same images in smaller parts."""

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
    """Calls `train`, which goes on with what it finds, with half as many images at once as often as it takes.

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
        _give_back()  # only here are the tensors of the failed step free


def smaller_micro_batch(config: Config) -> int | None:
    """The largest number of images at once, at most half of the present one, that divides a worker's share."""
    share = config.training.batch_size // config.resources.num_workers
    half = (config.training.micro_batch_size or share) // 2
    return next((n for n in range(half, 0, -1) if share % n == 0), None)


def _give_back() -> None:
    """To the device, what PyTorch keeps for later; without loading it where nothing has."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None:
        torch.cuda.empty_cache()
