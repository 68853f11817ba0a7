"""What is done with a study afterwards, or from another terminal: status, export, report, diff, rerun."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speaq import config as configs
from speaq.data.toy.world import make_toy
from speaq.data.visual_genome import open_data
from speaq.evaluation.bootstrap import Interval
from speaq.study import snapshot as snapshots
from speaq.training.endings import StopTraining
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.tiny import tiny

pytest.importorskip("ray")
pytest.importorskip("optuna")
pytest.importorskip("plotly")

from plotly.offline import get_plotlyjs
from rich.console import Console

from launch.report import figures as report_plots
from launch.report import page as report
from launch.report.series import Series
from speaq.cli import trials
from speaq.study import results
from speaq.study.board import Board
from speaq.study.export import latex_escape
from speaq.study.ledger import Ledger
from tests.helpers.searched import HOSTILE, STEPS, Search, searched

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# status


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_best_what_runs_and_what_failed(tmp_path: Path, terminal: bool) -> None:
    search = Search(tmp_path / "study", trials=6)
    for ending in ("finished", "finished", "paused", "failed"):
        search.run(ending, "ValueError: no")
    trial = tmp_path / "study" / "trials" / search.run("running")
    trial.mkdir(parents=True)
    (trial / "metrics.jsonl").write_text(json.dumps({"step": 45, "train/seconds": 9.0}) + "\n")
    console = Console(file=(screen := io.StringIO()), width=140, force_terminal=terminal)
    with trials.live(console, lambda: snapshots.read(tmp_path / "study")):
        console.print("a line")
    shown = screen.getvalue()
    search.ledger.close()
    assert "a line" in shown
    if not terminal:
        assert shown == "a line\n"
        return
    best = results.best_entry(list(search.ledger.entries.values()), ("F@50",))
    assert best is not None
    assert f"best F@50 {best.metrics['F@50']:.4f} · trial {best.id}" in shown
    assert re.search(r"0004 +running +━━━━━───── +45/90 +9 s +9 s", shown)
    assert "0000 " not in shown.replace("trial 0000", "")  # ended trials have no row
    assert "trial 0003 failed: ValueError: no" in shown
    assert "2 finished, 1 paused, 1 failed, 1 running of 6 trials" in shown


def test_status_of_a_search_that_runs_and_of_one_that_was_killed(tmp_path: Path) -> None:
    search = Search(tmp_path / "study", trials=6)
    for ending in ("finished", "finished", "paused", "failed"):
        search.run(ending, "ValueError: no")
    trial = tmp_path / "study" / "trials" / search.run("running")
    trial.mkdir(parents=True)
    lines = [{"step": 20, "train/seconds": 1.0}, {"step": 45, "train/loss": 1.0, "train/seconds": 9.0}]
    (trial / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 46, "tr')
    with search.ledger.path.open("a") as file:
        file.write('{"event": "reported", "tri')  # the driver is just writing
    before = search.ledger.path.read_bytes()

    shown = json.loads(command("status", tmp_path / "study", "--json").stdout)
    assert shown["active"] is True
    assert [t["state"] for t in shown["trials"]] == ["finished", "finished", "paused", "failed", "running"]
    running = shown["trials"][4]
    assert (running["step"], running["max_steps"], running["seconds"]) == (45, STEPS, 9.0)
    assert running["eta_seconds"] == pytest.approx(9.0)  # as many steps as are done
    totals = shown["totals"]
    assert [totals[name] for name in ("finished", "paused", "pruned", "failed", "running", "trials")] == [
        2,
        1,
        0,
        1,
        1,
        6,
    ]
    assert totals["saved_steps"] == 60
    assert totals["saved_share"] == pytest.approx(60 / 270, abs=1e-4)
    assert totals["steps"] == 90 + 90 + 30 + 90 + 45
    assert totals["seconds"] == pytest.approx(9 + 9 + 3 + 9 + 9)
    assert totals["projected_seconds"] == pytest.approx(7.5 * 2 - 9)
    best = results.best_entry(list(search.ledger.entries.values()), ("F@50",))
    assert best is not None
    assert shown["best"] == {"F@50": {"trial": best.id, "value": best.metrics["F@50"]}}

    text = command("status", tmp_path / "study").stdout
    assert "45/90" in text
    assert "trial 0003 failed: ValueError: no" in text
    assert "protocol: sgdet published" in text
    assert "22% of the steps saved" in text
    assert search.ledger.path.read_bytes() == before
    os.truncate(search.ledger.path, before.rfind(b"\n") + 1)
    search.ledger.close()
    after = json.loads(command("status", tmp_path / "study", "--json").stdout)
    assert after["active"] is False
    assert after["trials"][4]["state"] == "interrupted"
    assert after["trials"][4]["eta_seconds"] is None
    Ledger(search.ledger.path).close()  # nobody holds it


def test_status_shows_the_best_of_each_objective_and_a_study_without_trials(tmp_path: Path) -> None:
    objective = ("R@50", "mR@50")
    folder = searched(tmp_path / "study", objective, finished=4)
    shown = json.loads(command("status", folder, "--json").stdout)
    entries = snapshots.read(folder).entries
    for name in objective:
        values = [e.metrics[name] or 0.0 for e in entries if e.state == "finished"]
        assert shown["best"][name]["value"] == max(values)
    Search(tmp_path / "new", trials=3).ledger.close()
    assert "no trial has finished" in command("status", tmp_path / "new").stdout
    assert "study.yaml" in refusal("status", tmp_path / "nothing")
    text = (folder / "study.yaml").read_text()
    (folder / "study.yaml").write_text(text.replace("objective: [R@50,", "objective: [Q@50,"))
    assert "study.yaml: objective: metric 'Q@50' is not one of R@K, " in refusal("status", folder)
    (folder / "study.yaml").write_text(text)
    (folder / "ledger.jsonl").write_text("no JSON\n")
    assert "line 1: not a row of a ledger" in refusal("status", folder)


def test_a_ledger_of_other_objectives_is_refused(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", finished=3)
    ledger = folder / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"F@50"', '"F@70"'))  # rows from elsewhere
    for arguments in (("status", folder), ("export", folder, tmp_path / "trials.csv"), ("report", folder)):
        assert "trial 0000 has finished without F@50, which study.yaml names as objective" in refusal(*arguments)


# export


def test_csv_and_parquet_hold_the_same_trials(tmp_path: Path) -> None:
    from pyarrow import parquet

    folder = searched(tmp_path / "study")
    for ending in ("csv", "parquet"):
        done = command("export", folder, tmp_path / f"trials.{ending}")
        assert done.exit_code == 0, done.output
        assert "16 trials" in done.stdout
    snapshot = snapshots.read(folder)
    expected = Board.of(snapshot).rows
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [row["trial"] for row in expected]
    assert [row["reason"] for row in rows][-1] == HOSTILE
    assert [float(row["F@50"]) for row in rows[:3]] == [row["F@50"] for row in expected[:3]]
    table = parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert table == expected


def test_the_same_study_opens_in_optuna(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    odd = tmp_path / "a %20? b{c}.db"
    assert command("export", folder, odd).exit_code == 0
    odd.rename(tmp_path / "study.db")
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'study.db'}")
    entries = snapshots.read(folder).entries
    states = {"finished": "COMPLETE", "paused": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in study.trials] == [states.get(entry.state, "RUNNING") for entry in entries]
    assert [trial.user_attrs["trial"] for trial in study.trials] == [entry.id for entry in entries]
    best = results.best_entry(entries, ("F@50",))
    assert best is not None
    assert study.best_trial.user_attrs["trial"] == best.id
    assert study.best_value == best.metrics["F@50"]
    assert study.metric_names == ["F@50"]
    assert any(trial.intermediate_values for trial in study.trials)


def test_latex_is_escaped_and_says_objective_and_protocol(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    assert command("export", folder, tmp_path / "trials.tex").exit_code == 0
    text = (tmp_path / "trials.tex").read_text(encoding="utf-8")
    assert r"by F@50, the best one bold. Protocol: sgdet published." in text
    assert r"training.learning\_rate" in text
    best = results.best_entry(snapshots.read(folder).entries, ("F@50",))
    assert best is not None
    assert [line for line in text.splitlines() if line.startswith(r"\textbf{")] == [
        line for line in text.splitlines() if line.startswith(rf"\textbf{{{best.id}}}")
    ]
    assert re.search(r"(?<!\\)[_%#$]", text) is None
    columns = {line.count("&") for line in text.splitlines() if line.endswith(r"\\")}
    assert len(columns) == 1
    assert latex_escape(r"50% \a_{b}^~<&>$#") == (
        r"50\% \textbackslash{}a\_\{b\}\textasciicircum{}\textasciitilde{}\textless{}\&\textgreater{}\$\#"
    )


def test_an_export_that_cannot_be_is_refused(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", finished=2)
    assert ".csv, .parquet, .tex, .db, not '.xlsx'" in refusal("export", folder, tmp_path / "trials.xlsx")
    (tmp_path / "mine.csv").write_text("mine")
    assert "exists already" in refusal("export", folder, tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert "cannot be written" in refusal("export", folder, tmp_path / "no" / "folder.csv")
    assert "study.yaml" in refusal("export", tmp_path, tmp_path / "trials.csv")
    Search(tmp_path / "new", trials=3).ledger.close()
    assert "has no trial yet" in refusal("export", tmp_path / "new", tmp_path / "trials.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "new", "study"]


# diff and rerun


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, trained once."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(), toy, folder)
    return folder


def copied(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run folder whose result.json says something else."""
    shutil.copytree(run, folder)
    content = json.loads((folder / "result.json").read_text()) | changes
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_diff_shows_what_differs(run: Path, tmp_path: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    best = {**result["best"], "metrics": {**result["best"]["metrics"], "F@50": 0.75}}
    other = copied(run, tmp_path / "other", best=best, versions={**result["versions"], "torch": "0.1"})
    config = configs.apply(tiny(), {"matching.num_groups": 2, "seed": 5})
    (other / "config.yaml").write_text(configs.dump(config), encoding="utf-8")
    found = json.loads(command("diff", run, other, "--json").stdout)
    assert found["config"] == {"seed": [0, 5], "matching.num_groups": [4, 2]}
    assert found["made_from"] == {"version of torch": [result["versions"]["torch"], "0.1"]}
    assert found["metrics"]["F@50"] == [result["best"]["metrics"]["F@50"], 0.75]
    assert found["protocol"] == "sgdet published"
    assert found["predicates"] is None
    text = command("diff", run, other).stdout
    assert "matching.num_groups" in text
    assert f"speaq evaluate {run} --json" in text
    same = command("diff", run, run).stdout
    assert "config: no difference" in same


def test_diff_of_predicates_uses_evaluations_that_were_kept(run: Path, tmp_path: Path) -> None:
    one = copied(run, tmp_path / "one")
    evaluation = json.loads(command("evaluate", one, "--json").stdout)
    (one / "evaluation.json").write_text(json.dumps(evaluation))
    other = copied(one, tmp_path / "other")
    rows = evaluation["report"]["predicates"]
    seen = next(row for row in rows if row["R@100"] is not None)
    seen["R@100"] += 0.5
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    found = json.loads(command("diff", one, other, "--json").stdout)
    assert found["recall"] == "R@100"
    changed = {name: pair for name, pair in found["predicates"].items() if pair[0] != pair[1]}
    assert list(changed) == [seen["predicate"]]
    assert changed[seen["predicate"]][1] - changed[seen["predicate"]][0] == pytest.approx(0.5)
    assert seen["predicate"] in command("diff", one, other).stdout
    (other / "evaluation.json").write_text(json.dumps({**evaluation, "split": "test"}))
    assert "was evaluated on val" in refusal("diff", one, other)
    (other / "evaluation.json").write_text(json.dumps({**evaluation, "step": 1}))
    assert "is of step 1" in refusal("diff", one, other)
    (other / "evaluation.json").write_text('{"report": []}')
    assert "is not what `speaq evaluate" in refusal("diff", one, other)
    (other / "evaluation.json").write_text("")
    assert "cannot be read as JSON" in refusal("diff", one, other)


def test_diff_refuses_other_protocols_and_what_is_no_run(run: Path, tmp_path: Path) -> None:
    strict = copied(run, tmp_path / "strict", protocol="sgdet strict")
    assert "'sgdet published' and 'sgdet strict'" in refusal("diff", run, strict)
    assert "config.yaml" in refusal("diff", run, tmp_path / "nothing")


def test_a_rerun_says_whether_the_metrics_are_equal(run: Path, tmp_path: Path) -> None:
    trial = copied(run, tmp_path / "trial")
    done = command("rerun", trial)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "equal: " in done.stdout
    assert (tmp_path / "trial-rerun" / "result.json").exists()
    assert "is not empty" in refusal("rerun", trial)
    result = json.loads((run / "result.json").read_text())
    metrics = {**result["metrics"], "AP50": result["metrics"]["AP50"] + 0.25, "R@20": result["metrics"]["R@20"] + 0.1}
    other = copied(run, tmp_path / "other", metrics=metrics)
    done = command("rerun", other, "--output", tmp_path / "again")
    assert done.exit_code == 1, done.output
    assert "different: 2 of " in done.stdout
    assert "most of all AP50 (last) by 0.25" in done.stdout
    seed = copied(run, tmp_path / "seed")
    (seed / "config.yaml").write_text(configs.dump(tiny(seed=1)), encoding="utf-8")
    done = command("rerun", seed)
    assert done.exit_code == 1, done.output
    assert "last train/loss: " in done.stdout


def test_a_rerun_of_a_stopped_run_stops_where_it_was_stopped(toy: Path, tmp_path: Path) -> None:
    def stop(step: int, metrics: object, checkpoint: Path) -> None:
        raise StopTraining

    train(tiny(), toy, tmp_path / "trial", report=stop)
    assert command("rerun", tmp_path / "trial").exit_code == 0
    again = json.loads((tmp_path / "trial-rerun" / "result.json").read_text())
    assert (again["status"], again["step"]) == ("stopped", 3)


def test_a_rerun_that_would_compare_nothing_is_refused(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "trial")
    data = json.loads((run / "data.json").read_text())
    (other / "data.json").write_text(json.dumps({**data, "digest": "0" * 64}))
    assert "was trained on other data (digest 000000000000" in refusal("rerun", other)
    study = tmp_path / "study" / "trials" / "0000"
    shutil.copytree(run, study)
    (tmp_path / "study" / "study.yaml").write_text("start_digest: abc")
    assert "the weights that it started from have changed" in refusal("rerun", study)
    (other / "result.json").unlink()
    assert "has not ended" in refusal("rerun", other)
    assert not (tmp_path / "trial-rerun").exists()


# report


def test_the_report_of_trials_that_trained_from_features_alone_says_so(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    assert command("report", folder).exit_code == 0
    assert "<th>training</th><td>in full</td>" in (folder / "report.html").read_text()
    study = folder / "study.yaml"
    content = configs.read_yaml(study)
    content["config"]["model"]["frozen"] = ["backbone", "encoder"]
    content["config"]["training"]["features"] = "/some/features"
    study.write_text(configs.dump_yaml(content))
    assert command("report", folder).exit_code == 0
    page = (folder / "report.html").read_text()
    assert "from the stored features /some/features: the best is yet to be trained in full" in page


def test_the_report_has_all_sections_and_nothing_in_it_runs(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study <b>")
    done = command("report", folder)
    assert done.exit_code == 0, (done.output, done.exception)
    page = (folder / "report.html").read_text(encoding="utf-8")
    body = page[page.index("<body>") :]
    headings = re.findall(r"<h2>(.*?)</h2>", body)
    assert headings[:4] == ["What was asked", "Leader board", "Confirmed with other seeds", "History"]
    assert {
        "Importance of the parameters",
        "Slices",
        "Pairs",
        "Cost to target",
        "Predicate groups",
        "Learning curves",
        "Cost",
        "Training health",
        "Failures",
    } <= set(headings)
    assert "No trial that has finished or failed has logged a step." in body
    assert headings[-1] == "What to run next"
    assert "Pareto front" not in headings  # one objective
    assert "Search study &lt;b&gt;" in body
    assert html.escape(HOSTILE) in body
    assert HOSTILE not in page
    assert body.count("<tr") > 2 * 16
    assert "protocol</th><td>sgdet published" in body
    assert re.findall(r"""<[^>]*(?:src|href)=(?!"(?:data:|#|trials/))""", page.replace(get_plotlyjs(), "")) == []
    assert [f"#{place}" for place in re.findall(r'<section id="([^"]+)"', body)] == re.findall(r'href="(#[^"]+)"', body)
    assert "--trials 36" in body
    assert command("report", folder, "--output", tmp_path / "page.html").exit_code == 0
    assert "cannot be written" in refusal("report", folder, "--output", tmp_path / "no" / "page.html")


def logged(folder: Path, trial: str, gradient_norms: list[float | None]) -> None:
    """Training lines of a trial: a layer more than groups, the second group starves."""
    path = folder / "trials" / trial / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "step": 10 * number,
            "train/loss": 9.0 / number,
            "train/gradient_norm": norm,
            **{f"train/k_log_layer{layer}": 1 + layer / 8 for layer in (1, 2, 3)},
            **{"train/matched_share_group1": 0.25, "train/matched_share_group2": 0.0},
            **{"train/overflow_group1": 0.125, "train/overflow_group2": None, "train/unmatched_share": 0.5},
            "train/starving_groups": float(number > 2),
        }
        for number, norm in enumerate(gradient_norms, start=1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 90, "val/F@50": 0.5}]))


