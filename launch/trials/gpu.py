"""The GPU that Ray gave a process: whether PyTorch sees it, and how much memory it has."""

from __future__ import annotations

import os
import platform
import sys

from speaq.config import Config, ConfigError, ResourcesConfig


def check_gpu(resources: ResourcesConfig) -> None:
    """Raises ConfigError where Ray gave this worker a GPU of which PyTorch sees nothing: it would compute on the CPU.

    Args:
        resources: of the config; without a GPU for each worker, there is nothing to see.
    """
    if not resources.gpus_per_worker:
        return
    import torch

    if not torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        raise ConfigError(
            f"resources.gpus_per_worker: Ray gave a worker on {platform.node()} GPU {given}, but PyTorch sees no CUDA "
            "device there; install PyTorch for its CUDA, or set resources.gpus_per_worker to 0"
        )


def device_memory(config: Config) -> dict[str, float]:
    """The memory of the GPU that this process has trained on, MiB, as a part of the run's cost; empty without one."""
    torch = sys.modules.get("torch")
    if not config.resources.gpus_per_worker or torch is None or not torch.cuda.is_available():
        return {}
    return {"device_memory_mib": round(torch.cuda.get_device_properties(0).total_memory / 2**20, 1)}
