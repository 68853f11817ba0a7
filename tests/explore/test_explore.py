"""`speaq explore` in a browser: images, filters, hits and misses, tables, searches; by keyboard, and at 400 px."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl, quote, urlsplit

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")

from speaq.api.actions import load_data
from speaq.config import DataConfig, EvaluationConfig
from speaq.data.visual_genome import open_data
from speaq.evaluation.protocol import PROTOCOLS, Mode
from speaq.evaluation.protocols import evaluate_file
from speaq.evaluation.recall import RecallEvaluator
from speaq.explore import server
from speaq.explore.context import NotFound
from speaq.explore.filters import Filter
from speaq.explore.judgement import NOTHING, Counting, best_said, judge
from speaq.explore.labels import place_labels
from speaq.explore.opening import Exploration, explore
from speaq.explore.pages.images import PER_PAGE
from speaq.explore.view import View
from speaq.files.locks import Lock
from speaq.structures import SceneGraph, ScenePrediction
from tests.helpers import data_sets
from tests.helpers.browser import PATIENCE, Visit, served
from tests.helpers.command import refusal
from tests.helpers.explore_data import write_many, write_metrics, write_predictions, write_run, write_study
from tests.helpers.shared import SHARED, needs

PAGES = ("/images", "/predicates", "/confusion")


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("explore") / "run", toy)


@pytest.fixture(scope="module")
def view(run: Path) -> View:
    return explore(Exploration(None, run, None, "val")).main


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """A server over a run on the toy world."""
    with served(explore(Exploration(None, run, None, "val"))) as where:
        yield where


# in a browser


def test_filters_an_image_and_the_keyboard(address: str, view: View, chromium: Any) -> None:
    with Visit(chromium, address) as visit:
        page = visit.open("/")
        assert page.locator(".grid li").count() == len(view.split)
        page.get_by_label("Model").select_option("missed")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**found=missed**")
        expected = Filter(found="missed").select(view)
        assert page.get_by_role("status").inner_text().startswith(f"{len(expected.images)} of {len(view.split)} images")
        page.locator(".grid a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/image/**")
        assert page.locator("h1").inner_text() == f"Image {view.split.image_id(int(expected.images[0]))}"
        assert page.locator('ol[aria-label="Ground truth: triplets"] button.missed').count() > 0
        page.keyboard.press("j")
        page.wait_for_function(
            "id => document.querySelector('h1').textContent.endsWith(id)", arg=_id(view, expected, 1)
        )
        page.keyboard.press("ArrowLeft")
        page.wait_for_function(
            "id => document.querySelector('h1').textContent.endsWith(id)", arg=_id(view, expected, 0)
        )


def _id(view: View, selected: Any, place: int) -> str:
    return view.split.image_id(int(selected.images[place]))


def test_a_triplet_in_focus_shows_its_boxes_and_its_counterpart(address: str, view: View, chromium: Any) -> None:
    image = view.split.image_id(int(Filter(found="hit").select(view).images[0]))
    with Visit(chromium, address) as visit:
        page = visit.open(f"/image/{image}")
        button = page.locator('ol[aria-label="Ground truth: triplets"] button.hit').first
        for _ in range(100):
            page.keyboard.press("Tab")
            if button.evaluate("element => element === document.activeElement"):
                break
        partner = button.get_attribute("data-partner")
        assert page.locator(f'button.hit.on[data-triplet="{partner}"]').count() == 1
        ends = set((button.get_attribute("data-ends") or "").split())
        lit = page.locator("section:first-child .photo .box.on").evaluate_all("all => all.map(e => e.dataset.box)")
        assert set(lit) == ends
        page.locator("h1").click()
        assert page.locator(".on").count() == 0


def test_the_page_says_of_an_image_what_recall_says(address: str, view: View, chromium: Any) -> None:
    row = int(Filter(found="wrong").select(view).images[0])
    graph = view.graph(row)
    found = view.predicted(graph)
    assert found is not None
    hits = {
        tuple(relation) for relation, rank in zip(graph.relations.tolist(), found[1].rank, strict=True) if rank < 20
    }
    with Visit(chromium, address) as visit:
        page = visit.open(f"/image/{graph.image_id}?k=20")
        assert page.locator('ol[aria-label="Ground truth: triplets"] button.hit').count() == len(hits)
        assert page.locator('ol[aria-label="Prediction: triplets"] li').count() == min(20, len(found[1].pairs))
        assert page.locator(".photo image").count() == 2
        sizes = page.evaluate(
            "fetch(document.querySelector('image').href.baseVal).then(r => r.headers.get('content-type'))"
        )
        assert sizes == "image/jpeg"


def test_no_page_scrolls_sideways_at_400_pixels(address: str, view: View, chromium: Any) -> None:
    with Visit(chromium, address, width=400, dark=True) as visit:
        for path in (*PAGES, f"/image/{view.split.image_id(0)}"):
            page = visit.open(path)
            assert (path, visit.overflow()) == (path, 0)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_tables_are_sorted_by_their_headers(address: str, view: View, chromium: Any) -> None:
    with Visit(chromium, address) as visit:
        page = visit.open("/predicates")
        recalls = page.locator("table").first.locator("tbody tr").first.locator("td").all_inner_texts()
        metrics = view.judgement.recall.metrics
        assert recalls[:3] == [f"{metrics[name]:.3f}" for name in ("R@20", "mR@20", "F@20")]
        page.get_by_role("link", name="in this split").click()
        page.wait_for_url("**sort=here**")
        counts = [
            int(t.replace(",", "")) for t in page.locator("table.sortable tbody td:nth-child(4)").all_inner_texts()
        ]
        assert counts == sorted(counts, reverse=True)
        assert sum(counts) == len(view.split.relations)
        page = visit.open("/confusion")
        cells = page.locator("table.heat tbody td").all_inner_texts()
        truth = view.split.relations[:, 2].astype(np.int64)
        assert sum(int(text or 0) for text in cells) == view.judgement.confusion(truth, 20, len(view.part)).sum()
        page.locator("a:has-text('images of')").first.click()
        page.wait_for_url("**said=**")
        assert page.locator(".grid li").count() > 0


def test_of_ten_thousand_images_a_page_is_loaded(tmp_path: Path, chromium: Any) -> None:
    with (
        served(explore(Exploration(write_many(tmp_path / "many", 10_000)))) as address,
        Visit(chromium, address) as visit,
    ):
        page = visit.open("/images")
        assert page.get_by_role("status").inner_text().startswith("9,000 of 9,000 images")
        page.locator(".grid li").last.scroll_into_view_if_needed()
        page.wait_for_load_state("networkidle")
        thumbnails = [path for path in visit.requests if path.startswith("/thumbnail/")]
        assert 0 < len(thumbnails) <= PER_PAGE
        page = visit.open("/images?predicate=near&page=84")
        assert page.locator(".grid li").count() == 4000 - 83 * PER_PAGE
        assert len([path for path in visit.requests if path.startswith("/thumbnail/")]) <= PER_PAGE


def test_names_are_shown_as_text(tmp_path: Path, chromium: Any) -> None:
    hostile = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"
    data = data_sets.write(tmp_path / "data")
    path = data / "VG-SGG-dicts-with-attri.json"
    path.write_text(path.read_text().replace('"cat"', json.dumps(hostile)))
    with served(explore(Exploration(data))) as address, Visit(chromium, address) as visit:
        for where in ("/images", f"/images?text={quote('</script>')}", "/image/11"):
            assert "run" not in visit.open(where).title()
        assert hostile in visit.page.locator("ol.triplets").inner_text()


@needs("data", "coco128-vg")
def test_photos_of_a_run_without_predictions(tmp_path: Path, chromium: Any) -> None:
    run = write_run(tmp_path / "run", SHARED / "data" / "coco128-vg", predictions=False)
    with served(explore(Exploration(None, run, None, "val"))) as address, Visit(chromium, address) as visit:
        page = visit.open("/")
        command = page.locator(".note pre").inner_text()
        assert command.startswith(f"speaq evaluate {run} --data ")
        assert page.get_by_label("Model").count() == 0
        page.wait_for_function(
            "[...document.querySelectorAll('.grid img')].every(i => i.complete && i.naturalWidth > 0)"
        )
        page.locator(".grid a").first.click()
        page.wait_for_url("**/image/**")
        assert page.locator("svg.photo").count() == 1


@needs("data", "vg-100")
def test_a_data_set_without_photos(chromium: Any) -> None:
    with (
        served(explore(Exploration(SHARED / "data" / "vg-100"))) as address,
        Visit(chromium, address, width=400) as visit,
    ):
        page = visit.open("/images?part=body")
        page.wait_for_function(
            "[...document.querySelectorAll('.grid img')].some(i => i.complete && i.naturalWidth > 0)"
        )
        page.locator(".grid a").first.click()
        page.wait_for_url("**/image/**")
        assert page.locator("svg.photo .box").count() > 0
        assert page.locator("svg.photo image").count() == 0
        assert visit.overflow() == 0


def test_a_search_and_its_trials(toy: Path, run: Path, tmp_path: Path, chromium: Any) -> None:
    hostile = "</script><script>document.title='run'</script>"
    study = write_study(tmp_path / "study", toy, reason=hostile)
    shutil.copytree(run, study / "trials" / "0001")
    write_run(study / "trials" / "0004", toy, predictions=False)
    with served(explore(Exploration(toy, None, study, "val"))) as address, Visit(chromium, address) as visit:
        page = visit.open("/")
        names = [name.split()[0] for name in page.locator("tbody th").all_inner_texts()]
        assert names == ["0001", "0000", "0002", "0003", "0004"]  # by the objective, those without it last
        assert hostile in page.locator("table").inner_text()
        page.locator("table").get_by_role("link", name="0001").click()
        page.wait_for_url("**/trial/0001/images")
        page.get_by_role("link", name="Confusion").click()
        page.wait_for_url("**/trial/0001/confusion**")
        assert page.locator("h1").inner_text() == "Confusion of predicates"
        page = visit.open("/trial/0004/images")
        assert "speaq evaluate" in page.locator(".note pre").inner_text()
        assert ask(address, "/trial/none/images")[0] == 404


def test_a_search_is_drawn_and_its_marks_lead_to_its_trials(
    toy: Path, run: Path, tmp_path: Path, chromium: Any
) -> None:
    study = write_study(tmp_path / "study", toy, reason="too large")
    shutil.copytree(run, study / "trials" / "0001")
    write_metrics(study / "trials" / "0001", 90)
    with served(explore(Exploration(toy, None, study, "val"))) as address, Visit(chromium, address) as visit:
        page = visit.open("/study")
        titles = page.locator("figcaption").all_inner_texts()
        assert titles == ["R@20 and mR@20", "Trial by trial", "Learning curves", "Importance of the parameters"]
        front = page.locator("figure").first
        assert front.locator(".point").count() == 3
        assert front.locator("text.label").all_text_contents() == ["published", "baseline"]
        assert page.locator("figure").nth(2).locator(".line").count() == 3
        assert 'pip install -e ".[ray]"' in page.locator("#importance").inner_text()
        assert page.locator("figure a").count() == 3  # of the trial that has a folder, in each chart
        front.locator("a.point").click()
        page.wait_for_url("**/trial/0001/training")
        assert page.locator("dl.facts").first.inner_text().splitlines()[:2] == ["state", "finished"]
        assert "baseline" in page.locator("dl.facts").first.inner_text()
        assert page.locator("details.settings summary").inner_text().endswith("settings of the search")
        page.get_by_role("link", name="Images").click()
        page.wait_for_url("**/trial/0001/images")


def test_trials_of_two_protocols_are_listed_but_not_drawn(toy: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", toy, reason="")
    ledger = study / "ledger.jsonl"
    rows = [json.loads(row) for row in ledger.read_text().splitlines()]
    for row in rows:
        if row["event"] == "asked":
            row["protocol"] = "sgdet published" if row["trial"] == "0000" else "sgdet strict"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(explore(Exploration(toy, None, study, "val"))) as address:
        status, body, _ = ask(address, "/study")
        assert status == 200
        assert "different protocols cannot be compared" in body
        assert "figure" not in body
        assert body.count('<th scope="row">') == 5


def test_a_trial_of_a_ladder_has_the_curves_of_both_its_trainings(toy: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", toy, reason="")
    for trial in ("0001", "0004"):
        folder = write_run(study / "trials" / trial / "features", toy, predictions=False)
        write_metrics(folder, 30)
    own = write_run(tmp_path / "own", toy, predictions=False)
    write_metrics(own, 90)
    shutil.copytree(own, study / "trials" / "0001", dirs_exist_ok=True)
    with served(explore(Exploration(toy, None, study, "val"))) as address:
        both, first = (ask(address, f"/trial/{trial}/training")[1] for trial in ("0001", "0004"))
        assert both.count("<figcaption>Loss</figcaption>") == 2
        assert "From stored features, before" in both
        assert first.count("<figcaption>Loss</figcaption>") == 1
        assert '/trial/0004/training"' in ask(address, "/study")[1]


def test_a_run_is_drawn_while_it_trains(toy: Path, run: Path, tmp_path: Path, chromium: Any) -> None:
    shutil.copytree(run, tmp_path / "run")
    write_metrics(tmp_path / "run", 30, ended=False)
    with (
        Lock(tmp_path / "run"),
        served(explore(Exploration(None, tmp_path / "run", None, "val"))) as address,
        Visit(chromium, address) as visit,
    ):
        page = visit.open("/training")
        facts = page.locator("dl.facts").inner_text()
        assert "running" in facts
        assert "30 of" in facts
        titles = page.locator("figcaption").all_inner_texts()
        assert titles[:3] == ["Loss", "Recall on val", "Mean recall on val"]
        assert "Relation queries with a target" in titles
        write_metrics(tmp_path / "run", 60, ended=False)
        page.locator("dl.facts").filter(has_text="60 of").wait_for()


def test_charts_fit_a_phone(toy: Path, run: Path, tmp_path: Path, chromium: Any) -> None:
    study = write_study(tmp_path / "study", toy, reason="a" * 300)
    shutil.copytree(run, study / "trials" / "0001")
    write_metrics(study / "trials" / "0001", 90, groups=9)
    with (
        served(explore(Exploration(toy, None, study, "val"))) as address,
        Visit(chromium, address, width=400, dark=True) as visit,
    ):
        for path in ("/study", "/study/importance", "/trial/0001/training"):
            visit.open(path)
            assert (path, visit.overflow()) == (path, 0)


def test_the_worst_images_come_first_with_their_boxes(address: str, view: View, chromium: Any) -> None:
    chosen = Filter(sort="worst")
    worst = chosen.ordered(chosen.select(view), view).tolist()
    with Visit(chromium, address) as visit:
        page = visit.open("/images")
        page.get_by_label("Order").select_option("worst")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**sort=worst**")
        assert page.locator(".grid .caption > span:first-child").all_inner_texts() == [
            _name(view, row) for row in worst
        ]
        assert page.locator(".grid li").first.locator(".thumb rect.stroke").count() == len(view.graph(worst[0]).classes)
        assert page.locator(".thumb .hit").count() > 0
        page.get_by_label("boxes").uncheck()
        assert page.locator(".thumb svg").first.is_hidden()
        page.locator(".grid a").nth(1).click()
        page.wait_for_url("**/image/**sort=worst**")
        assert page.locator("a[rel=prev]").get_attribute("href") == f"/image/{_name(view, worst[0])}?k=20&sort=worst"
        page.go_back()
        assert page.locator(".thumb svg").first.is_hidden()  # remembered


def _name(view: View, row: int) -> str:
    return view.split.image_id(row)


def test_a_score_says_which_predictions_are_drawn(address: str, view: View, chromium: Any) -> None:
    graph = view.graph(0)
    found = view.predicted(graph)
    assert found is not None
    scores = found[1].scores[:20]
    least = float(np.median(scores))
    kept = int((scores >= least).sum())
    with Visit(chromium, address) as visit:
        page = visit.open(f"/image/{graph.image_id}?score={least - 1e-6:.6f}")
        rows = page.locator('ol[aria-label="Prediction: triplets"] li:not(.off)')
        assert rows.count() == kept
        guess = page.locator("section").nth(1)
        words = guess.locator("tspan:not(.off)")
        assert words.count() == kept
        ends = {
            end
            for both in rows.locator("button").evaluate_all("all => all.map(e => e.dataset.ends)")
            for end in both.split()
        }
        boxes = guess.locator(".photo .box:not(.off)").evaluate_all("all => all.map(e => e.dataset.box)")
        assert set(boxes) == ends
        slider = page.get_by_label("Least score")
        slider.focus()
        page.keyboard.press("Home")
        assert rows.count() == len(scores)
        page.keyboard.press("End")
        assert rows.count() == 1
        assert "score=" in (page.locator("a[rel=next]").get_attribute("href") or "")
        assert page.locator('ol[aria-label="Ground truth: triplets"] li.off').count() == 0


@pytest.mark.parametrize(("width", "beside"), [(1280, True), (400, False)])
def test_the_graph_stands_beside_the_photo(address: str, view: View, chromium: Any, width: int, beside: bool) -> None:
    with Visit(chromium, address, width=width) as visit:
        page = visit.open(f"/image/{view.split.image_id(0)}")
        photo, graph = (page.locator(f"section:first-child svg.{name}").bounding_box() for name in ("photo", "graph"))
        assert (graph["x"] >= photo["x"] + photo["width"]) == beside
        assert (graph["y"] >= photo["y"] + photo["height"]) == (not beside)
        if beside:
            page.get_by_label("graph beside the photo").uncheck()
            sections = [page.locator("section").nth(n).bounding_box() for n in (0, 1)]
            assert sections[1]["x"] >= sections[0]["x"] + sections[0]["width"]
        assert visit.overflow() == 0


# what the server answers


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    """Status, body and headers of an answer; redirects are not followed."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace"), answer.headers


