"""Paused trials: they go on when they deserve it, also after a kill or with more trials; samplers learn from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from speaq.study import board, snapshot
from speaq.study.file import Study
from speaq.study.plan import Plan

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.search import messages
from launch.search.estimates import Estimates
from launch.search.messages import Finished, Report
from launch.search.scheduler import make_scheduler
from launch.trials.telemetry import trials_by_state
from speaq.study.ledger import Entry, Ledger, LedgerError
from speaq.training.environment import versions
from tests.helpers.fake_tune import BASE, GROUPS, RATE, Fake, make_plan, trial

TRIALS = Path("trials")


class Halved(Fake):
    """A search on paper with its scheduler: what that stops is paused, what has a checkpoint can be promoted."""

    def __init__(self, plan: Plan, folder: Path, lost: tuple[str, ...] = ()) -> None:
        super().__init__(plan, folder, checkpoint=lambda trial: None if trial in lost else 1)
        self.scheduler: Any = make_scheduler(plan.settings, 90, 10, TRIALS)
        if hasattr(self.scheduler, "replay"):
            self.scheduler.replay(self.ledger.entries.values())

    def run(self, name: str, value: float, until: int = 90, **metrics: float) -> str:
        """Goes on from where the trial is; `value` of every metric, or `R=…`, `mR=…`. Returns the trial's state."""
        entry = self.entry(name)
        told = {"F@50": value, "R@50": value, "mR@50": value, **{f"{key}@50": v for key, v in metrics.items()}}
        for step in range(max(entry.reports, default=0) + 10, until + 1, 10):
            at = {key: v * (1 + step / 900) for key, v in told.items()}
            result = messages.report_result(Report(step, at, 1.0), None)
            if self.scheduler.on_trial_result(None, trial(entry.id, entry.label is not None), result) == "STOP":
                self.search.on_trial_complete(name, result)
                break
            self.search.on_trial_result(name, result)
            if step == 90:
                done = Finished(at, step, step, seconds=2.0, cost={"latency_ms": 40.0})
                self.search.on_trial_complete(name, messages.final_result(result, done))
        return str(entry.state)


def asked(tune: Fake) -> tuple[str, str, int]:
    """(Tune's name, ours, attempt) of what is run next; FINISHED where nothing is."""
    name, suggestion = tune.ask()
    if not isinstance(suggestion, dict):
        return name, str(suggestion), 0
    return name, suggestion["trial"], tune.entry(name).attempts


def all_of(tune: Halved, values: Mapping[str, float]) -> list[str]:
    """Runs one after the other until the search ends; the order in which trials were handed out."""
    order = []
    while (next_ := asked(tune))[1] not in ("FINISHED", "None"):
        order.append(next_[1])
        tune.run(next_[0], values.get(next_[1], 0.0))
    return order


VALUES = {f"{n:04d}": v for n, v in enumerate((0.5, 0.4, 0.3, 0.45, 0.2, 0.35, 0.1, 0.15, 0.05))}


def test_a_paused_trial_goes_on_before_new_ones_and_to_its_end(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=9, grace_steps=10), tmp_path)
    order = all_of(tune, VALUES)
    # The references run to their end. With six trials at the first rung two may go on: 0003 is second.
    assert order == ["0000", "0001", "0002", "0003", "0004", "0005", "0003", "0006", "0007", "0008", "0001"][:10]
    states = {trial: entry.state for trial, entry in tune.ledger.entries.items()}
    assert [trial for trial, state in states.items() if state == "finished"] == ["0000", "0001"]
    promoted = tune.ledger.entries["0003"]
    assert (promoted.promotions, promoted.attempts, promoted.state, promoted.step) == (1, 2, "paused", 30)
    assert tune.search.remaining == 0


def test_promotions_go_on_when_all_trials_have_been_asked_for(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=8, grace_steps=10, reduction_factor=2.0), tmp_path)
    names = [asked(tune)[0] for _ in range(8)]
    for name, value in zip(names, (0.8, 0.1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), strict=True):
        tune.run(name, value, until=10)
    assert [e.id for e in tune.ledger.entries.values() if e.state == "paused"] == [f"{n:04d}" for n in range(2, 8)]
    assert tune.search.remaining == 2 + 3  # the references run; four of eight go on
    for name in names[:2]:
        tune.run(name, 0.9)
    assert [asked(tune)[1] for _ in range(4)] == ["0002", "0003", "0004", "None"]
    assert tune.search.remaining == 3


