"""What editors are told of configs and search spaces: every shipped file fits, the files of the docs are up to date."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.config.schema import config_schema, key_schemas
from speaq.space.schema import space_schema
from tests.helpers.shared import ROOT

jsonschema = pytest.importorskip("jsonschema")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
RATE = {"type": "float", "low": 1e-5, "high": 1e-3}


def said(schema: dict[str, Any], content: Any) -> list[str]:
    """What an editor underlines."""
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return [error.message for error in kind(schema).iter_errors(content)]


@pytest.mark.parametrize("path", [*CONFIGS, *SPACES], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_names_a_schema_that_it_fits(path: Path) -> None:
    name = "config" if path in CONFIGS else "space"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema=../docs/schemas/{name}.json"
    assert (path.parent / first.partition("=")[2]).is_file()
    assert said(config_schema() if name == "config" else space_schema(), configs.read_yaml(path)) == []
    if name == "space":
        assert "schema" not in spaces.load(path).question


def test_the_files_of_the_docs_are_up_to_date() -> None:
    for path, text in runpy.run_path(str(ROOT / "docs" / "schemas.py"))["schemas"]().items():
        assert path.read_text(encoding="utf-8") == text, "run .venv/bin/python docs/schemas.py"


def test_every_key_has_a_schema_and_its_default_fits() -> None:
    found, defaults = key_schemas(), configs.defaults()
    assert found.keys() == defaults.keys()
    for key, schema in found.items():
        assert said(schema, defaults[key]) == [], key
    assert said(config_schema(), configs.to_dict(Config())) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"num_querys": 3}}, "num_querys"),
        ({"training": {"max_steps": 0}}, "0 is less than the minimum of 1"),
        ({"training": {"max_steps": "many"}}, "'many' is not of type 'integer'"),
        ({"matching": {"scheme": "often"}}, "'often' is not one of"),
        ({"extends": 3}, "3 is not of type 'string'"),
        ({"data": {"crop_window": [1, 2, 3]}}, "[1, 2, 3] is too long"),
    ],
)
def test_an_editor_underlines_what_a_config_must_not_say(content: Any, words: str) -> None:
    found = said(config_schema(), content)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "content",
    [
        {"parameters": {"training.learning_rat": RATE}},
        {"parameters": {"training.learning_rate": {**RATE, "hihg": 1}}},
        {"parameters": {"training.learning_rate": {**RATE, "when": {"matching.shceme": ["static"]}}}},
        {"parameters": {"training.learning_rate": RATE}, "fixed": {"training.batch_size": 0}},
        {"parameters": {"training.learning_rate": RATE}, "search": {"sampler": "magic"}},
        {"parameters": {}},
        {},
    ],
)
def test_an_editor_underlines_what_a_space_must_not_say(content: Any) -> None:
    assert said(space_schema(), {"parameters": {"training.learning_rate": RATE}}) == []
    assert said(space_schema(), content) != []


def test_groups_of_ones_own_may_be_written_out() -> None:
    assert said(config_schema(), {"matching": {"groups": {"near": ["on", "by"], "far": ["behind"]}}}) == []
    assert said(config_schema(), {"matching": {"groups": "groups.yaml"}}) == []
