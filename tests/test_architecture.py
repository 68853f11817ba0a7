"""The library needs no Ray, Optuna or wandb; imports go one way; files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from speaq.cli import launched
from tests.helpers.shared import ROOT

LIBRARY = sorted((ROOT / "speaq").rglob("*.py"))
# Rooms from the lowest to the highest; one imports only rooms of its own line or of lines above it.
ROOMS = (
    ("speaq.structures", "speaq.boxes", "speaq.plain_text", "speaq.drawing", "speaq.table"),
    ("speaq.files", "speaq.vocabulary", "speaq.charts"),
    ("speaq.config",),
    ("speaq.targets", "speaq.data", "speaq.model"),
    ("speaq.matching",),
    ("speaq.losses", "speaq.inference"),
    ("speaq.evaluation", "speaq.space"),
    ("speaq.training",),
    ("speaq.study",),
    ("speaq.runs",),
    ("speaq.prediction",),
    ("speaq.analysis",),
    ("speaq.explore",),
    ("speaq.api",),
    ("launch.store",),
    ("launch.search", "launch.cluster"),
    ("launch.trials",),
    ("launch.report",),
    ("launch.jobs",),
    ("speaq.cli",),
)
MODULES = sorted([*LIBRARY, *(ROOT / "launch").rglob("*.py")])

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "optuna", "wandb", "tensorboard"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
import importlib, pkgutil, speaq
for module in pkgutil.walk_packages(speaq.__path__, "speaq."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("imported")
"""


def test_the_library_imports_without_ray_optuna_and_wandb() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr


