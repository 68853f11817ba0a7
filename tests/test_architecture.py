"""The library needs no Ray, Optuna or wandb; imports go one way; files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "speaq").rglob("*.py"))
# A layer imports only layers before it (style: one direction).
LAYERS = (
    ("structures", "boxes", "vocabulary", "plain_text", "drawing", "plain_yaml", "files", "foreign", "user_groups"),
    ("group_limits",),
    ("sections", "config", "targets", "data"),
    ("model", "matching"),
    ("losses", "inference", "evaluation", "parameters", "space"),
    ("training",),
    ("study",),
    ("prediction",),
    ("explore",),
    ("terminal", *(path.stem for path in (ROOT / "speaq").glob("cli*.py"))),
)

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "optuna", "wandb", "tensorboard"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
import importlib, pkgutil, speaq
for module in pkgutil.walk_packages(speaq.__path__, "speaq."):
    importlib.import_module(module.name)
print("imported")
"""


def test_the_library_imports_without_ray_optuna_and_wandb() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr


def test_help_does_not_import_torch() -> None:
    code = "import sys, speaq.cli; print('torch' in sys.modules or 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_driver_of_a_search_starts_without_torch() -> None:
    code = "import sys, launch.jobs.tune_command, speaq.data.visual_genome; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_trials_process_starts_without_torch_and_optuna() -> None:
    """Training loads torch where it needs it."""
    pytest.importorskip("ray")
    code = "import sys, launch.trials.trial; print('torch' in sys.modules or 'optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def layer_of(module: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if module in names)


def imported_modules(path: Path) -> set[str]:
    """First names below `speaq` that a file imports at run time, at any depth."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in guarded and node.module:
            if node.module == "speaq":
                names.update(alias.name for alias in node.names)
            elif node.module.startswith("speaq."):
                names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "speaq").with_suffix("").parts
    if parts == ("__init__",):
        return
    allowed = layer_of(parts[0])
    assert all(layer_of(name) <= allowed for name in imported_modules(path))


def test_files_stay_readable() -> None:
    long_files = [p.name for p in LIBRARY if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert long_files == []


def test_functions_stay_small() -> None:
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in [*LIBRARY, *(ROOT / "launch").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 15
    assert lengths[int(len(lengths) * 0.9)] <= 40


def test_no_file_names_this_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    needles = ["pypi" + ".org", "pythonhosted" + ".org", "/wo" + "rk/", "/ro" + "ot/"]
    found = [
        (name, needle)
        for name in listed
        if (ROOT / name).is_file()
        for needle in needles
        if needle.encode() in (ROOT / name).read_bytes()
    ]
    assert found == []