def test_other_names_of_this_machine_get_no_answer(address: str) -> None:
    assert ask(address, "/images", Host="rebound.example")[0] == 400
    assert ask(address, "/images", Host="localhost:1")[0] == 200


def test_every_answer_forbids_foreign_content_and_nothing_is_written(address: str) -> None:
    for path in ("/images", "/static/style.css", "/nowhere"):
        policy = ask(address, path)[2]["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert ask(address, "/images", "POST")[0] == 405


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/nowhere", "There is no such page."),
        ("/image/none", "has no image none."),
        ("/images?predicate=flies", "predicate=flies: is none of "),
        ("/images?k=0", "k=0: is a whole number from 1 to 1000."),
        ("/images?sort=name", "sort=name: is none of worst, best."),
        ("/image/1?score=high", "score=high: is a number from 0 to 1."),
        ("/images?found=all", "found=all: is none of hit, wrong, missed."),
        ("/static/../../config.py", "There is no such page."),
    ],
)
def test_a_wrong_address_is_answered_in_a_line(address: str, path: str, text: str) -> None:
    status, body, _ = ask(address, path)
    assert status == 404
    assert text in body


def test_a_thumbnail_is_kept_by_the_browser(address: str, view: View) -> None:
    path = f"/thumbnail/{view.split.image_id(0)}"
    status, _, headers = ask(address, path)
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert int(headers["Content-Length"]) < 40_000
    assert ask(address, path, **{"If-None-Match": headers["ETag"]})[0] == 304


