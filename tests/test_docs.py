"""The documentation: built without a warning or a network, its commands run, its figures what the library computes."""

from __future__ import annotations

import argparse
import html
import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from speaq import config as configs
from speaq.cli.main import app
from speaq.data.visual_genome import open_data
from speaq.prediction.export import export_model
from speaq.space.settings import SearchConfig
from speaq.training.loop import train
from tests.helpers.coco_sets import coco_of
from tests.helpers.command import command
from tests.helpers.readme import commands as commands_of_readme
from tests.helpers.readme import commands_of
from tests.helpers.shared import ROOT
from tests.helpers.tiny import TINY, tiny

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

DOCS = ROOT / "docs"
TUTORIAL = "your-data.md"  # run on the toy world
EXPORTED = (" export-model ", " benchmark ", " first.onnx ")  # run in test_export_model
# What makes the tutorial short without changing what it does; the page itself sets data.num_val.
SHORT = {key: value for key, value in TINY.items() if key != "data.num_val"}


ELSEWHERE = {
    "make demo": "test_readme",
    "make bench": "test_bench",
    "launch/reproduce": "test_reproduction",
    ".venv/bin/python -m tests.golden DIR": "test_golden",
}


def parse(words: list[str]) -> None:
    """Raises where the command line knows no such command or option."""
    known: Any = typer.main.get_command(app)
    while hasattr(known, "commands"):
        known = known.commands[words.pop(0)]
    known.make_context("speaq", words)


PAGES = sorted(page.name for page in DOCS.glob("*.md"))
ALL = list(dict.fromkeys(line for page in PAGES for line in commands_of(f"docs/{page}")))
RUN = [line for line in commands_of(f"docs/{TUTORIAL}") if not any(word in line for word in EXPORTED)]
REST = [
    line
    for line in ALL
    if line not in {*RUN, *commands_of_readme()} and not any(line.startswith(known) for known in ELSEWHERE)
]


def test_the_pages_have_commands_of_every_kind() -> None:
    assert len(ALL) > 20
    assert len(RUN) > 6
    assert any(" export-model " in line for line in REST)


def parser_of(module: str) -> argparse.ArgumentParser:
    """Of `python -m MODULE`."""
    found = importlib.import_module(module)
    parser: argparse.ArgumentParser = (
        importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found
    ).parser()
    return parser


@pytest.mark.parametrize("line", REST)
def test_what_is_not_run_here_is_known_to_the_command_line(line: str) -> None:
    program, *words = line.split()
    if program == ".venv/bin/python":
        parser_of(words[1]).parse_args(words[2:])
        return
    assert program == ".venv/bin/speaq", line
    sets = [value for option, value in itertools.pairwise(words) if option == "--set"]
    for word in words:
        if word.startswith(("configs/", "search_spaces/")):
            assert (ROOT / word).is_file(), word
            if word.startswith("configs/"):
                configs.load(ROOT / word, sets)
    parse(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_inside_sentences_exist(page: str) -> None:
    """`speaq NAME …` in prose; what follows the name is the reader's."""
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    known: Any = typer.main.get_command(app)
    for name in re.findall(r"`speaq ([a-z-]+)", text):
        assert name in known.commands, name


@pytest.fixture(scope="module")
def folder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tutorial's reader has: `coco.json` and PHOTOS."""
    folder = tmp_path_factory.mktemp("tutorial")
    content = coco_of(open_data(toy))
    for image in content["images"]:
        del image["split"]
    (folder / "coco.json").write_text(json.dumps(content))
    (folder / "PHOTOS").symlink_to(toy / "VG_100K")
    (folder / "SOME").mkdir()
    for photo in sorted((toy / "VG_100K").iterdir())[:3]:
        (folder / "SOME" / photo.name).symlink_to(photo)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2700)
@pytest.mark.usefixtures("ray_cluster")
def test_the_tutorial_goes_from_json_to_a_tuned_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for line in RUN:
        program, *words = line.split()
        assert program == ".venv/bin/speaq", line
        words = [str(ROOT / word) if word.startswith(("configs/", "search_spaces/")) else word for word in words]
        if words[0] in ("train", "tune"):
            words += [part for key, value in SHORT.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        if words[0] == "tune":  # the published setting and the baseline are enough
            words[words.index("--trials") + 1] = "2"
        if words[0] == "predict":
            words[1] = "SOME"
        done = command(*words)
        assert done.exit_code == 0, (line, done.output, done.exception)
    assert (folder / "TUNED" / "best.yaml").is_file()
    assert len(list((folder / "PICTURES").glob("*.json"))) == 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built without a warning."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, cwd=ROOT, timeout=2700)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return folder


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in [*PAGES, "commands.md", "keys.md"]:
        text = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*", text)
        assert loaded
        assert [found for found in loaded if "//" in found] == []
    assert "export_model" in (site / "api.html").read_text(encoding="utf-8")


def options_of(known: Any) -> set[str]:
    """The long names of a command's options that its help shows."""
    shown = [parameter for parameter in known.params if not getattr(parameter, "hidden", False)]
    return {name for parameter in shown for name in parameter.opts if name.startswith("--")} - {"--help"}


def test_the_page_of_commands_has_every_command_and_option(site: Path) -> None:
    text = html.unescape((site / "commands.html").read_text(encoding="utf-8"))
    sections = dict(re.findall(r"<h2 id=\"[^\"]*\">(speaq [^<]+)<(.*?)(?=<h2 |</article>)", text, flags=re.DOTALL))

    def check(group: Any, words: str) -> None:
        for name, known in group.commands.items():
            if not known.hidden:
                section = sections[f"{words} {name}"]
                assert [option for option in options_of(known) if option not in section] == [], name
                if hasattr(known, "commands"):
                    check(known, f"{words} {name}")

    check(typer.main.get_command(app), "speaq")


def test_the_page_of_keys_has_every_key(site: Path) -> None:
    text = html.unescape((site / "keys.html").read_text(encoding="utf-8"))
    keys = [key for key, _, _ in configs.describe()] + list(SearchConfig.model_fields)
    assert [key for key in keys if f"<code>{key}</code>" not in text] == []


def test_the_install_page_names_what_there_is() -> None:
    """Its commands are of other programs and are not run."""
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name for names in re.findall(r"-e \"\.\[([^]]+)\]\"", text) for name in names.split(",")}
    extras |= {
        name
        for row in re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
        for name in re.findall("`([^`]+)`", row)
    }
    assert extras == set(project["optional-dependencies"])
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", text)) <= targets
    assert (ROOT / "launch/files/clusters/Containerfile").is_file()


