"""The code and the packages that a run was made with. Light to import: drivers of searches need no PyTorch."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

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