def test_a_broken_photo_is_said(toy: Path, tmp_path: Path) -> None:
    data = data_sets.write(tmp_path / "data")
    (data / "VG_100K" / "11.jpg").write_bytes(b"no photo")
    with served(explore(Exploration(data))) as address:
        assert "photo cannot be read" in ask(address, "/thumbnail/11")[1]
        assert ask(address, "/image/11")[0] == 200


# matching and filters


def test_rows_are_judged_as_recall_counts_them(view: View) -> None:
    evaluator = RecallEvaluator(view.data.num_predicates, view.evaluation)
    for row in range(len(view.split)):
        graph = view.graph(row)
        found = view.predicted(graph)
        assert found is not None
        evaluator.add(row, graph, found[0])
    assert view.judgement.rank.tolist() == evaluator.table().rows.rank.tolist()
    assert view.judgement.recall.metrics["R@50"] == evaluator.result().metrics["R@50"]
    fates = [mask(20).astype(int) for mask in (view.judgement.hit, view.judgement.wrong, view.judgement.missed)]
    assert (sum(fates) == 1).all()
    assert all(fate.sum() > 0 for fate in fates)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_mode_and_protocol_counts_as_metrics_does(run: Path, view: View, mode: Mode) -> None:
    """`imitate` predicts on ground-truth boxes, so that its file is one of every mode."""
    counted = evaluate_file(run / "predictions.h5", view.data, "val", mode, view.evaluation)
    for name, result in zip(PROTOCOLS, counted.results, strict=True):
        seen = explore(Exploration(None, run, None, "val", None, mode, name)).main
        assert seen.judgement.recall.protocol == seen.counting.name == result.protocol
        assert seen.judgement.recall.metrics == result.metrics
    for name, result in (("ng", counted.results[0]), ("ng_unique", counted.results[1])):
        seen = explore(Exploration(None, run, None, "val", None, mode, name)).main
        assert seen.judgement.recall.protocol == seen.counting.name == result.unconstrained_protocol
        assert seen.judgement.recall.metrics["R@20"] == result.metrics["ngR@20"] != result.metrics["R@20"]
        assert seen.judgement.recall.metrics["mR@20"] == result.averages["ngmR@20"]
        graph = seen.graph(0)
        found = seen.predicted(graph)
        assert found is not None
        assert (np.diff(found[1].scores) <= 0).all()


