"""The stages, the most important first, and what a stage is given. Nothing but Python is imported here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = (ROOT / "tests" / "golden" / "cases", ROOT / "shared" / "golden", ROOT.parent / "shared" / "golden")
# What the stages import → the package that it comes from. A package in OPTIONAL is missed by its own stage alone.
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "h5py": "h5py",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "typing_extensions": "typing-extensions",
    "faster_coco_eval": "faster-coco-eval",
    "pytest": "pytest",
}
OPTIONAL = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}

Tell = Callable[..., None]  # tell(row, name=value, …): a result, on disk at once


class Skipped(Exception):
    """Why a stage cannot be done here."""


@dataclass(frozen=True)
class Settings:
    """What every stage is given. A dry run does everything on the CPU, with the smallest sizes."""

    folder: Path  # for what stages write
    golden: Path | None
    dry: bool

    @property
    def device(self) -> str:
        """What PyTorch calls the device."""
        return "cpu" if self.dry else "cuda"


@dataclass(frozen=True)
class Stage:
    """A function of tests.gpu, and its share of the time in parts of all shares together."""

    name: str
    function: str  # module.function
    share: float

    def load(self) -> Callable[[Settings, Tell], None]:
        """The function, with all that it imports."""
        module, _, name = self.function.rpartition(".")
        function: Callable[[Settings, Tell], None] = getattr(importlib.import_module(f"tests.gpu.{module}"), name)
        return function


STAGES = (
    Stage("card", "correct.card", 6),
    Stage("golden", "correct.golden", 14),
    Stage("synchronisation", "correct.synchronisation", 4),
    Stage("precision", "correct.precision", 6),
    Stage("deterministic", "trainings.deterministic", 5),
    Stage("resume", "trainings.resume", 4),
    Stage("out of memory", "trainings.out_of_memory", 5),
    Stage("training speed", "speed.training", 18),
    Stage("profile", "speed.profile", 6),
    Stage("evaluation speed", "speed.evaluation", 6),
    Stage("loader", "speed.loader", 8),
    Stage("distributed", "trainings.distributed", 8),
    Stage("stored features", "trainings.features", 5),
    Stage("step from features", "speed.from_features", 3),
    Stage("toy step", "speed.toy_step", 4),
    Stage("largest batch", "speed.largest_batch", 6),
    Stage("predict", "trainings.predict", 3),
    Stage("export", "trainings.export", 8),
)


def missing(names: dict[str, str]) -> list[str]:
    """Packages of which no module is found, with the version that requirements.lock names."""
    gone = [package for module, package in names.items() if importlib.util.find_spec(module) is None]
    lock = ROOT / "requirements.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    found = {package: re.search(rf"^{re.escape(package)}==([^\s;]+)", text, flags=re.MULTILINE) for package in gone}
    return [package if version is None else f"{package}=={version[1]}" for package, version in found.items()]


def remedy(packages: list[str], python: str) -> str:
    """How packages are brought to a machine without a network."""
    return (
        f"where there is a network: python -m pip download --no-deps --only-binary=:all: --python-version {python} "
        f"--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels {' '.join(packages)}\n"
        "here: python -m pip install --no-index --no-deps --target site wheels/*.whl, then PYTHONPATH=site"
    )


def golden_folder(given: Path | None) -> Path | None:
    """The golden set to compare with; None where there is none."""
    if given is not None:
        return given.resolve()
    return next((folder for folder in GOLDEN if (folder / "index.json").is_file()), None)


def shown(value: Any) -> str:
    """A value in a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