def test_help_does_not_import_torch() -> None:
    code = "import sys, speaq.cli.main; print('torch' in sys.modules or 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_starts_without_torchvision() -> None:
    """It would bring torch's compiler along, and takes as long to import as torch."""
    code = (
        "import sys, speaq.training.loop, speaq.inference; print({'torchvision', 'torch._dynamo'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_driver_of_a_search_starts_without_torch() -> None:
    code = "import sys, launch.jobs.tune, speaq.cli.trials, speaq.data.visual_genome; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_explore_starts_without_torch_ray_and_optuna() -> None:
    """Its pages load torch where they need it."""
    pytest.importorskip("starlette")
    code = (
        "import sys, speaq.explore.app, speaq.explore.opening, speaq.explore.server; "
        "print({'torch', 'ray', 'optuna'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_trials_process_starts_without_torch_and_optuna() -> None:
    """Training loads torch where it needs it."""
    pytest.importorskip("ray")
    code = "import sys, launch.trials.trial; print('torch' in sys.modules or 'optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def level_of(module: str) -> int:
    """Of `speaq.files.atomic`: the line of its room."""
    room = ".".join(module.split(".")[:2])
    return next(level for level, rooms in enumerate(ROOMS) if room in rooms)


def name_of(path: Path) -> str:
    """Of speaq/files/atomic.py: `speaq.files.atomic`; a package is called as its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def full_name(node: ast.ImportFrom, path: Path) -> str:
    """Of what a file imports from: `from ..store import x` in launch/trials/trial.py is from `launch.store`."""
    if not node.level:
        return node.module or ""
    above = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


def imported_modules(path: Path) -> set[str]:
    """Files and packages of ours that a file imports, at any depth, for types as well."""
    known, found = {name_of(module) for module in MODULES}, set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = full_name(node, path)
            inside = [f"{module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else module for name in inside)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found & known


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    module = name_of(path)
    if module in ("speaq", "launch"):
        return
    above = {name for name in imported_modules(path) if level_of(name) > level_of(module)}
    assert above == set()


def test_launch_is_reached_through_one_place() -> None:
    """It has another name in a wheel."""
    found = [
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if not getattr(node, "level", 0) and any(name.split(".")[0] == "launch" for name in _names(node))
    ]
    assert set(found) == {"speaq/cli/launched.py"}


def test_what_that_place_says_to_the_type_checker_is_what_it_gives() -> None:
    pytest.importorskip("ray")
    tree = ast.parse((ROOT / "speaq" / "cli" / "launched.py").read_text(encoding="utf-8"))
    said = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "")[:7] == "launch."
    ]
    assert said
    for node in said:
        for alias in node.names:
            given = getattr(launched, alias.name)
            assert (getattr(given, "__module__", None) or given.__name__.rpartition(".")[0]) == node.module


def test_no_test_module_imports_another() -> None:
    found = [
        (path.name, node.module)
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and ".test_" in node.module
    ]
    assert found == []


def test_only_the_command_line_prints_and_parses() -> None:
    """What is below `speaq.cli` returns values."""
    ways = ("print", "Console", "sys.stdout.write", "sys.stderr.write")
    own_process = "launch/cluster/all_reduce.py"  # a program that prints one number
    found = []
    for path in MODULES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("speaq/cli/"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            name for node in ast.walk(tree) for module in _names(node) if module.split(".")[0] in ("typer", "click")
        ]
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found += [name for call in calls if call in ways and name != own_process]
    assert found == []


def _names(node: ast.AST) -> list[str]:
    """The modules that an import names."""
    match node:
        case ast.ImportFrom(module=str() as module):
            return [module]
        case ast.Import():
            return [alias.name for alias in node.names]
    return []


@pytest.mark.parametrize(
    "words", [("status",), ("status", "--json"), ("logs", "0000"), ("export", "NEW.csv"), ("export", "NEW.tex")]
)
def test_a_study_is_looked_at_without_ray_optuna_and_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    study = ROOT / "tests" / "earlier" / "study"
    arguments = [words[0], str(study), *(str(tmp_path / w) if w.startswith("NEW") else w for w in words[1:])]
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}; from speaq.cli.main import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    print(end.code, file=sys.stderr)\n"
        "print(sorted({'ray', 'optuna', 'torch', 'numpy', 'h5py'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-2:] == ["0", "[]"], (done.stdout, done.stderr)


def test_files_stay_readable() -> None:
    long_files = [p.name for p in MODULES if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert long_files == []


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def test_functions_and_classes_stay_small() -> None:
    found = [
        (isinstance(node, ast.ClassDef), (node.end_lineno or 0) - node.lineno + 1, f"{path.name} {node.name}")
        for path in MODULES
        for node in definitions(path)
    ]
    lengths = sorted(length for is_class, length, _ in found if not is_class)
    assert lengths[len(lengths) // 2] <= 7
    assert lengths[int(len(lengths) * 0.9)] <= 40
    assert [name for is_class, length, name in found if length > (180 if is_class else 45)] == []


def test_many_values_are_passed_by_name() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and len(node.args) > 6
    ]
    assert found == []


def test_every_public_name_says_what_it_is() -> None:
    found = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [node for node in tree.body if is_public(node)]
        public += [part for node in public if isinstance(node, ast.ClassDef) for part in node.body if is_public(part)]
        found += [f"{path.name} {node.name}" for node in public if ast.get_docstring(node) is None]  # type: ignore[attr-defined, arg-type]
    assert found == []


def is_public(node: ast.AST) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return isinstance(node, kinds) and not node.name.startswith("_")


CHANGES = ("add", "append", "clear", "discard", "extend", "insert", "pop", "remove", "setdefault", "update")


def changed_names(tree: ast.Module) -> Iterator[str]:
    """Names of a module's own values that its code changes where they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            yield from names_of(node.func.value)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            for target in targets:
                if isinstance(target, ast.Subscript | ast.Attribute):
                    yield from names_of(target.value)


def names_of(node: ast.AST) -> list[str]:
    return [node.id] if isinstance(node, ast.Name) else []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_keeps_what_changes(path: Path) -> None:
    """What changes belongs to a value that is handed on; a cache of what never changes may stay."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    own = {name for node in assigned for part in ast.walk(node) for name in names_of(part) if stored(part)}
    assert own & set(changed_names(tree)) == set()


def stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def test_no_files_import_each_other() -> None:
    assert list(circles({name_of(path): imported_modules(path) for path in MODULES})) == []


def circles(arrows: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """What is left, if anything, when files without arrows are taken away again and again."""
    left = {name: ends - {name} for name, ends in arrows.items()}
    while leaves := {name for name, ends in left.items() if not ends}:
        left = {name: ends - leaves for name, ends in left.items() if name not in leaves}
    if left:
        yield sorted(left)


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