def test_another_true_predicate_of_a_pair_is_no_confusion() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    relations = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 0]])
    graph = SceneGraph("1", (40, 40), boxes, np.array([0, 1]), relations)
    said = ScenePrediction(
        boxes,
        np.array([0, 1]),
        np.ones(2, np.float32),
        np.array([[0, 1], [1, 0]]),
        np.array([1, 2]),
        np.array([0.9, 0.8], np.float32),
        np.full((2, 4), 0.25, np.float32),
        np.array([0, 1]),
    )
    judged = judge(graph, said, Counting(EvaluationConfig()))
    assert best_said(graph, judged).tolist() == [NOTHING, 1, 2]
    assert judged.hit.tolist() == [True, False]
    assert judged.near.tolist() == [True, True]


def test_conditions_hold_for_one_relation(view: View) -> None:
    names = view.data.vocabulary.predicates
    predicate = names[int(view.split.relations[0, 2])]
    noun = view.data.vocabulary.objects[int(view.relation_classes[0, 0])]
    chosen = Filter(predicate=predicate, text=noun.upper())
    kept = chosen.select(view)
    expected = [
        names[p] == predicate and any(noun in view.data.vocabulary.objects[c] for c in ends)
        for p, ends in zip(view.split.relations[:, 2], view.relation_classes, strict=True)
    ]
    assert kept.relations.tolist() == expected
    assert kept.images.tolist() == sorted(set(view.split.relation_image[expected].tolist()))
    assert 0 < len(kept.images) < len(view.split)
    everything = Filter().select(view)
    parts = [Filter(part=part).select(view).relations for part in ("head", "body", "tail")]
    assert (sum(p.astype(int) for p in parts) == 1).all()
    assert len(everything.images) == len(view.split)