def test_the_report_shows_how_training_went_in_the_best_and_in_failed_trials(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    best = results.best_entry(snapshots.read(folder).entries, ("F@50",))
    assert best is not None
    logged(folder, best.id, [1.0, 3.0, 2.0])
    logged(folder, "0015", [1.0, 400.0, None])  # the failed one
    lines = folder / "trials" / "0015" / "metrics.jsonl"
    lines.write_text('{"step": 1, "train/loss": "?"}\n{"train/loss": 1.0}\n' + lines.read_text())  # by nobody of ours
    said = command("status", folder).stdout
    assert f"groups whose queries get no target: trial {best.id} (1), 0015 (1); " in said
    trials = json.loads(command("status", folder, "--json").stdout)["trials"]
    assert [t["trial"] for t in trials if t["starving_groups"]] == [best.id, "0015"]
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    section = page.partition("<h2>Training health</h2>")[2].partition("</section>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr class(.*?)</tr>", section)]
    figures = ["1.12 · 1.25 · 1.38", "25.0% · 0.0%", "12.5% · -", "50.0%", "1"]
    label = best.label or ""
    assert rows == [
        [best.id, label, "finished", "30", "9", "5.5", "2", "3", *figures, ""],
        ["0015", "", "failed", "30", "9", "5.5", "200.5", "400", *figures, html.escape(HOSTILE)],
    ]
    assert section.count('class="plot"') == 2