# What the reader of a page with Python has, in the current folder.
PYTHON = [page for page in PAGES if "```python" in (DOCS / page).read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def readers(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN, STUDY, DATA, photo.jpg, configs, and `demo` as `make demo` leaves it, but for what its networks learnt."""
    folder = tmp_path_factory.mktemp("readers")
    train(tiny(training__max_steps=2, training__decay_steps=[1], training__eval_every=2), toy, folder / "RUN")
    shutil.copytree(ROOT / "tests" / "earlier" / "study", folder / "STUDY")
    for trial in (folder / "STUDY" / "trials").iterdir():
        shutil.rmtree(trial)
        shutil.copytree(folder / "RUN", trial)
    shutil.copytree(folder / "STUDY", folder / "demo" / "search")
    shutil.copy(toy / "VG_100K" / "100001.jpg", folder / "photo.jpg")
    for link, target in (("DATA", toy), ("demo/data", toy), ("configs", ROOT / "configs")):
        (folder / link).symlink_to(target)
    (folder / "demo" / "search" / "search.png").write_bytes((DOCS / "figures" / "gallery" / "search.png").read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page: str, readers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(readers)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    if any("first.onnx" in block for block in blocks):
        pytest.importorskip("onnxruntime")
        export_model(Path("RUN"), [Path("first.onnx")])
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def ran(script: str, *words: str | Path, cwd: Path) -> None:
    """A script of docs, by a new Python."""
    line = [sys.executable, str(DOCS / script), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_runs_and_shows_what_is_committed(file: Path, readers: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    ran("notebook.py", file, "--output", tmp_path / "run.ipynb", cwd=readers)
    committed, fresh = (json.loads(path.read_text(encoding="utf-8")) for path in (file, tmp_path / "run.ipynb"))
    assert (readers / "demo" / "first_look.svg").exists()
    for old, new in zip(committed["cells"], fresh["cells"], strict=True):
        assert old["source"] == new["source"]
        kinds = [[sorted(output.get("data", ())) for output in cell.get("outputs", ())] for cell in (old, new)]
        assert kinds[0] == kinds[1], old["source"]
        pictures = [output["data"].get("image/png", "") for output in old.get("outputs", ()) if "data" in output]
        assert all(len(picture) * 3 // 4 < 60_000 for picture in pictures)


def test_the_site_has_the_notebook_with_its_pictures(site: Path) -> None:
    text = (site / "notebooks" / "first_look.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<img[^>]*\bsrc=\"?([^\" >]+)", text)
    assert len(pictures) == 3
    for picture in pictures:
        assert (site / "notebooks" / picture).read_bytes().startswith(b"\x89PNG")
    assert (site / "notebooks" / "first_look.ipynb").exists()


@pytest.mark.slow
def test_the_gallery_is_small_and_can_be_made_again(readers: Path, tmp_path: Path) -> None:
    shown = re.findall(r"\]\(figures/gallery/([^)]+)\)", (DOCS / "gallery.md").read_text(encoding="utf-8"))
    committed = {file.name: file.stat().st_size for file in (DOCS / "figures" / "gallery").iterdir()}
    assert sorted(shown) == sorted(committed)
    assert max(committed.values()) < 60_000
    ran("gallery.py", "demo", tmp_path, "--scenes", "100001", "100002", "100003", cwd=readers)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(committed)


def test_the_figures_are_what_the_library_computes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "figures.py"), str(tmp_path)], check=True, cwd=ROOT)
    names = sorted(file.name for file in (DOCS / "figures").glob("*.svg"))
    assert names == sorted(file.name for file in tmp_path.iterdir()) == ["assignment.svg", "groups.svg", "repeats.svg"]
    for name in names:
        committed, drawn = ((place / name).read_text(encoding="utf-8") for place in (DOCS / "figures", tmp_path))
        texts = [re.findall(r"<text[^>]*>([^<]*)<", svg) for svg in (committed, drawn)]
        assert texts[0] == texts[1]
        assert committed.count("<path") == drawn.count("<path")
