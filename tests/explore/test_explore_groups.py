"""The group lab and the page of specialization in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")

from speaq.analysis.specialization import FOLDER, Analysed, save
from speaq.analysis.specialization_picture import draw
from speaq.explore.opening import Exploration, explore
from speaq.matching.groups import make_groups
from tests.helpers.browser import Visit, served
from tests.helpers.explore_data import write_run


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("explore_groups") / "run", toy, predictions=False)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with served(explore(Exploration(None, run, None, "val"))) as where:
        yield where


def lab(**fields: str | int) -> str:
    usual = {"g": 4, "q": 12, "m": 1, "rule": "halving", "own": ""}
    return f"/groups?{urlencode({**usual, **fields})}"


def test_the_lab_shows_groups_before_anything_is_trained(address: str, chromium: Any) -> None:
    with Visit(chromium, address, width=400) as visit:
        page = visit.open("/groups")
        assert page.get_by_label("Groups G").input_value() == "4"  # the run's setting
        assert page.locator("table.lab tbody tr").count() == 4
        page.get_by_label("Groups G").fill("2")
        page.get_by_label("Subject queries Q").fill("4")
        page.get_by_label("Query multiple m").fill("1")
        assert page.get_by_label("Frequencies").input_value() == "train"
        page.locator("select[name=rule]").select_option("equal_count")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**rule=equal_count**")
        rows = page.locator("table.lab tbody tr")
        assert [row.split()[0:2] for row in rows.all_inner_texts()] == [["1", "8"], ["2", "8"]]
        assert " is overloaded" in page.get_by_role("alert").first.inner_text()
        assert page.locator("svg.bar rect").count() == 6
        assert visit.overflow() == 0


def test_the_lab_takes_groups_of_ones_own_and_says_what_is_wrong(address: str, run: Path, chromium: Any) -> None:
    names = explore(Exploration(None, run, None, "val")).data.vocabulary.predicates
    own = f"even: [{', '.join(names[::2])}]\nodd: [{', '.join(names[1::2])}]"
    with Visit(chromium, address) as visit:
        page = visit.open(lab(own=own))
        assert page.locator("table.lab tbody th").all_inner_texts() == ["1 even", "2 odd"]
        for fields, message in (
            ({"g": 99}, "exceeds model.num_queries 12"),
            ({"g": "many"}, "matching.num_groups: is a whole number, not 'many'"),
            ({"rule": "<b>"}, "matching.group_rule"),
            ({"own": "even: [on]\nodd: [nearly]"}, "is no predicate of the data"),
            ({"counts": "visual_genome"}, "visual_genome is a table of 50 predicates; the data has 16"),
            ({"own": "/etc/groups.yaml"}, "write the groups themselves here"),
        ):
            page = visit.open(lab(**fields))
            assert message in page.get_by_role("alert").inner_text()
            assert page.locator("table.lab").count() == 0


def test_specialization_is_shown_when_it_has_been_counted(address: str, run: Path, toy: Path, chromium: Any) -> None:
    with Visit(chromium, address, width=400) as visit:
        page = visit.open("/specialization")
        assert f"speaq specialization {run}" in page.locator("code").first.inner_text()
        names = explore(Exploration(None, run, None, "val")).data.vocabulary.predicates
        groups = make_groups(range(1, len(names) + 1), 4, 8)
        counts = np.random.default_rng(0).integers(0, 9, (16, len(names)))
        counts[3] = 0
        one = Analysed("run", "best", 7, "val", 5, 20, names, groups, 2, counts)
        save([one, Analysed("plain", "best", 7, "val", 5, 20, names, None, 2, counts)], run / FOLDER)
        draw([one], run / FOLDER / "specialization.png", "png")
        page = visit.open("/specialization")
        leakage = f"{100 * float(one.result().leakage or 0):.1f} %"
        cells = [row.split("\t") for row in page.locator("table.lab tbody tr").all_inner_texts()]
        assert [(row[0], row[-2]) for row in cells] == [("run · best", leakage), ("plain · best", "-")]
        assert [row[-1] for row in cells] == ["1", "1"]
        assert page.evaluate("document.querySelector('img.map').naturalWidth") > 500
        assert page.get_by_text("Dead queries: 3").count() == 2
        assert visit.overflow() == 0
