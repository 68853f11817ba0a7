"""A training's curves: as a picture while it trains, as a page of `speaq report RUN`; they never cost a training."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from speaq.charts import chart, svg
from speaq.files.locks import Lock
from speaq.runs.standing import standing
from speaq.training.loop import train
from speaq.training.metrics import read_lines
from speaq.training.picture import NAME
from tests.helpers.command import command, refusal
from tests.helpers.explore_data import write_metrics, write_run
from tests.helpers.tiny import tiny


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained with its picture."""
    folder = tmp_path_factory.mktemp("curves") / "run"
    train(tiny(sinks__picture=True), toy, folder)
    return folder


def test_a_training_draws_its_picture_and_learns_the_same(run: Path, toy: Path, tmp_path: Path) -> None:
    assert min(Image.open(run / NAME).size) > 500
    train(tiny(), toy, tmp_path / "plain")
    assert not (tmp_path / "plain" / NAME).exists()
    assert _learned(run) == _learned(tmp_path / "plain")


def _learned(run: Path) -> list[dict[str, float]]:
    clocked = ("seconds", "images_per_second", "data_wait_share")
    lines = read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith(clocked)} for line in lines]


def test_a_picture_that_cannot_be_written_is_said_once_and_costs_nothing(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run" / NAME / "in the way").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, logger="speaq.training.picture"):
        result = train(tiny(sinks__picture=True), toy, tmp_path / "run")
    assert (result["status"], result["step"]) == ("finished", 6)
    assert len([record for record in caplog.records if "sinks.picture" in record.message]) == 1


def test_without_matplotlib_there_is_no_picture_and_one_line(toy: Path, tmp_path: Path) -> None:
    write_metrics(write_run(tmp_path / "run", toy, predictions=False), 60)
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from speaq.training.picture import Picture\n"
        f"made = Picture(Path({str(tmp_path / 'run')!r}))\n"
        "for step in (30, 60): made.write(step, {'val/R@20': 0.5})\n"
        "made.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1
    assert "sinks.picture: training.png is not drawn any more" in done.stderr
    assert not (tmp_path / "run" / NAME).exists()


def test_the_report_of_a_run_is_a_page_and_a_picture(run: Path, tmp_path: Path) -> None:
    (run / NAME).unlink()
    done = command("report", run)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(run / "report.html"), str(run / NAME)]
    assert "speaq confirm" not in done.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    titles = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert titles[:3] == ["Loss", "Recall on val", "Mean recall on val"]
    assert "R@20 of each predicate, val" in titles
    assert "<dt>state</dt><dd>finished</dd>" in page
    assert "http" not in page  # it needs no network
    assert "<script" not in page
    assert command("report", run, "--output", tmp_path / "page.html").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page.png"}
    assert "cannot be written" in refusal("report", run, "--output", tmp_path / "no" / "page.html")
    assert "Call the page .html" in refusal("report", run, "--output", tmp_path / "page.png")


def test_a_run_that_trains_is_shown_as_far_as_it_is(toy: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", toy, predictions=False)
    write_metrics(folder, 60, ended=False)
    lock = Lock(folder)
    try:
        facts = standing(folder).facts
    finally:
        lock.close()
    assert facts["state"] == "running"
    assert facts["steps"].startswith("60 of ")
    assert facts["best so far"].endswith("at step 60")
    assert standing(folder).facts["state"] == "interrupted"
    write_metrics(folder, 90)
    assert standing(folder).facts["state"] == "finished"


@pytest.mark.parametrize("line", ['{"step": "ten"}', '{"step": 10, "val/R@20": "high", "train/seconds": null}', "[]"])
def test_metrics_of_others_do_not_break_the_page(toy: Path, tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run", toy, predictions=False)
    (folder / "metrics.jsonl").write_text(line + "\n", encoding="utf-8")
    assert command("report", folder).exit_code == 0


def test_a_note_of_another_checkpoint_is_left_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    noted = json.loads((run / "predicates.json").read_text())
    for step, kinds in ((noted["step"], 1), (noted["step"] + 1, 0)):
        (tmp_path / "predicates.json").write_text(json.dumps({**noted, "step": step}))
        assert sum(isinstance(one, chart.Bars) for one in standing(tmp_path).charts) == kinds


def test_pictures_and_pages_have_the_same_colours() -> None:
    style = Path(svg.__file__).with_name("chart.css").read_text(encoding="utf-8")
    light = style[: style.index("@media")]
    assert dict(re.findall(r"--k-(\w+): (#\w+)", light)) == chart.COLOURS
