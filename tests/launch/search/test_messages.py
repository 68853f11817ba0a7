"""What a trial tells the search comes out of Tune's results as it went in."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from launch.search import messages
from launch.search.messages import Died, Displaced, Ended, Failed, Finished, Halt, Report, Stopped, TooLarge

ENDINGS = [
    Finished({"R@20": 0.5, "mR@20": None}, best_step=20, step=30, seconds=1.5),
    Finished({"R@20": 0.5}, best_step=None, step=30, seconds=1.5, cost={"peak_memory_mib": 12.0}),
    *(kind("why") for kind in (Failed, TooLarge, Died, Displaced, Halt)),
]


@pytest.mark.parametrize("ended", ENDINGS, ids=lambda ended: type(ended).__name__)
def test_an_end_and_the_last_report_arrive_as_they_were_sent(ended: Ended) -> None:
    report = Report(30, {"R@20": 0.4}, 1.0)
    sent = messages.final_result(messages.report_result(report, None), ended)
    received = json.loads(json.dumps(sent))
    assert messages.is_final(received)
    assert messages.outcome_of(received, died=False) == ended
    assert messages.report_of(received) == report
    assert sent["step"] == 30
    assert math.isnan(sent["value"])


def test_values_that_json_cannot_hold_are_not_defined() -> None:
    done = Finished({"R@20": math.nan}, best_step=1, step=1, seconds=1.0)
    expected = dataclasses.replace(done, metrics={"R@20": None})
    assert messages.outcome_of(messages.final_result({}, done), died=False) == expected
    report = messages.report_of(messages.report_result(Report(1, {"R@20": math.inf}, 1.0), 0.5))
    assert report == Report(1, {"R@20": None}, 1.0)


def test_trials_that_say_nothing_of_their_end_were_stopped_or_have_died() -> None:
    last = messages.report_result(Report(10, {}, 1.0), 0.5)
    assert messages.outcome_of(last, died=False) == Stopped()
    assert messages.outcome_of(last, died=True) == messages.outcome_of(None, died=False) == Died(messages.DIED)


def test_a_node_with_other_code_halts_the_search() -> None:
    told = messages.outcome_of({"outcome": '{"halted": "node runs other code"}'}, died=False)
    assert isinstance(told, Halt)
    assert "node runs other code" in told.reason
