"""Searches that compare trials at their best decoding: what they leave, and that nothing is decoded twice."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from launch.jobs import tune
from launch.report.page import write_report
from launch.search import messages
from launch.search.estimates import Estimates
from launch.search.messages import Finished, Report
from launch.trials.decoding import FILE
from speaq import config as configs
from speaq import space as spaces
from speaq.runs.decoding import halved
from speaq.runs.run import evaluate_run, open_run
from speaq.study import creation
from speaq.study import snapshot as snapshots
from speaq.study.board import Board
from speaq.study.errors import one_line
from speaq.study.file import Study
from speaq.study.ledger import LedgerError, read_rows
from speaq.training.callbacks import no_progress
from speaq.training.environment import versions
from tests.helpers.command import command
from tests.helpers.fake_tune import Fake, make_plan
from tests.helpers.tiny import tiny

TOGETHER = "ray"  # shares `ray_cluster`, see conftest

RATE = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
FOUND = {"inference.nms_threshold": 0.7, "inference.pairwise_nms": None}


def decoding(value: float, trained: float) -> dict[str, Any]:
    points = [(value, value / 2), (value + 0.1, value / 4)]
    return {
        "found": FOUND,
        "trained": {"F@50": trained, "R@50": trained, "mR@50": trained},
        "curve": [{"R@50": recall, "mR@50": mean} for recall, mean in points],
        "tried": 40,
        "searched": 20,
        "judged": 21,
        "seconds": 1.5,
    }


def decoded(folder: Path, objective: tuple[str, ...] = ("F@50",), trials: int = 4) -> Path:
    """A search on paper whose finished trials were decoded, and whose last one was paused."""
    folder.mkdir()
    plan = make_plan(trials, objective, decoding=True)
    (folder / "study.yaml").write_text(Study(plan, folder / "data", "0123456789abcdef", None, versions()).dump())
    fake = Fake(plan, folder)
    for number in range(trials):
        name, _ = fake.ask()
        fake.report(name, 30, 0.9 - 0.1 * number)  # as trained, in another order
        if number == trials - 1:
            fake.prune(name, 30, 0.9 - 0.1 * number)
            break
        value = 0.3 + 0.1 * number
        metrics = {"F@50": value, "R@50": value, "mR@50": value / 2}
        last = messages.report_result(Report(90, dict.fromkeys(metrics, 0.2), 2.0), 0.2)
        done = Finished(metrics, 90, 90, seconds=2.0, decoding=decoding(value, 0.2))
        fake.search.on_trial_complete(name, messages.final_result(last, done))
    fake.ledger.close()
    return folder


def test_tables_pages_and_files_say_what_training_gave_and_what_decoding_gave(tmp_path: Path) -> None:
    folder = decoded(tmp_path / "study")
    snapshot = snapshots.read(folder)
    board = Board.of(snapshot)
    assert board.best is not None
    assert board.best.id == "0002"
    assert board.measured is not None
    assert "found on 20 images of val, judged on the other 21" in board.measured
    row = board.rows[2]
    assert (row["F@50"], row["F@50 as trained"], row["decoding"]) == (0.5, 0.2, "nms_threshold=0.7 pairwise_nms=null")
    assert (board.rows[3]["F@50 as trained"], board.rows[3]["decoding"]) == (None, "")
    board.write(folder)
    best = configs.load(folder / "best.yaml")
    assert best.inference.nms_threshold == 0.7
    assert "decoded with nms_threshold=0.7" in (folder / "best.yaml").read_text()
    for ending in (".csv", ".tex", ".db", ".parquet"):
        assert command("export", folder, tmp_path / f"trials{ending}").exit_code == 0
    assert list(csv.DictReader((tmp_path / "trials.csv").open()))[2]["F@50 as trained"] == "0.2"
    assert "F@50 as trained" in (tmp_path / "trials.tex").read_text()
    said = command("status", folder).stdout
    assert "F@50 as trained" in said
    assert board.measured in " ".join(said.split())
    told = json.loads(command("status", folder, "--json").stdout)["trials"]
    assert [trial["decoding"] and trial["decoding"]["trained"]["F@50"] for trial in told] == [0.2, 0.2, 0.2, None]


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")])
def test_the_report_draws_the_best_trials_as_curves(tmp_path: Path, objective: tuple[str, ...]) -> None:
    folder = decoded(tmp_path / "study", objective)
    page = write_report(snapshots.read(folder)).read_text()
    assert "Training and decoding" in page
    assert "decodings of best (0002)" in page
    assert "decodings of published" in page
    assert (folder / "report" / "history.png").exists()


def test_no_ranking_mixes_both_numbers_and_the_sampler_is_told_the_decoded_one(tmp_path: Path) -> None:
    snapshot = snapshots.read(decoded(tmp_path / "study"))
    estimates = Estimates(snapshot.entries, snapshot.plan)
    told = [estimates.told(entry) for entry in snapshot.entries]
    assert [trial.value for trial in told[:3]] == [0.3, 0.4, 0.5]
    gained = sorted(final - (0.9 - 0.1 * n) for n, final in enumerate((0.3, 0.4, 0.5)))[1]
    assert told[3].value == pytest.approx(0.6 + gained)  # what it would have come to, decoded as the others


def test_a_ledger_with_another_decoding_is_refused_in_one_line(tmp_path: Path) -> None:
    path = decoded(tmp_path / "study") / "ledger.jsonl"
    whole = path.read_text()
    for then, now, reason in (
        ('"inference.nms_threshold": 0.7', '"training.max_steps": 7', "is no key of the inference section"),
        ('"judged": 21', '"judged": "many"', "decoding: judged"),
        ('"F@50": 0.2, "R@50": 0.2', '"F@50": 2.5, "R@50": 0.2', "decoding: trained"),
    ):
        path.write_text(whole.replace(then, now))
        with pytest.raises(LedgerError, match=reason) as error:
            read_rows(path)
        assert "\n" not in one_line(error.value)


def test_confirm_trains_with_the_decoding_and_compares_on_the_images_of_the_search(toy: Path, tmp_path: Path) -> None:
    folder, config = tmp_path / "study", tiny(data__num_val=24)
    folder.mkdir()
    content = {"search": {"decoding": True, "objective": ["R@50"], "scheduler": "none"}}
    space = spaces.from_dict({**content, "parameters": {"training.learning_rate": RATE}})
    made = creation.create(config, space, toy, trials=1)
    tune.write(made, folder, None)
    fake = Fake(made.plan, folder)
    told = {**decoding(0.5, 0.2), "searched": 12, "judged": 12}
    done = Finished({"R@50": 0.5}, 6, 6, seconds=2.0, decoding=told)
    fake.search.on_trial_complete(fake.ask()[0], messages.final_result({}, done))
    fake.ledger.close()
    assert command("confirm", folder, "--top", "1", "--seeds", "3").exit_code == 0
    run = folder / "confirm" / "0000" / "seed-3"
    assert configs.load(run / "config.yaml").inference.nms_threshold == 0.7
    searched, judged = halved(open_run(run), no_progress)
    found = json.loads((folder / "confirm" / "confirm.json").read_text())
    again = judged.metrics(judged.config.inference)["R@50"]
    assert found["optimism"]["confirmed"] == pytest.approx(again)
    whole = dataclasses.replace(judged, batches=[*searched.batches, *judged.batches])
    assert found["settings"][0]["mean"]["value"] == pytest.approx(whole.metrics(judged.config.inference)["R@50"])


@pytest.mark.slow
def test_a_search_decodes_each_finished_trial_once(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "study"
    config = tiny(data__num_val=24, training__max_steps=6, training__eval_every=3)
    search = {"decoding": True, "objective": ["F@20"], "scheduler": "none"}
    space = spaces.from_dict({"search": search, "parameters": {"training.learning_rate": RATE}})
    entries = tune.start(creation.create(config, space, toy, trials=3), output)
    assert [entry.state for entry in entries] == ["finished"] * 3
    for entry in entries:
        assert entry.decoding is not None
        content = json.loads((output / "trials" / entry.id / FILE).read_text())
        assert content["metrics"] == entry.metrics
        assert (entry.decoding.searched, entry.decoding.judged) == (12, 12)
    assert configs.load(output / "best.yaml") == Board(entries, snapshots.read(output).plan).config_of(
        max(entries, key=lambda entry: entry.metrics["F@20"] or 0.0)
    )
    ledger = output / "ledger.jsonl"
    rows = ledger.read_text().splitlines()
    killed = [row for row in rows if '"finished"' not in row or '"trial": "0000"' in row]  # before they were told
    ledger.write_text("\n".join(killed) + "\n")
    kept, lost = (output / "trials" / trial / FILE for trial in ("0001", "0002"))
    before, told = kept.stat().st_mtime_ns, json.loads(lost.read_text())["metrics"]
    lost.unlink()  # killed in the middle of its decodings
    again = tune.resume(output)
    assert kept.stat().st_mtime_ns == before
    assert json.loads(lost.read_text())["metrics"] == told
    assert [dict(entry.metrics) for entry in again] == [dict(entry.metrics) for entry in entries]
    assert [(e.decoding and e.decoding.found) for e in again] == [(e.decoding and e.decoding.found) for e in entries]
    assert tune.resume(output) == again
    run = output / "trials" / "0001"
    assert evaluate_run(run).evaluation.metrics == pytest.approx(dict(again[1].reports[again[1].best_step or 0]))


@pytest.mark.slow
def test_a_trial_of_two_workers_is_decoded_on_a_worker(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "study"
    config = tiny(data__num_val=24, training__max_steps=3, training__decay_steps=[2], resources__num_workers=2)
    space = spaces.from_dict({"search": {"decoding": True}, "parameters": {"training.learning_rate": RATE}})
    (entry,) = tune.start(creation.create(config, space, toy, trials=1), output)
    assert entry.reason is None
    assert entry.decoding is not None
    assert (entry.decoding.searched, entry.decoding.judged) == (12, 12)
    assert entry.seconds >= entry.decoding.seconds
    assert json.loads((output / "trials" / "0000" / FILE).read_text())["metrics"] == entry.metrics
