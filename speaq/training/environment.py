"""What a run records about where it ran."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # drivers of searches ask for versions alone: PyTorch takes seconds
    import torch

PACKAGES = ("speaq", "torch", "torchvision", "numpy", "scipy", "ray", "optuna")


def versions() -> dict[str, str]:
    """Versions of Python, of our source and of the packages that results depend on; absent ones are left out."""
    found = {"python": platform.python_version(), "source": source_digest()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def source_digest() -> str:
    """Of the files of `speaq` and `launch`, by name and content: the code as it runs, checked out or installed."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(file for package in ("speaq", "launch") for file in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


GIT_LIMIT = 10.0  # seconds: a checkout on storage that hangs is no reason to wait


def source_commit() -> str | None:
    """The commit that this code was checked out from, marked where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit} with changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_LIMIT).stdout.strip()


def hardware(device: torch.device) -> str:
    """One line: the device, and the CPU cores of the host."""
    cores = f"{os.cpu_count()} CPU cores"
    if device.type != "cuda":
        return cores
    import torch

    return f"{torch.cuda.get_device_name(device)}, {cores}"


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory use since `reset_peak_memory`, MiB: of the CUDA device, or of this process where there is none."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):  # not Linux: since the process began
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak_memory(device: torch.device) -> None:
    """Forgets earlier peaks: a process may train several trials one after the other."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux alone can; elsewhere a peak is the process's
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