@pytest.mark.parametrize("chosen", [Filter(sort="worst"), Filter(sort="best"), Filter(sort="worst", part="head")])
def test_images_are_sorted_by_what_is_found_of_them(view: View, chosen: Filter) -> None:
    selected = chosen.select(view)
    rows = chosen.ordered(selected, view)
    assert sorted(rows.tolist()) == selected.images.tolist()
    hit, image = view.judgement.hit(20), view.split.relation_image
    shares = [hit[some].mean() if (some := selected.relations & (image == row)).any() else np.nan for row in rows]
    known = [share for share in shares if not np.isnan(share)]
    assert shares[: len(known)] == known  # those without a relation are last
    assert known == sorted(known, reverse=chosen.sort == "best")


def test_a_filter_is_read_as_it_is_written(view: View) -> None:
    name = view.data.vocabulary.predicates[0]
    for chosen in (
        Filter(),
        Filter(predicate=name, found="wrong", text="a & b", zero="1", k=50),
        Filter(sort="worst", score=0.25),
    ):
        assert Filter.read(dict(parse_qsl(chosen.query().lstrip("?"))), view) == chosen
    with pytest.raises(NotFound, match="said=flies"):
        Filter.read({"said": "flies"}, view)


def test_names_and_photos_as_other_programs_leave_them(tmp_path: Path) -> None:
    """A predicate with a space behind it, an accent of two characters, photos in the second folder alone."""
    folder = data_sets.write(tmp_path)
    names = {"label_to_idx": {"cafe\u0301": 1, "dog": 2, "hat": 3}, "predicate_to_idx": {"on ": 1, "near": 2}}
    (folder / "VG-SGG-dicts-with-attri.json").write_text(json.dumps(names))
    (folder / "VG_100K").rename(folder / "VG_100K_2")
    view = explore(Exploration(folder)).main
    assert Filter.read({"predicate": "on ", "text": " Caf\u00e9 "}, view) == Filter(predicate="on ", text="Caf\u00e9")
    assert len(Filter(text="Caf\u00e9").select(view).images) > 0
    assert view.split.folder is not None
    assert load_data(folder).photos is not None


