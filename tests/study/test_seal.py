"""The test split of a search: sealed, opened with a reason, every look noted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speaq.config import ConfigError
from speaq.runs.run import evaluate_run
from speaq.study import seal
from speaq.study.ledger import Ledger
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.searched import Search
from tests.helpers.tiny import tiny


def test_the_test_split_of_a_search_opens_with_a_reason_and_counts_looks(toy: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    search = Search(study, trials=2)
    search.ledger.close()
    trial = study / "trials" / "0000"
    train(tiny(training__max_steps=1, training__decay_steps=[1]), toy, trial)
    checkpoint = trial / "checkpoints" / "best.pt"
    for run in (trial, checkpoint):
        assert f"{run}: the test split of {study} is sealed" in refusal(
            "evaluate", run, "--split", "test", "--data", toy
        )
    assert evaluate_run(trial, "val").images > 0  # no seal
    assert "test split: sealed" in command("status", study).stdout
    assert "say why" in refusal("unseal", study, "--reason", " ")
    assert command("unseal", study, "--reason", "the paper").exit_code == 0
    for run in (trial, checkpoint):
        assert command("evaluate", run, "--split", "test", "--data", toy).exit_code == 0
    wanted = "test split: looked at 2 times; opened for: the paper"
    assert wanted in command("status", study).stdout
    assert json.loads(command("status", study, "--json").stdout)["test_split"] == wanted
    looks = [row for row in seal.rows(study) if row["event"] == "look"]
    assert [(row["run"], row["checkpoint"], row["step"]) for row in looks] == [
        ("trials/0000", "best.pt", 1),
        ("trials/0000/checkpoints/best.pt", "best.pt", 1),
    ]
    Ledger(study / "ledger.jsonl").close()


def test_runs_of_their_own_have_no_seal(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "trials" / "run"
    train(tiny(training__max_steps=1, training__decay_steps=[1]), toy, run)
    assert seal.study_of(run) is None
    assert evaluate_run(run, "test").images > 0
    with pytest.raises(ConfigError, match="is no search"):
        seal.unseal(tmp_path, "why not")