def test_a_promotion_survives_a_kill_before_and_after_each_of_its_rows(tmp_path: Path) -> None:
    plan = make_plan(trials=9, grace_steps=10)
    whole = Halved(plan, tmp_path)
    order = all_of(whole, VALUES)
    whole.ledger.close()
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    at = kinds.index("promoted")
    # Between a report and the verdict on it the trial goes on: nobody has told it to rest.
    for count in [count for count in range(at, at + 7) if kinds[count] != "paused"]:
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "ledger.jsonl").write_text("".join(lines[:count]))
        again = Halved(plan, folder)
        all_of(again, VALUES)
        found, wanted = again.ledger.entries, whole.ledger.entries
        assert {t: (e.state, e.step) for t, e in found.items() if t <= "0005"} == {
            t: (e.state, e.step) for t, e in wanted.items() if t <= "0005"
        }
        assert found["0003"].promotions == 1
        assert order.count("0003") == 2
        again.ledger.close()


def test_more_trials_make_an_older_one_deserve_to_go_on(tmp_path: Path) -> None:
    few = Halved(make_plan(trials=5, grace_steps=10), tmp_path)
    assert all_of(few, VALUES) == ["0000", "0001", "0002", "0003", "0004"]
    few.ledger.close()
    more = Halved(make_plan(trials=6, grace_steps=10), tmp_path)
    assert all_of(more, VALUES) == ["0005", "0003"]


def test_a_trial_whose_checkpoint_is_gone_stays_paused_which_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune = Halved(make_plan(trials=9, grace_steps=10), tmp_path, lost=("0003",))
    assert "0003" not in all_of(tune, VALUES)[4:]
    assert tune.ledger.entries["0003"].state == "paused"
    said = [record.getMessage() for record in caplog.records if "checkpoint is gone" in record.getMessage()]
    assert said == ["trial 0003 deserves to go on, but its checkpoint is gone: it stays paused"]


def test_trials_that_an_earlier_version_pruned_count_and_stay_stopped(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=5, grace_steps=10), tmp_path)
    all_of(tune, VALUES)
    tune.ledger.close()
    path = tmp_path / "ledger.jsonl"
    path.write_text(path.read_text().replace('"event": "paused"', '"event": "pruned"'))
    again = Halved(make_plan(trials=9, grace_steps=10), tmp_path)
    order = all_of(again, VALUES)
    assert order[:4] == ["0005", "0006", "0007", "0008"]  # 0003 would have gone on
    assert [e.state for e in list(again.ledger.entries.values())[2:6]] == ["pruned"] * 3 + ["paused"]


@pytest.mark.parametrize("name", ["median", "pbt"])
def test_what_other_rules_stop_is_stopped_for_good(name: str, tmp_path: Path) -> None:
    weights = {"losses.weight_l1": {"type": "float", "low": 1.0, "high": 9.0}}
    tune = Halved(make_plan(trials=5, scheduler=name, parameters=weights), tmp_path)
    first = asked(tune)[0]
    tune.prune(first, 10, 0.1)
    assert tune.entry(first).state == "pruned"


def test_only_a_paused_trial_is_promoted(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=5, grace_steps=10), tmp_path)
    tune.run(asked(tune)[0], 0.5)
    tune.ledger.close()
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(json.dumps({"event": "promoted", "trial": "0000", "time": 1e9}) + "\n")
    with pytest.raises(LedgerError, match="trial 0000 is promoted but not paused"):
        Ledger(tmp_path / "ledger.jsonl")


def test_the_seconds_of_all_attempts_count(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=9, grace_steps=10), tmp_path)
    all_of(tune, VALUES)
    assert tune.ledger.entries["0003"].seconds == 2.0  # each report says one second of its attempt
    assert tune.ledger.entries["0004"].seconds == 1.0


def test_pauses_and_promotions_are_shown(tmp_path: Path) -> None:
    plan = make_plan(trials=9, grace_steps=10)
    (tmp_path / "study.yaml").write_text(Study(plan, tmp_path, "0123456789abcdef", None, versions()).dump())
    tune = Halved(plan, tmp_path)
    all_of(tune, VALUES)
    tune.ledger.close()
    now = snapshot.read(tmp_path, active=False)
    trials = board.trial_statuses(now)
    sums = board.totals(trials, now)
    assert (sums.finished, sums.paused, sums.pruned, sums.promoted) == (2, 7, 0, ("0003",))
    assert sums.saved_steps == 6 * 80 + 60
    line = board.totals_line(sums, active=False)
    assert line.startswith("2 finished, 7 paused, 0 failed")
    assert "1 went on after a pause (0003)" in line
    assert [trial.promotions for trial in trials] == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    rows = board.Board.of(now).rows
    assert (rows[3]["status"], rows[3]["label"], rows[3]["promotions"]) == ("paused", "promoted", 1)
    counts = trials_by_state(now.entries, 9)
    assert (counts["waiting"], counts["paused"], counts["finished"]) == (0, 7, 2)


# What samplers learn


def known(tune: Fake) -> list[tuple[Any, ...]]:
    trials = tune.search.proposals.sampler.study.get_trials()
    return [(t.params, t.state.name, t.values, t.constraints) for t in trials]


