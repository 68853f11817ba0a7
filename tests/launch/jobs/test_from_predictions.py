"""Searching the decoding of a trained run: the same numbers as evaluating it, nothing trained, resumable."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from speaq import config as configs
from speaq.data import DataError
from speaq.runs.run import evaluate_run
from speaq.runs.stored import RawOutputs, store
from speaq.study import snapshot as snapshots
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.command import command, refusal
from tests.helpers.tiny import tiny

KNOBS = {
    "inference.logit_adjustment": 1.0,
    "inference.predicate_exponent": 0.5,
    "inference.subject_exponent": 2.0,
    "inference.nms_threshold": 0.7,
    "inference.predictions_per_query": 3,
    "inference.pairwise_nms": 0.5,
}


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from_predictions") / "run"
    train(tiny(training__max_steps=4, data__num_val=12), toy, folder)
    return folder


@pytest.mark.parametrize("knobs", [{}, KNOBS])
def test_stored_outputs_give_the_numbers_of_an_evaluation(run: Path, knobs: dict[str, object]) -> None:
    stored = store(run)
    config = configs.apply(stored.config, knobs)
    wanted = evaluate_run(run, "val", overrides=knobs).evaluation.metrics
    assert stored.evaluate(config.inference).metrics == pytest.approx(wanted, abs=1e-9)


def test_of_a_converted_run_the_same_train_rows_are_counted(run: Path, toy: Path, tmp_path: Path) -> None:
    """It is not known which of them were val: all of them are."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    best = copied / "checkpoints" / "best.pt"
    checkpoint.save(best, {**checkpoint.load(best), "data_digest": None})
    stored = store(copied)
    assert stored.counts.sum() > store(run).counts.sum()
    wanted = evaluate_run(copied, "val").evaluation.metrics
    assert stored.evaluate(stored.config.inference).metrics == pytest.approx(wanted, abs=1e-9)


def test_outputs_are_made_once_and_again_after_more_training(run: Path, toy: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    first = store(copied).raw
    before = first.stat().st_mtime_ns
    assert store(copied).raw == first
    assert first.stat().st_mtime_ns == before
    train(tiny(training__max_steps=8, data__num_val=12), toy, copied, resume=True)
    shutil.copyfile(copied / "checkpoints" / "last.pt", copied / "checkpoints" / "best.pt")
    assert store(copied).raw != first


def test_a_search_starts_with_the_run_as_trained_and_leaves_a_curve(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    done = command("tune", "--from-predictions", run, "--output", output, "--trials", "12")
    assert done.exit_code == 0, (done.output, done.exception)
    snapshot = snapshots.read(output)
    assert [entry.state for entry in snapshot.entries] == ["finished"] * 12
    first = snapshot.entries[0]
    assert first.label == "as trained"
    wanted = evaluate_run(run, "val").evaluation.metrics
    assert first.metrics == pytest.approx({k: v for k, v in wanted.items() if k in first.metrics}, abs=1e-9)
    with (output / "curve.csv").open() as file:
        curve = [(float(row["R@50"]), float(row["mR@50"])) for row in csv.DictReader(file)]
    assert curve == sorted(curve)
    assert [mean for _, mean in curve] == sorted((mean for _, mean in curve), reverse=True)
    best = configs.load(output / "best.yaml", [])
    inference = configs.flatten(configs.to_dict(best))
    sets = [f"--set={key}={json.dumps(value)}" for key, value in inference.items() if key.startswith("inference.")]
    again = json.loads(command("evaluate", run, "--json", *sets).stdout)["metrics"]
    score = max(
        (entry.metrics for entry in snapshot.entries),
        key=lambda m: 2 * m["R@50"] * m["mR@50"] / max(m["R@50"] + m["mR@50"], 1e-9),
    )
    assert again["mR@50"] == pytest.approx(score["mR@50"], abs=1e-9)
    assert command("report", output).exit_code == 0


def test_it_resumes_and_repeats_nothing(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    assert command("tune", "--from-predictions", run, "--output", output, "--trials", "3").exit_code == 0
    rows = (output / "ledger.jsonl").read_text().splitlines()
    last = next(n for n, row in enumerate(rows) if json.loads(row).get("trial") == "0002" and "finished" in row)
    (output / "ledger.jsonl").write_text("\n".join(rows[:last]) + "\n")  # killed before its end
    done = command("tune", "--resume", output, "--trials", "5")
    assert done.exit_code == 0, (done.output, done.exception)
    entries = snapshots.read(output).entries
    assert [(entry.state, entry.attempts) for entry in entries] == [("finished", 1)] * 2 + [("finished", 2)] + [
        ("finished", 1)
    ] * 2


def test_it_begins_with_what_an_earlier_search_found(run: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    given = ("tune", "--from-predictions", run, "--trials", "4", "--output")
    assert command(*given, first).exit_code == 0
    assert command(*given, second, "--from", first, "--search", "prior_strength=0").exit_code == 0
    shutil.rmtree(first)
    found = snapshots.read(second)
    assert found.plan.sources[0].name == "first"
    assert sorted(entry.remark for entry in found.entries) == ["as trained", "first:0001", "first:0002", "first:0003"]
    assert command("tune", "--resume", second, "--trials", "5").exit_code == 0


def test_what_cannot_be_searched_is_refused_in_one_line(run: Path, toy: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    command_line = ("tune", "--from-predictions", run, "--output", tmp_path / "study")
    space.write_text("parameters: {inference.layer: {type: int, low: 0, high: 1}}\n")
    assert "inference.layer: only inference.* keys" in refusal(*command_line, "--space", space)
    space.write_text("parameters: {training.batch_size: {type: int, low: 1, high: 2}}\n")
    assert "training.batch_size: only inference.* keys" in refusal(*command_line, "--space", space)
    line = refusal(*command_line, "--search", "references=[published]")
    assert "search.references has no effect with --from-predictions" in line
    line = refusal(*command_line, "--search", "scheduler=asha")
    assert "search.scheduler: asha has no effect with --from-predictions" in line
    assert "--set has no effect with --from-predictions" in refusal(*command_line, "--set", "seed=1")
    assert "missing --output" in refusal("tune", "--from-predictions", run)
    space.write_text("parameters: {inference.nms_threshold: {type: float, low: 0.3, high: 0.7}}\n")
    config = tmp_path / "config.yaml"
    config.write_text(configs.dump(tiny()))
    line = refusal("tune", "--config", config, "--space", space, "--data", toy, "--output", tmp_path / "study")
    assert "every trial would train the same network" in line
    assert "speaq tune --from-predictions RUN" in line
    assert "--set training.batch_size: only inference.*" in refusal("evaluate", run, "--set", "training.batch_size=2")
    assert not (tmp_path / "study").exists()


def test_a_damaged_file_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "raw.h5"
    damaged.write_bytes(store(run).raw.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        RawOutputs(damaged)
    damaged.write_bytes(store(run).raw.read_bytes())
    with h5py.File(damaged, "r+") as file:
        file.attrs["format"] = np.zeros((2, 2))
    with pytest.raises(DataError, match=r"format · is speaq-raw-outputs/1 · array\(\[\[0\., 0\.\], \[0\., 0\.\]\]\)$"):
        RawOutputs(damaged)


def test_rows_are_those_of_the_split(run: Path) -> None:
    stored = store(run)
    raw = RawOutputs(stored.raw)
    rows = np.concatenate([rows for rows, _, _ in raw.batches()])
    assert sorted(rows.tolist()) == list(range(len(stored.split)))
