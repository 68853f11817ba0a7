"""The wheel, installed into an empty environment, works in an empty folder; nothing of the checkout is in reach."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from speaq.training.environment import source_digest
from tests.helpers.shared import AS_IMPORTANT, ROOT
from tests.helpers.tiny import TINY

TOGETHER = "nodes"  # starts a cluster, see conftest

# What makes the commands of `speaq init` short without changing what they do.
SHORTER = {
    "make": ["--images", "60"],
    "pretrain": [],
    "tune": ["--trials", "2"],
}
SETTINGS = {
    "data.num_val": TINY["data.num_val"],
    "model.hidden_dim": TINY["model.hidden_dim"],
    "model.feedforward_dim": TINY["model.feedforward_dim"],
    "training.max_steps": 2,
    "training.eval_every": 2,
    "training.decay_steps": [1],
    "training.batch_size": 4,
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel and, beside it, the packages that it needs."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "near.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files Python leaves alone
    install = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    return folder / "bin"


def run(installed: Path, folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """What a command of that environment prints in a folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHON"))}
    environment |= AS_IMPORTANT
    words = [str(installed / line[0]), *line[1:]]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_one_package_with_launch_configs_and_spaces_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"speaq"}
    for folder in ("configs", "search_spaces", "launch"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        there = {path.relative_to(ROOT).as_posix() for path in files} - {"launch/reproduce"}
        assert there == {name.removeprefix("speaq/") for name in names if name.startswith(f"speaq/{folder}/")}


def test_what_is_installed_is_the_same_code_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u; from speaq.training.environment import source_digest, source_commit; "
        "print(source_digest(), source_commit(), *(u.find_spec(name) for name in ('launch', 'tests')))"
    )
    assert run(installed, tmp_path, "python", "-c", code).stdout.split() == [source_digest(), "None", "None", "None"]


def test_configs_are_found_by_name_and_it_is_said(installed: Path, tmp_path: Path) -> None:
    for asked in ("toy", "configs/toy.yaml"):
        done = run(installed, tmp_path, "speaq", "config", "show", asked)
        assert (done.returncode, "model.hidden_dim: 32" in done.stdout) == (0, True)
        assert f"{asked} is not here: the one that comes with speaq is used" in done.stderr
    (tmp_path / "toy").write_text("model: {hidden_dim: 48}")
    done = run(installed, tmp_path, "speaq", "config", "show", "toy")
    assert ("model.hidden_dim: 48" in done.stdout, done.stderr) == (True, "")


def test_the_commands_of_init_work(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "speaq", "init", "mine").returncode == 0
    mine = tmp_path / "mine"
    assert sorted(os.listdir(mine)) == ["README.md", "config.yaml", "schemas", "space.yaml"]
    for name in ("config", "space"):
        first = (mine / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# yaml-language-server: $schema=schemas/{name}.json"
        published = ROOT / "docs" / "schemas" / f"{name}.json"
        assert json.loads((mine / "schemas" / f"{name}.json").read_text()) == json.loads(published.read_text())
    block = re.search(r"```bash\n(.*?)```", (mine / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert block is not None
    lines = [shlex.split(line) for line in block[1].splitlines()]
    assert len(lines) == 3
    for words in lines:
        (name,) = SHORTER.keys() & {*words[:3]}
        sets = [] if name == "make" else [f"--set={key}={value}" for key, value in SETTINGS.items()]
        done = run(installed, mine, *words, *SHORTER[name], *sets)
        assert done.returncode == 0, done.stderr
    with (mine / "study" / "trials.csv").open(encoding="utf-8") as table:
        assert [row["status"] for row in csv.DictReader(table)] == ["finished", "finished"]
    again = run(installed, tmp_path, "speaq", "init", "mine")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "mine/config.yaml, mine/space.yaml, mine/README.md: there already" in again.stderr
