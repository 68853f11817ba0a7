"""A search with a ladder on paper: who climbs, what is recorded, what tables and the report say of the rungs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.report.climbs import rungs
from launch.report.page import write_report
from launch.search import messages
from launch.search.messages import Finished, Report
from launch.search.scheduler import Halving, make_scheduler
from speaq import config as configs
from speaq.study import board, snapshot
from speaq.study.board import Board
from speaq.study.climbs import Climbed, climbed, in_trainings
from speaq.study.file import Study
from speaq.study.plan import Plan, ladder_of, length
from speaq.training.environment import versions
from tests.helpers.fake_tune import Fake, make_plan, trial

FOUR = [
    {"features": True, "share": 0.33},
    {"features": True, "share": 1},
    {"features": False, "share": 0.33},
    {"features": False, "share": 1},
]  # at steps 30, 90, 120 and 180 of the axis
END = 180


class Climbing(Fake):
    """Trials report every 10 steps of the axis: value · (1 + step / 1800), and less of that in full training."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder, checkpoint=lambda trial: 1)
        scheduler = make_scheduler(plan.settings, 90, 10, folder / "trials")
        assert isinstance(scheduler, Halving)
        self.scheduler: Any = scheduler
        scheduler.replay(self.ledger.entries.values())

    def run(self, name: str, value: float) -> None:
        entry = self.entry(name)
        done = max(entry.reports, default=0)
        lost = 4 if int(entry.id) % 3 == 2 else 2  # some keep less of it in full training
        for seconds, step in enumerate(range(done + 10, END + 1, 10), start=1):
            metrics = {"F@50": value * (1 + step / 1800) / (lost if step > 90 else 1)}
            result = messages.report_result(Report(step, metrics, seconds * (5.0 if step > 90 else 1.0)), None)
            if self.scheduler.on_trial_result(None, trial(entry.id, entry.label is not None), result) == "STOP":
                self.search.on_trial_complete(name, result)
                return
            self.search.on_trial_result(name, result)
        done_ = Finished(metrics, END, END, seconds=entry.seconds)
        self.search.on_trial_complete(name, messages.final_result(result, done_))

    def all(self, values: dict[str, float]) -> None:
        while isinstance((asked := self.ask())[1], dict):
            assert asked[1]["max_steps"] == END
            assert asked[1]["config"]["training"]["features"] is None
            self.run(asked[0], values.get(asked[1]["trial"], 0.0))


@pytest.fixture
def tune(tmp_path: Path) -> Climbing:
    plan = make_plan(trials=14, ladder=FOUR, features="features", reduction_factor=2.0)
    (tmp_path / "study.yaml").write_text(Study(plan, tmp_path, "0123456789abcdef", None, versions()).dump())
    made = Climbing(plan, tmp_path)
    made.all({f"{number:04d}": 0.1 + 0.05 * (number * 5 % 14) for number in range(14)})
    return made


def test_trials_are_paused_at_the_rungs_alone_and_references_climb_all_of_it(tune: Climbing) -> None:
    entries = list(tune.ledger.entries.values())
    assert length(tune.plan) == END
    assert [entry.state for entry in entries[:2]] == ["finished", "finished"]
    assert {entry.step for entry in entries if entry.state == "paused"} <= {30, 90, 120}
    for rung in (30, 90, 120):  # half of those that came to it have gone on
        there = [entry for entry in entries if rung in entry.reports]
        assert sum(entry.step > rung for entry in there) >= len(there) // 2
    assert any(entry.state == "finished" for entry in entries[2:])
    assert tune.search.remaining == 0


def test_a_search_is_resumed_on_its_axis(tune: Climbing, tmp_path: Path) -> None:
    before = {entry.id: (entry.state, entry.step) for entry in tune.ledger.entries.values()}
    tune.ledger.close()
    again = Climbing(tune.plan, tmp_path)
    assert again.ask()[1] == "FINISHED"
    assert {entry.id: (entry.state, entry.step) for entry in again.ledger.entries.values()} == before
    again.ledger.close()


def test_what_a_paused_trial_is_shown_with_is_of_its_last_training(tune: Climbing) -> None:
    """Values from features are higher here than any of full training."""
    paused = [entry for entry in tune.ledger.entries.values() if entry.state == "paused" and entry.step == 120]
    assert paused
    for entry in paused:
        assert entry.best_step == 120
        assert entry.metrics == entry.reports[120]