@pytest.mark.parametrize("objective", [("F@50",), ("R@50", "mR@50")], ids=["one", "two"])
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "nsga3", "random", "qmc"])
def test_every_sampler_learns_of_a_paused_trial_what_it_would_have_come_to(
    sampler: str, objective: tuple[str, ...], tmp_path: Path
) -> None:
    if sampler == "cmaes" and len(objective) > 1:
        pytest.skip("one objective only")
    rate = {"type": "float", "low": 1e-5, "high": 1e-1}
    parameters = {"training.learning_rate": rate, "matching.num_groups": GROUPS}
    limit = {} if sampler == "cmaes" else {"constraints": {"latency_ms": 50.0}}
    plan = make_plan(7, objective, parameters, sampler=sampler, grace_steps=10, **limit)
    tune = Halved(plan, tmp_path)
    for value in (0.5, 0.4, 0.3, 0.2):
        tune.run(asked(tune)[0], value)
    assert [e.state for e in tune.ledger.entries.values()] == ["finished", "finished", "paused", "paused"]
    # The references gained 0.5 and 0.4 times 80/900 from step 10 to the end: 0.04 is the median.
    told = [values for _, state, values, _ in known(tune) if state == "COMPLETE"]
    first = 0.3 * (1 + 10 / 900) + 0.45 * 80 / 900
    assert len(told) == 3  # the baseline is no point of the space
    assert told[1] == pytest.approx([first] * len(objective))
    name, _, _ = asked(tune)  # a proposal by what is known
    tune.run(name, 0.6)  # it ends, so that the others are known anew
    asked(tune)
    tune.ledger.close()
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda *_: ["copy"])
    again = Halved(plan, tmp_path / "copy")
    assert known(again) == [(p, s, v, c) for p, s, v, c in known(tune) if s != "FAIL"]
    again.search.proposals.sampler.ask()  # and it can go on from there
    again.ledger.close()


def test_a_promoted_trial_is_known_once_and_as_running(tmp_path: Path) -> None:
    tune = Halved(make_plan(trials=9, grace_steps=10), tmp_path)
    names = [asked(tune)[0] for _ in range(6)]
    for name, value in zip(names, (0.5, 0.4, 0.3, 0.45, 0.2, 0.35), strict=True):
        tune.run(name, value)
    promoted, name, attempt = asked(tune)
    assert (name, attempt) == ("0003", 2)
    new = asked(tune)[1]
    assert new == "0006"
    values = tune.ledger.entries["0003"].values
    assert [(state, told) for params, state, told, _ in known(tune) if params == values] == [("RUNNING", None)]
    tune.run(promoted, 0.9)
    assert asked(tune)[1] == "0007"
    (found,) = [told for params, state, told, _ in known(tune) if params == values and state == "COMPLETE"]
    assert found == [pytest.approx(0.9 * 1.1)]


def test_the_end_of_a_stopped_trial_is_estimated_at_equal_shares(tmp_path: Path) -> None:
    plan = make_plan(trials=9, parameters={"training.learning_rate": RATE})
    long = Entry("0000", "d", None, None, {"training.max_steps": 180}, state="finished")
    long.reports, long.metrics = {20: {"F@50": 0.2}, 180: {"F@50": 0.4}}, {"F@50": 0.5}
    odd = Entry("0001", "d", None, None, {"training.max_steps": 91}, state="finished", metrics={"F@50": 0.9})
    other = Entry("0002", "d", None, None, {}, state="finished", metrics={"F@50": 0.2}, reports={10: {"F@50": 0.1}})
    failed = Entry("0003", "d", None, None, {}, state="failed", metrics={"F@50": 9.0}, reports={10: {"F@50": 0.1}})
    stopped = Entry("0004", "d", None, {}, {}, state="paused", reports={10: {"F@50": 0.3}})
    estimates = Estimates([long, odd, other, failed, stopped], plan)
    assert estimates.expected(stopped) == pytest.approx((0.3 + (0.3 + 0.1) / 2,))
    stopped.reports[20] = {"F@50": 0.3}
    assert estimates.expected(stopped) is None  # nobody was seen there
    stopped.reports[10] = {"F@50": None}
    del stopped.reports[20]
    assert estimates.expected(stopped) is None
    assert BASE.training.max_steps == 90


def test_two_objectives_keep_to_the_end_the_trial_that_is_best_in_one(tmp_path: Path) -> None:
    """A world in which the best mean recall goes with a mediocre harmonic mean."""
    tune = Halved(make_plan(trials=12, objective=("R@50", "mR@50"), grace_steps=10), tmp_path)
    while (next_ := asked(tune))[1] not in ("FINISHED", "None"):
        number = int(next_[1])
        recall, mean = (0.1, 0.5) if number == 7 else (0.5 + number / 100, 0.3 - number / 100)
        if number in (5, 6, 8, 9):
            recall, mean = recall - 0.2, mean - 0.1
        tune.run(next_[0], 2 * recall * mean / (recall + mean), R=recall, mR=mean)
    assert tune.ledger.entries["0007"].state == "finished"
    assert tune.ledger.entries["0006"].state == "paused"
