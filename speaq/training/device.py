"""The device that a run computes on, and the memory that it takes there."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

import torch

from speaq.config import Config, ConfigError


def pick_device(config: Config) -> torch.device:
    """The device that `training.device` names. Raises ConfigError where it is not there."""
    wanted = config.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: cuda, but PyTorch sees no CUDA device here")
    name = "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"
    if name == "cpu" and config.training.precision == "float16":
        raise ConfigError("training.precision: float16 needs a CUDA device; use bfloat16 on the CPU")
    return torch.device(name)


def hardware(device: torch.device) -> str:
    """One line: the device, and the CPU cores of the host."""
    cores = f"{os.cpu_count()} CPU cores"
    if device.type != "cuda":
        return cores
    return f"{torch.cuda.get_device_name(device)}, {cores}"


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory use since `reset_peak_memory`, MiB: of the CUDA device, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # not Linux: since the process began
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak_memory(device: torch.device) -> None:
    """Forgets earlier peaks: a process may train several trials one after the other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux alone can; elsewhere a peak is the process's
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