def test_predictions_that_are_being_written_are_in_nobodys_way(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / ".0a1b2c.tmp.predictions-val.h5").write_bytes(b"\x89HDF\r\n")
    stored = explore(Exploration(None, folder, None, "val")).main.predictions
    assert stored is not None
    assert stored.path == folder / "predictions.h5"


def test_labels_lie_on_the_photo_and_hide_none() -> None:
    boxes = [[10, 10, 200, 200], [12, 14, 190, 180], [300, 5, 620, 470], [0, 0, 640, 480]]
    spots = place_labels(boxes, ["man 1", "man 2", "horse", "field"], (480, 640), 1.0)
    assert not any(a.shared(b) for i, a in enumerate(spots) for b in spots[:i])
    assert all(s.x >= 0 and s.y >= 0 and s.x + s.width <= 640 and s.y + s.height <= 480 for s in spots)


# the command


def test_the_command_serves_until_it_is_interrupted(toy: Path) -> None:
    words = [sys.executable, "-m", "speaq.cli", "explore", str(toy)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        where = process.stdout.readline().split()[0]
        assert urlsplit(where).hostname == "127.0.0.1"
        assert ask(where, "/images")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "ended\n")


def test_what_cannot_be_explored_is_refused(toy: Path, run: Path, tmp_path: Path) -> None:
    assert "a folder of data, --run RUN or --study STUDY" in refusal("explore")
    assert "split val has no image" in refusal("explore", toy, "--split", "val")
    assert "is no search" in refusal("explore", "--study", tmp_path)
    assert "give it once" in refusal("explore", toy, "--data", toy)
    assert "leave --run" in refusal("explore", "--study", tmp_path, "--run", run)
    assert "--predict: needs --run" in refusal("explore", toy, "--predict")
    assert "--mode phrase: has no effect without predictions" in refusal("explore", toy, "--mode", "phrase")
    assert "--protocol ng: has no effect without predictions" in refusal("explore", toy, "--protocol", "ng")
    assert "config.yaml" in refusal("explore", "--run", tmp_path, "--data", toy)
    vg = open_data(toy)
    other = write_predictions(tmp_path / "test.h5", vg, "test", DataConfig(num_val=6))
    assert "split · is that asked for, train · test" in refusal("explore", toy, "--predictions", other)
    with server.bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: cannot be used" in refusal("explore", toy, "--port", port)


def test_missing_libraries_are_named() -> None:
    code = "import sys; sys.modules['jinja2'] = None; from speaq.cli.main import app; app(['explore', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, 'speaq: jinja2 is not installed: pip install -e ".[explore]"\n')