def test_the_report_finds_data_that_moved_with_the_study(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    make_toy(tmp_path / "data", 40, seed=0)
    content = configs.read_yaml(folder / "study.yaml")
    content["config"]["data"]["num_val"] = 6
    content["data"] = {"directory": "/before/data", "digest": open_data(tmp_path / "data").digest}
    (folder / "study.yaml").write_text(json.dumps(content))
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert "The data cannot be read any more" not in page
    assert re.search(r"\d groups? of \d+ relation queries|one group, all predicates share", page)


def test_the_report_shows_groups_confirmation_and_what_was_forced(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study")
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert "The data cannot be read any more" in page
    assert "Not done yet: intervals" in page
    make_toy(folder / "data", 40, seed=0)
    content = configs.read_yaml(folder / "study.yaml")
    content["config"]["data"]["num_val"] = 6
    content["forced"] = [{"at": "2026-11-24", "changes": ["torch 2.0 then, 2.1 now"]}]
    (folder / "study.yaml").write_text(json.dumps(content))
    over = {"value": 0.1, "low": 0.05, "high": 0.15, "text": "+10.0 F@50 [5.0, 15.0] over the published setting"}
    left = {"trial": "0005", "label": None, "search": 0.5, "seeds": {"3": 0.4}, "mean": vars(Interval(0.4, 0.3, 0.5))}
    left |= {"over_published": over, "left_after_seed": None, "failure": None}
    confirmed = {"images": 6, "trials": 14, "leader": "0005", "optimism": {"value": 0.1}, "settings": [left]}
    (folder / "confirm").mkdir()
    (folder / "confirm" / "confirm.json").write_text(json.dumps(confirmed))
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert "+10.0 F@50 [5.0, 15.0]</td>" in page
    assert "The best of 14 trials promised +0.1000 over its mean" in page
    assert "torch 2.0 then, 2.1 now" in page
    best = results.best_entry(snapshots.read(folder).entries, ("F@50",))
    assert best is not None
    assert f"<p>Trial {best.id}: " in page
    assert re.search(r"\d groups? of \d+ relation queries|one group, all predicates share", page)


def test_cost_to_target_and_pairs_are_those_of_the_trials(tmp_path: Path) -> None:
    snapshot = snapshots.read(searched(tmp_path / "study"))
    entries, plan = snapshot.entries, snapshot.plan
    series = Series(Board(entries, plan))
    figure, said = report_plots.cost_to_target(series)
    best, target = figure.data
    finished = [e for e in entries if e.state == "finished"]
    assert best.y[-1] == max(e.metrics["F@50"] or 0 for e in finished)
    assert best.x[-1] == pytest.approx(sum(e.seconds for e in entries) / 3600)
    assert target.y[0] == finished[0].metrics["F@50"]
    better = next((e.id for e in finished if (e.metrics["F@50"] or 0) > target.y[0]), None)
    assert f"passed by trial {better} after" in said if better else "was not passed" in said
    assert series.too_few is None
    pairs = series.pairs
    assert pairs
    figures = report_plots.contours(series)
    assert [figure.layout.title.text for figure in figures] == [" and ".join(pair) for pair in pairs]
    assert all(any(trace.type == "contour" for trace in figure.data) for figure in figures)
    assert "Needs 4 finished trials" in str(Series(Board(entries[:3], plan)).too_few)


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")])
def test_pngs_lie_beside_the_page(tmp_path: Path, objective: tuple[str, ...]) -> None:
    folder = searched(tmp_path / "study", objective)
    report.write_report(snapshots.read(folder))
    names = {path.stem for path in (folder / "report").iterdir()}
    assert {"history", "slices", "importance", "pair-1"} | ({"front"} if len(objective) == 2 else set()) <= names
    for path in (folder / "report").iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn


def keep_evaluation(folder: Path, trial: str, recalls: dict[str, float | None]) -> None:
    """What `speaq evaluate TRIAL --json > TRIAL/evaluation.json` leaves."""
    rows = [{"predicate": name, "images": 3, "R@20": 0.0, "R@50": recall} for name, recall in recalls.items()]
    content = {"split": "val", "step": STEPS, "protocol": "sgdet published", "report": {"predicates": rows}}
    (folder / "trials" / trial).mkdir(parents=True, exist_ok=True)
    (folder / "trials" / trial / "evaluation.json").write_text(json.dumps(content))


def test_recall_by_predicate_is_drawn_for_trials_whose_evaluation_was_kept(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", finished=3)
    published, baseline = folder / "trials" / "0000", folder / "trials" / "0001"
    keep_evaluation(folder, "0000", {"on": 0.5, HOSTILE: None})
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert "R@50, val" in page
    assert HOSTILE not in page
    assert f"speaq evaluate {baseline} --json" in page
    assert f"speaq evaluate {published} --json" not in page
    figure = report_plots.predicates("R@50, val", {"published": {"on": 0.5, "<b>": None}})
    assert (list(figure.data[0].x), list(figure.data[0].y)) == (["on", "&lt;b&gt;"], [0.5, None])


def test_an_evaluation_that_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", finished=3)
    keep_evaluation(folder, "0000", {"on": 0.5})
    broken = folder / "trials" / "0001" / "evaluation.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(f"<b>{HOSTILE}")
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert f"Left out, {broken}: cannot be read as JSON" in page
    assert "R@50, val" in page
    assert HOSTILE not in page


def test_recall_by_predicate_that_training_noted_is_drawn_without_a_command(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", finished=3)
    for trial in ("0000", "0001", "0002"):
        keep_evaluation(folder, trial, {"on": 0.5, "has": None})
        run = folder / "trials" / trial
        (run / "evaluation.json").rename(run / "predicates.json")
        (run / "result.json").write_text(json.dumps({"best": {"step": STEPS, "metrics": {}}}))
    page = report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")
    assert "R@50, val" in page
    assert "speaq evaluate" not in page
    for trial in ("0000", "0001", "0002"):  # of another checkpoint
        (folder / "trials" / trial / "result.json").write_text(json.dumps({"best": {"step": 1, "metrics": {}}}))
    assert "speaq evaluate" in report.write_report(snapshots.read(folder)).read_text(encoding="utf-8")


def test_two_objectives_have_a_front_with_the_references_and_a_hypervolume(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", ("R@50", "mR@50"))
    snapshot = snapshots.read(folder)
    plane, volume = report_plots.front(Series(Board.of(snapshot)))
    names = {trace.name for trace in plane.data}
    assert {"published", "baseline"} <= names
    points = {trace.name: (trace.x[0], trace.y[0]) for trace in plane.data if trace.name == "baseline"}
    assert points["baseline"] == tuple(snapshot.entries[1].metrics[name] for name in ("R@50", "mR@50"))
    volumes = list(volume.data[0].y)
    assert volumes == sorted(volumes)
    assert volumes[-1] > 0
    path = report.write_report(snapshots.read(folder))
    assert "<h2>Pareto front</h2>" in path.read_text(encoding="utf-8")


def test_importance_of_few_trials_is_uncertain_and_of_many_finds_what_matters(tmp_path: Path) -> None:
    none = snapshots.read(searched(tmp_path / "none", finished=4))
    assert Series(Board.of(none)).too_few == "Needs 4 finished trials of the search space; there are 3."
    few = report_plots.importance(Series(Board.of(snapshots.read(searched(tmp_path / "few", finished=7)))))
    bar = few.data[0]
    ends = zip(bar.x, bar.error_x.arrayminus, bar.error_x.array, strict=True)
    assert all(share - below <= 0.5 <= share + above for share, below, above in ends)  # each of two may be the first
    snapshot = snapshots.read(searched(tmp_path / "many", finished=30))
    series = Series(Board.of(snapshot))
    assert series.too_few is None
    figure = report_plots.importance(series)
    assert [bar.name for bar in figure.data] == ["F@50", "head@50", "body@50", "tail@50"]
    head = figure.data[1]  # groups hardly matter for it
    shares = dict(zip(head.y, head.x, strict=True))
    assert shares["training.<br>learning_rate"] > shares["matching.<br>num_groups"]
    assert sum(shares.values()) == pytest.approx(1.0)
    low = dict(zip(head.y, np.subtract(head.x, head.error_x.arrayminus), strict=True))
    assert low["training.<br>learning_rate"] > 0.5  # by now it is certain


def test_a_study_without_finished_trials_gives_a_page_that_says_so(tmp_path: Path) -> None:
    search = Search(tmp_path / "study", trials=3)
    path = report.write_report(snapshots.read(tmp_path / "study"))
    assert "No trial has been asked for yet." in path.read_text(encoding="utf-8")
    search.run("failed", HOSTILE)
    search.run("running")
    search.ledger.close()
    page = report.write_report(snapshots.read(tmp_path / "study")).read_text(encoding="utf-8")
    assert "No trial has finished yet" in page
    assert html.escape(HOSTILE) in page
    assert "speaq tune --resume" in page


PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message), true);
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
for (const name of ["error", "warn"]) console[name] = (...values) => errors.push(values.join(" "));
addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".js-plotly-plot")];
  parent.postMessage(JSON.stringify({
    errors, title: document.title, places: document.querySelectorAll(".plot").length,
    drawn: plots.filter(plot => plot.querySelector("svg.main-svg")).length,
    fitting: plots.filter(plot => plot.querySelector("svg.main-svg").clientWidth <= plot.parentNode.clientWidth).length,
    view: innerWidth, body: document.documentElement.scrollWidth,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
  }), "*");
}, 1000));
</script>"""
# A window of Chromium is never narrower than 500 pixels, a frame is.
FRAMES = """<!DOCTYPE html><html><body><script>
const all = [];
addEventListener("message", event => {
  all.push(JSON.parse(event.data)); document.documentElement.dataset.seen = JSON.stringify(all);
});
</script>%s</body></html>"""
FRAME = '<iframe src="probed.html" style="border: 0; width: %dpx; height: 900px"></iframe>'


def seen(page: Path, folder: Path, *widths: int) -> list[dict[str, Any]]:
    """What a browser makes of a page so many pixels wide."""
    assert CHROMIUM is not None
    probed = page.read_text(encoding="utf-8").replace("<head>", f"<head>{PROBE}", 1)
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    (folder / "frames.html").write_text(FRAMES % "".join(FRAME % width for width in widths), encoding="utf-8")
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu"]
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=30000", "--dump-dom"),
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=360,
    )
    found = re.search(r'<html[^>]* data-seen="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[:300]
    content: list[dict[str, Any]] = json.loads(html.unescape(found.group(1)))
    return sorted(content, key=lambda one: one["view"])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_draws_the_report_without_network_errors_or_sideways_scrolling(tmp_path: Path) -> None:
    folder = searched(tmp_path / "study", ("R@50", "mR@50"))
    logged(folder, "0000", [1.0, 3.0, 2.0])
    logged(folder, "0015", [1.0, 400.0, None])
    keep_evaluation(folder, "0000", {"on": 0.5, HOSTILE: None})
    pages = seen(report.write_report(snapshots.read(folder)), tmp_path, 400, 1200)
    assert [page["view"] for page in pages] == [400, 1200]
    for page in pages:
        assert page["errors"] == []
        assert page["fetched"] == []
        assert page["title"] == "Search study"
        assert page["body"] <= page["view"]
        assert page["fitting"] == page["drawn"] == page["places"] > 8