def test_tables_say_of_which_rung_a_step_is(tune: Climbing, tmp_path: Path) -> None:
    tune.ledger.close()
    now = snapshot.read(tmp_path, active=False)
    shown = {t.trial: t for t in board.trial_statuses(now)}
    assert shown["0000"].steps_text == "full 90/90"
    low = next(entry for entry in now.entries if entry.step == 30)
    assert shown[low.id].steps_text == "features 30/90"
    rows = {row["trial"]: row for row in Board.of(now).rows}
    assert (rows["0000"]["rung"], rows[low.id]["rung"]) == ("full 90/90", "features 30/90")
    page = write_report(now).read_text()
    assert "<h2>Rungs</h2>" in page
    assert "full trainings of the published setting" in page
    assert "features 30/90" in page


def test_the_report_counts_costs_agreement_and_right_promotions(tune: Climbing) -> None:
    shown, ladder = Board(list(tune.ledger.entries.values()), tune.plan), ladder_of(tune.plan)
    assert ladder is not None
    found: list[Climbed] = climbed(shown, ladder)
    assert [rung.place.at for rung in found] == [30, 90, 120, END]
    assert found[0].trials == 14
    assert sum(rung.seconds for rung in found) == pytest.approx(sum(entry.seconds for entry in shown.entries))
    top = shown.finished
    assert len(top) >= 3
    assert found[0].compared == len(top)
    if len(top) >= 5:
        assert found[0].tau is not None
        ranks = [[e.reports[30]["F@50"] for e in top], [e.metrics["F@50"] for e in top]]
        assert found[0].tau.value == pytest.approx(kendalltau(*ranks).statistic)
    on = [entry for entry in shown.entries if entry.label is None and entry.step > 90]
    assert found[1].went_on == len(on)
    better = sorted(top, key=lambda entry: -float(entry.metrics["F@50"] or 0))[: int(np.ceil(len(top) / 2))]
    assert found[1].right == len([entry for entry in on if entry in better])
    cost = in_trainings(shown, ladder)
    published = shown.entries[0]
    assert cost == pytest.approx(sum(e.seconds for e in shown.entries) / (published.seconds - published.seconds_at[90]))
    assert any(f"{cost:.2f} full trainings" in part for part in rungs(shown, ladder))


def test_what_a_short_training_costs_is_known_though_its_end_does_not_count_its_start(tune: Climbing) -> None:
    """The seconds of evaluations count how long a trial took to begin, those of its end do not."""
    entries, ladder = list(tune.ledger.entries.values()), ladder_of(tune.plan)
    assert ladder is not None
    short = [replace(e, seconds=e.seconds_at.get(90, e.seconds) / 2) for e in entries]
    one = max(entries[0].seconds_at.values()) - entries[0].seconds_at[90]
    total = sum(max(e.seconds_at.values()) for e in entries)
    assert in_trainings(Board(short, tune.plan), ladder) == pytest.approx(total / one)
    assert sum(rung.seconds for rung in climbed(Board(short, tune.plan), ladder)) == pytest.approx(total)


def test_trials_that_shared_a_gpu_have_cost_their_share(tune: Climbing, tmp_path: Path) -> None:
    tune.ledger.close()
    now = snapshot.read(tmp_path, active=False)
    first, *others = now.entries
    shared = [first, *(replace(entry, gpu_share=0.25) for entry in others)]
    seconds = first.seconds + 0.25 * sum(entry.seconds for entry in others)
    plan = replace(tune.plan, base=configs.apply(tune.plan.base, {"resources.gpus_per_worker": 1.0}))
    ladder = ladder_of(plan)
    assert ladder is not None
    assert sum(rung.seconds for rung in climbed(Board(shared, plan), ladder)) == pytest.approx(seconds)
    one = first.seconds - first.seconds_at[90]
    assert in_trainings(Board(shared, plan), ladder) == pytest.approx(seconds / one)
    page = write_report(replace(now, study=replace(now.study, plan=plan), entries=shared)).read_text()
    assert f"{seconds / 3600:.3g} GPU hours" in page


def test_without_a_trial_at_the_top_nothing_is_ranked(tmp_path: Path) -> None:
    tune = Climbing(make_plan(trials=3, ladder=FOUR, features="features"), tmp_path)
    name, _ = tune.ask()
    tune.report(name, 30, 0.9)
    shown, ladder = Board(list(tune.ledger.entries.values()), tune.plan), ladder_of(tune.plan)
    assert ladder is not None
    assert shown.best is None
    assert [rung.tau for rung in climbed(shown, ladder)] == [None] * 4
    assert any("has not come to the top" in part for part in rungs(shown, ladder))
