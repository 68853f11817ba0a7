"""A folder or file that is something else than a command takes: one line says what it is and what to type."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from speaq.cli import folders
from speaq.cli import help as helps
from speaq.cli.folders import Kind
from speaq.cli.main import app
from speaq.config import ConfigError
from tests.helpers.command import command, refusal
from tests.helpers.shared import ROOT

EARLIER = ROOT / "tests" / "earlier"
KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> dict[Kind, Path]:
    """Something of each kind."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("run", "study"):
        shutil.copytree(EARLIER / name, folder / name)
    return {
        "RUN": folder / "run",
        "STUDY": folder / "study",
        "DATA": toy,
        "CONFIG": ROOT / "configs" / "toy.yaml",
        "SPACE": ROOT / "search_spaces" / "toy.yaml",
    }


def taking() -> Iterator[tuple[str, Any, Any]]:
    """All commands that take something of ours, with the argument that does."""
    for _, name, known in helps.listed(typer.main.get_command(app)):
        for parameter in known.params:
            if parameter.metavar in (*KINDS, *folders.ALSO) and parameter.name not in folders.NEW:
                yield name, known, parameter


TAKING = [pytest.param(*one, id=f"{one[0]} {one[2].name}") for one in taking()]


@pytest.mark.parametrize(("name", "known", "parameter"), TAKING)
def test_what_is_of_another_kind_is_named_in_one_line(
    name: str, known: Any, parameter: Any, places: dict[Kind, Path]
) -> None:
    wanted = folders.ALSO.get(parameter.metavar, parameter.metavar)
    for kind in KINDS:
        words = ("speaq", *name.split(), str(places[kind]))
        if kind == wanted:
            folders.check(known, words, {parameter.name: places[kind]})
            continue
        with pytest.raises(ConfigError) as raised:
            folders.check(known, words, {parameter.name: places[kind]})
        said = str(raised.value)
        assert said.startswith(f"{places[kind]}: is {folders.NAMES[kind]}, not {folders.NAMES[wanted]}; ")
        assert "\n" not in said
        assert folders.kind_of(places[kind]) == kind


def test_the_shipped_configs_and_spaces_are_told_apart() -> None:
    for kind, folder in (("CONFIG", "configs"), ("SPACE", "search_spaces")):
        for file in (ROOT / folder).glob("*.yaml"):
            assert folders.kind_of(file) == kind, file


def test_what_may_be_meant_is_named_with_the_command(places: dict[Kind, Path], tmp_path: Path) -> None:
    run, study = places["RUN"], places["STUDY"]
    best = study / "trials" / "0000"
    assert refusal("evaluate", study) == (
        f"speaq: {study}: is a study, not a run; its best trial: speaq evaluate {best}"
    )
    assert refusal("predict", "x.jpg", f"--run={study}", "--output", tmp_path / "o").endswith(
        f"its best trial: speaq predict x.jpg --run={best} --output {tmp_path / 'o'}"
    )
    assert refusal("status", best).endswith(f"the study that it is a trial of: speaq status {study}")
    assert refusal("tune", "--resume", run).endswith(f"to go on with it: speaq train --resume {run}")
    assert refusal("train", "--resume", study).endswith(f"to go on with it: speaq tune --resume {study}")
    assert refusal("explore", run).endswith(f"give it as --run {run}")
    swapped = refusal("tune", "--config", places["SPACE"], "--space", places["CONFIG"])
    assert swapped.endswith(f"is a search space, not a config; give it as --space {places['SPACE']}")
    assert refusal("train", "--config", study, "--output", tmp_path / "r").endswith(f"--output {tmp_path / 'r'}")


def test_the_folder_above_is_understood(places: dict[Kind, Path], toy: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "data").symlink_to(toy)
    (demo / "detector").symlink_to(places["RUN"])
    (demo / "search").symlink_to(places["STUDY"])
    assert refusal("data", "stats", demo).endswith(
        f": is no data set (it has no image_data.json); the one in it: speaq data stats {demo / 'data'}"
    )
    assert refusal("status", demo).endswith(
        f": is no study (it has no study.yaml); the one in it: speaq status {demo / 'search'}"
    )
    assert refusal("evaluate", demo).endswith(f"speaq evaluate {demo / 'detector'}")
    (demo / "other").symlink_to(places["RUN"])
    assert refusal("evaluate", demo).endswith(
        f"{demo}: is no run (it has no config.yaml); in it are detector, other: give one of them"
    )
    assert refusal("config", "show", demo).endswith(
        "in it are data (a data set), detector (a run), other (a run), search (a study)"
    )


def test_what_is_right_or_nothing_of_ours_is_left_to_the_command(places: dict[Kind, Path], tmp_path: Path) -> None:
    assert command("status", places["STUDY"]).exit_code == 0
    assert "cannot be read" in refusal("config", "show", tmp_path)
    assert folders.kind_of(tmp_path) is None
    assert folders.kind_of(tmp_path / "none") is None
