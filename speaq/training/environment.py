"""The code and the packages that a run was made with. Light to import: drivers of searches need no PyTorch."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from speaq.files.shipped import CODE, HOME, PACKAGE

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
    launch = HOME / "launch"
    named = {f"launch/{path.relative_to(launch).as_posix()}": path for path in launch.rglob("*.py")}
    own = {f"speaq/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    named |= {name: path for name, path in own.items() if not name.startswith("speaq/launch/")}
    digest = hashlib.sha256()
    for name, path in sorted(named.items()):
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


GIT_LIMIT = 10.0  # seconds: a checkout on storage that hangs is no reason to wait


def source_commit() -> str | None:
    """The commit that this code was checked out from, marked where files differ from it; None outside a checkout."""
    if not (CODE / ".git").exists():
        return None
    try:
        commit = _git(CODE, "rev-parse", "HEAD")
        return f"{commit} with changes" if _git(CODE, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_LIMIT).stdout.strip()
