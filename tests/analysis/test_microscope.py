"""The assignment microscope: what it shows is what training does, for the run's settings and for any others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

import pytest
import torch

from speaq.analysis.microscope import Microscope, Slide, examine
from speaq.boxes import cxcywh_to_xyxy
from speaq.config import ConfigError, MatchingConfig
from speaq.matching.groups import make_groups
from speaq.matching.match import match
from speaq.targets import join
from speaq.training.loop import train
from speaq.training.tasks import make_criterion
from tests.helpers.browser import Visit, served
from tests.helpers.command import command, refusal
from tests.helpers.matching_cases import PREDICATE_COUNT, random_case, select
from tests.helpers.tiny import tiny

STATIC = {"matching.scheme": "static", "matching.quality": None, "matching.predicate_weight": 0.0}


@pytest.mark.parametrize("quality", ["min", "max", "geometric", "arithmetic"])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_an_image_alone_is_matched_as_in_its_batch(quality: str, num_groups: int) -> None:
    outputs, targets = random_case(seed=4, num_layers=3, num_queries=12, relations=(5, 3, 1))
    config = MatchingConfig(quality=quality, num_groups=num_groups, max_repeats=5, predicate_weight=-0.25)
    groups = make_groups(PREDICATE_COUNT, num_groups, 6) if num_groups > 1 else None
    together = match(outputs, join(targets), config, groups, 2)
    for image, target in enumerate(targets):
        found = examine(select(outputs, 1, [image]), join([target]), config, groups, 2)
        expected = torch.full((3, 12), -1)
        mine = together.image == image
        expected[together.layer[mine], together.query[mine]] = together.relation[mine]
        assert torch.equal(found.relation, expected)
        assert torch.equal(found.repeats, together.repeats[image])


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = cxcywh_to_xyxy(a).double(), cxcywh_to_xyxy(b).double()
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    inside = float(sides.prod())
    return inside / (float((a[2:] - a[:2]).prod()) + float((b[2:] - b[:2]).prod()) - inside)


COMBINED = {
    "min": min,
    "max": max,
    "geometric": lambda s, o: (s * o) ** 0.5,
    "arithmetic": lambda s, o: (s + o) / 2,
}


@pytest.mark.parametrize("quality", sorted(COMBINED))
def test_qualities_and_k_are_those_of_method_section_5(quality: str) -> None:
    outputs, (target,) = random_case(seed=7, num_layers=2, num_queries=12, relations=(4,))
    config = MatchingConfig(quality=quality, num_groups=3, max_repeats=6, predicate_weight=1.5)
    groups = make_groups(PREDICATE_COUNT, 3, 6)
    found = examine(outputs, join([target]), config, groups, 2)
    assert found.quality is not None
    for layer in range(2):
        for number, (subject, other, predicate) in enumerate(target.relations.tolist()):
            first, end = (2 * groups.bounds[groups.group_of_predicate[predicate] + step] for step in (0, 1))
            expected = []
            for query in range(12):
                value = 0.0
                if first <= query < end:
                    value = COMBINED[quality](
                        iou(outputs.subject_boxes[layer, 0, query], target.boxes[subject]),
                        iou(outputs.object_boxes[layer, 0, query], target.boxes[other]),
                    )
                expected.append(value + 1.5 * float(outputs.predicate_logits[layer, 0, query].softmax(0)[predicate]))
            assert found.quality[layer, number].tolist() == pytest.approx(expected, abs=1e-5)
            assert found.repeats[layer, number] == max(int(sum(sorted(expected)[-6:])), 1)


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("microscope") / "run"
    config = tiny(training__max_steps=1, matching__num_groups=2, model__num_queries=12, matching__predicate_weight=0.5)
    train(config, toy, folder)
    return folder


@pytest.fixture(scope="module")
def looked(run: Path) -> tuple[Microscope, Slide]:
    opened = Microscope.open(run)
    split = opened.opened.vg.split("val", opened.opened.config.data)
    return opened, opened.slide(split.image_id(0))


def test_a_runs_own_settings_show_what_its_criterion_matches(looked: tuple[Microscope, Slide]) -> None:
    opened, slide = looked
    config = opened.opened.config
    criterion = make_criterion(config, opened._counts, opened.opened.vg.vocabulary)
    _, parts, by_group = criterion.by_group(slide.outputs, slide.target)
    found = [opened.look(slide, number, {}) for number in range(len(slide.triplets))]
    for layer in range(config.model.num_decoder_layers):
        layers = [one["layers"][layer] for one in found]
        mean = sum(one["repeats"] for one in layers) / len(layers)
        assert mean == pytest.approx(float(parts[f"k_log_layer{layer + 1}"]))
        for number, one in enumerate(layers):
            assert one["matched"] == [q for q, row in enumerate(one["relation"]) if row == number]
            assert one["as_trained"] == {"repeats": one["repeats"], "matched": one["matched"]}
            assert {q["query"] for q in one["shown"]} >= set(one["matched"])
    assert sum(len(layer["matched"]) for one in found for layer in one["layers"]) == by_group[:, :-1].sum()
    for group in (0, 1):
        mine = [one for one in found if one["group"] == group]
        assert sum(layer["repeats"] for one in mine for layer in one["layers"]) == by_group[group].sum()
        assert all(one["group_bounds"][2] == 24 for one in mine)


def test_other_settings_change_the_assignment_alone(looked: tuple[Microscope, Slide]) -> None:
    opened, slide = looked
    for repeats in (1, 3):
        layers = opened.look(slide, 0, {**STATIC, "matching.max_repeats": repeats, "matching.num_groups": 1})["layers"]
        assert [layer["repeats"] for layer in layers] == [repeats, repeats]
        assert [layer["quality"] for layer in layers] == [None, None]
        assert [layer["as_trained"] for layer in layers] == [
            layer["as_trained"] for layer in opened.look(slide, 0, {})["layers"]
        ]
    low, high = (opened.look(slide, 0, {"matching.predicate_weight": weight})["layers"][0] for weight in (-1.0, 9.0))
    assert low["repeats"] < high["repeats"]
    assert max(high["quality"]) > max(low["quality"])


def test_the_command_prints_a_table_or_json(run: Path, looked: tuple[Microscope, Slide]) -> None:
    opened, slide = looked
    listed = json.loads(command("microscope", run, slide.image_id, "--json").stdout)
    assert [row["words"] for row in listed] == list(slide.triplets)
    arguments = ("microscope", run, slide.image_id, "--triplet", 0, "--set", "matching.max_repeats=2")
    found = json.loads(command(*arguments, "--json").stdout)
    assert found == json.loads(json.dumps(opened.look(slide, 0, {"matching.max_repeats": 2})))
    shown = command(*arguments).stdout
    assert f"image {slide.image_id} (val) · triplet 0: {slide.triplets[0]} · group" in shown
    for layer in found["layers"]:
        assert f"{layer['quality_sum']:.3f}" in shown
        assert all(f"{q} ({layer['quality'][q]:.2f})" in shown for q in layer["matched"])


def test_what_cannot_be_looked_at_is_refused_in_one_line(run: Path, looked: tuple[Microscope, Slide]) -> None:
    _, slide = looked
    count = len(slide.triplets)
    assert "image nobody: is in no split of" in refusal("microscope", run, "nobody")
    assert f"--triplet {count}: image {slide.image_id} has triplets 0 to {count - 1}" in refusal(
        "microscope", run, slide.image_id, "--triplet", count
    )
    assert "only matching.* can differ" in refusal("microscope", run, slide.image_id, "--set", "seed=1")
    assert "scheme: static has no quality" in refusal(
        "microscope", run, slide.image_id, "--set", "matching.scheme=static"
    )
    assert "exceeds model.num_queries 12" in refusal(
        "microscope", run, slide.image_id, "--set", "matching.num_groups=13"
    )


def test_the_sealed_test_split_of_a_search_is_not_looked_at(run: Path, tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "0000"
    shutil.copytree(run, trial)
    (tmp_path / "study.yaml").write_text("")
    opened = Microscope.open(trial)
    image = opened.opened.vg.split("test", opened.opened.config.data).image_id(0)
    with pytest.raises(ConfigError, match="is sealed"):
        opened.slide(image)


def test_the_page_shows_another_assignment_when_knobs_are_moved(
    run: Path, looked: tuple[Microscope, Slide], chromium: Any
) -> None:
    pytest.importorskip("starlette")
    from speaq.explore.opening import Exploration, explore

    opened, slide = looked
    with served(explore(Exploration(None, run, None, "val"))) as address, Visit(chromium, address, width=400) as visit:
        page = visit.open("/images")
        page.get_by_role("link", name="Microscope").click()
        page.wait_for_url("**/microscope")

        def shown(repeats: str) -> list[str]:
            page.locator("#summary", has_text=re.compile(f"k by layer {repeats}$")).wait_for()
            return page.locator("td.matched").all_inner_texts()

        def expected(found: dict[str, Any]) -> tuple[str, list[str]]:
            layers = found["layers"]
            ks = " ".join(str(layer["repeats"]) for layer in layers)
            return ks, [", ".join(map(str, layer["matched"])) for layer in layers]

        ks, trained = expected(opened.look(slide, 0, {}))
        assert shown(ks) == trained
        page.locator("select[name=quality]").select_option("static")
        page.get_by_label("K", exact=True).fill("3")
        _, moved = expected(opened.look(slide, 0, {**STATIC, "matching.max_repeats": 3}))
        assert shown("3 3") == moved != trained
        assert page.locator("#queries button.hit").count() == 3
        page.locator("#queries button").first.hover()
        assert page.locator("#boxes .on").count() == 2  # the ground truth and that query
        page.get_by_role("button", name="As trained").click()
        assert shown(ks) == trained
        assert visit.overflow() == 0
        with pytest.raises(HTTPError, match="409") as refused:
            urlopen(f"{address}/microscope/look?image={slide.image_id}&groups=13")
        assert "exceeds model.num_queries 12" in json.load(refused.value)["error"]


NUMBERS = (
    "-1e308",
    "1e400",
    "nan",
    "-inf",
    "-1",
    "0",
    "0.5",
    "9" * 5000,
    "1" * 18,
    "\u0663",
    "1_0",
    "\0",
    "%",
    "[]",
    "",
)
NUMERIC = {
    "/microscope": ("triplet", "image"),
    "/microscope/look": ("triplet", "k", "groups", "weight", "quality", "image"),
    "/groups": ("g", "q", "m", "rule", "counts", "own"),
    "/images": ("k", "page", "zero", "predicate"),
    "/predicates": ("sort", "order"),
    "/confusion": ("k",),
    "/specialization": ("k",),
}


def test_no_value_in_an_address_is_an_error_of_the_server(run: Path, looked: tuple[Microscope, Slide]) -> None:
    pytest.importorskip("uvicorn")
    from speaq.explore.opening import Exploration, explore

    _, slide = looked
    answered = {200, 400, 404, 409}
    with served(explore(Exploration(None, run, None, "val"))) as address:
        for path, names in NUMERIC.items():
            for name in names:
                for value in NUMBERS:
                    query = urlencode({"image": slide.image_id} | {name: value})
                    assert status(f"{address}{path}?{query}")[0] in answered, (path, name, value)
        for path in ("/image/", "/thumbnail/", "/photo/", "/trial/"):
            for value in NUMBERS:
                assert status(f"{address}{path}{quote(value)}")[0] in {*answered, 307}, (path, value)
        for name in ("weight", "triplet", "k", "groups"):
            code, text = status(f"{address}/microscope/look?image={slide.image_id}&{name}=-1e308")
            assert code == 400
            assert json.loads(text)["error"].startswith(f"{name}: is a ")


def status(url: str) -> tuple[int, str]:
    """Of an answer: its code and text."""
    try:
        with urlopen(url) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
