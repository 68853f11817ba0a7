"""The loop: what a run folder holds, exact resume, interruption, initialisation, accumulation, refusals."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from speaq import config as configs
from speaq.config import BASELINE, ConfigError
from speaq.data import DataError
from speaq.data.visual_genome import open_data
from speaq.evaluation.protocols import evaluate_file
from speaq.runs.diff import trained_evaluation
from speaq.runs.run import evaluate_run
from speaq.training import checkpoint
from speaq.training.endings import DivergedError, StopTraining
from speaq.training.loop import train
from speaq.training.metrics import read_lines
from tests.helpers.command import refusal
from tests.helpers.same_run import assert_same_run, timeless, weights
from tests.helpers.tiny import assignments, tiny


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of six steps."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(tiny(), toy, folder)
    return folder


def test_a_run_folder_holds_everything(run: Path, toy: Path) -> None:
    assert configs.load(run / "config.yaml") == tiny()
    record = json.loads((run / "data.json").read_text())
    assert record["directory"] == str(toy)
    assert (record["val_images"], record["task"]) == (6, "speaq")
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["step"]) == ("finished", 6)
    assert {"torch", "python", "numpy"} <= result["versions"].keys()
    cost = result["cost"]
    assert cost["peak_memory_mib"] > 0
    assert cost["latency_ms"] > 0
    assert math.isfinite(cost["data_wait_share"])
    assert (cost["steps"], cost["workers"], cost["seconds"]) == (6, 1, result["seconds"])
    assert result["protocol"] == "sgdet published"
    lines = read_lines(run / "metrics.jsonl")
    assert all((line.get("protocol") == "sgdet published") == ("val/seconds" in line) for line in lines)
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert steps == [2, 3, 4, 6, 6]
    assert {"val/R@20", "val/mR@50", "val/F@100", "val/AP50"} <= read_lines(run / "metrics.jsonl")[-1].keys()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt", "previous.pt"]


def test_a_run_notes_the_recall_of_every_predicate_of_its_best_checkpoint(run: Path) -> None:
    noted = trained_evaluation(run)
    assert noted is not None
    evaluated = evaluate_run(run)
    assert (noted["step"], noted["images"], noted["protocol"]) == (evaluated.step, evaluated.images, "sgdet published")
    rows = evaluated.report()["predicates"]
    assert [row["predicate"] for row in noted["report"]["predicates"]] == [row["predicate"] for row in rows]
    for name in ("R@20", "R@100", "images"):
        assert [row[name] for row in noted["report"]["predicates"]] == pytest.approx([row[name] for row in rows])


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(run: Path, toy: Path, tmp_path: Path) -> None:
    train(tiny(), toy, tmp_path / "again")
    assert_same_run(run, tmp_path / "again")
    train(tiny(seed=1), toy, tmp_path / "other")
    assert timeless(tmp_path / "other") != timeless(run)


def test_deterministic_products_are_possible_on_a_gpu(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch refuses them there unless cuBLAS is told how much workspace it has."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    once = {"training__max_steps": 2, "training__decay_steps": [1]}
    try:
        train(tiny(training__deterministic=True, **once), toy, tmp_path / "run")
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


class Killed(Exception):
    pass


def test_a_run_killed_after_its_first_checkpoint_resumes_bit_for_bit(run: Path, toy: Path, tmp_path: Path) -> None:
    def kill(step: int, metrics: Mapping[str, float | None], path: Path) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(tiny(), toy, tmp_path, report=kill)
    train(tiny(), toy, tmp_path, resume=True)
    assert_same_run(run, tmp_path)


def test_steps_after_the_checkpoint_are_repeated_and_logged_once(run: Path, toy: Path, tmp_path: Path) -> None:
    train(tiny(training__max_steps=3), toy, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "train/loss": 1.0}) + "\n" + '{"step": 5, "tr')  # written, then killed
    train(tiny(), toy, tmp_path, resume=True)
    steps = [line["step"] for line in timeless(tmp_path)]
    assert steps == [2, 3, 3, 4, 6, 6]  # 3 twice: it was the shorter run's last step


def test_a_damaged_newest_checkpoint_costs_one_interval_and_nothing_else(run: Path, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    train(tiny(), toy, folder, resume=True)
    assert_same_run(run, folder)


def test_resume_of_a_finished_run_repeats_nothing(run: Path, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    result = train(tiny(), toy, folder, resume=True)
    assert result["step"] == 6
    assert timeless(folder) == timeless(run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)])
def test_a_signal_saves_and_the_run_resumes_bit_for_bit(
    number: signal.Signals, code: int, run: Path, toy: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "speaq.cli", "train", "--config", str(tmp_path / "config.yaml")]
    command += ["--data", str(toy), "--output", str(tmp_path / "run"), *assignments(training__max_steps=100_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)  # the core is for the process
    process.send_signal(number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == code, errors
    assert "can be resumed" in errors
    step = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["step"]
    train(tiny(training__max_steps=step + 2), toy, tmp_path / "run", resume=True)
    train(tiny(training__max_steps=step + 2), toy, tmp_path / "undisturbed")
    first, second = weights(tmp_path / "run"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_run_says_so(toy: Path, tmp_path: Path) -> None:
    def stop(step: int, metrics: Mapping[str, float | None], path: Path) -> None:
        assert path.exists()
        raise StopTraining

    result = train(tiny(), toy, tmp_path, report=stop)
    assert (result["status"], result["step"]) == ("stopped", 3)


def test_the_best_checkpoint_is_that_of_the_best_metric(toy: Path, tmp_path: Path) -> None:
    reports: dict[int, float] = {}

    def note(step: int, metrics: Mapping[str, float | None], path: Path) -> None:
        reports[step] = metrics["ngR@100"] or 0.0

    result = train(tiny(training__best_metric="ngR@100"), toy, tmp_path, report=note)
    best = max(reports, key=lambda step: (reports[step], -step))
    assert (result["best"]["step"], result["best"]["value"]) == (best, reports[best])
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["step"] == best


def test_accumulated_micro_batches_take_the_same_images(toy: Path, tmp_path: Path) -> None:
    result = train(tiny(training__micro_batch_size=2), toy, tmp_path)
    assert result["step"] == 6


def test_bfloat16_stays_close_to_float32(run: Path, toy: Path, tmp_path: Path) -> None:
    train(tiny(training__precision="bfloat16"), toy, tmp_path)
    exact, rough = (timeless(folder)[0]["train/loss"] for folder in (run, tmp_path))
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.05)


def test_the_baseline_trains(toy: Path, tmp_path: Path) -> None:
    assert train(configs.apply(tiny(), BASELINE), toy, tmp_path)["status"] == "finished"


@pytest.mark.parametrize("mode", ["bilevel", "class_balanced"])
def test_resampled_training(mode: str, toy: Path, tmp_path: Path) -> None:
    config = tiny(data__resampling=mode, data__oversample=0.2, data__undersample=0.7)
    assert train(config, toy, tmp_path)["status"] == "finished"


def test_a_detector_is_trained_and_replicated(toy: Path, tmp_path: Path) -> None:
    detector = train(tiny(), toy, tmp_path / "detector", task="detector")
    assert (detector["best"]["metric"], detector["protocol"]) == ("AP50", "box AP")
    with pytest.raises(ConfigError, match="is a detector's, which predicts no triplet"):
        evaluate_run(tmp_path / "detector", predictions=tmp_path / "predictions.h5")
    config = tiny(training__init_from=str(tmp_path / "detector"), training__max_steps=1, training__learning_rate=1e-12)
    train(config, toy, tmp_path / "run")
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "detector", "best.pt")
    name = next(name for name in theirs if name.startswith("backbone.") and theirs[name].ndim == 4)
    assert torch.allclose(ours[name], theirs[name], atol=1e-6)


def test_a_run_starts_from_another_run(run: Path, toy: Path, tmp_path: Path) -> None:
    train(tiny(training__init_from=str(run), training__max_steps=1, training__learning_rate=1e-12), toy, tmp_path)
    ours, theirs = weights(tmp_path), weights(run, "best.pt")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_weights_that_do_not_fit_are_refused_by_name(run: Path, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.init_from: .*does not fit the model"):
        train(tiny(training__init_from=str(run), model__hidden_dim=32), toy, tmp_path)


def test_evaluation_needs_the_folder_alone(run: Path) -> None:
    result = evaluate_run(run)
    last = json.loads((run / "result.json").read_text())["best"]["metrics"]
    assert result.evaluation.metrics == pytest.approx(last)
    assert (result.split, result.images) == ("val", 6)
    assert evaluate_run(run, "test").images > 6


def test_predictions_are_stored_while_evaluating_and_give_the_same_numbers(
    run: Path, toy: Path, tmp_path: Path
) -> None:
    vg, stored = open_data(toy), tmp_path / "predictions.h5"
    for split in ("val", "test"):
        path = stored.with_stem(split)
        evaluation = evaluate_run(run, split, predictions=path).evaluation
        found = evaluate_file(path, vg, split, "sgdet", tiny().evaluation)
        assert {**found.results[0].metrics, **found.detection} == evaluation.metrics
        assert found.images_absent == 0
    with pytest.raises(ConfigError, match=r"val\.h5: exists"):
        evaluate_run(run, "val", predictions=stored.with_stem("val"))
    with pytest.raises(DataError, match="split · is that asked for, val · test"):
        evaluate_file(stored.with_stem("test"), vg, "val", "sgdet", tiny().evaluation)


def test_an_existing_run_is_not_overwritten(run: Path, toy: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tiny(), toy, run)


def test_resume_with_another_config_names_the_difference(run: Path, toy: Path) -> None:
    with pytest.raises(ConfigError, match="seed: 0 then, 1 now"):
        train(tiny(seed=1), toy, run, resume=True)


def test_a_resumed_run_notices_replaced_photos_and_takes_copied_ones(
    run: Path, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(toy, data, copy_function=shutil.copyfile)  # with times of its own
    shutil.copytree(run, folder)
    longer = tiny(training__max_steps=7)
    assert train(longer, data, folder, resume=True)["step"] == 7
    first, second = sorted((data / "VG_100K").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    longer = tiny(training__max_steps=8)
    with pytest.raises(
        ConfigError, match=r"data has changed since \(photos \w{12} then, \w{12} now\); --force goes on"
    ):
        train(longer, data, folder, resume=True)
    assert train(longer, data, folder, resume=True, force=True)["step"] == 8
    assert "goes on with other photos" in caplog.text
    (data / "zeroshot_triplets.npy").unlink()
    with pytest.raises(ConfigError, match=r"\(zero-shot list \w{12} then, none now\)"):
        train(longer, data, folder, resume=True)
    record = json.loads((folder / "data.json").read_text())
    del record["photos"], record["zero_shot"]  # as a version wrote it that did not look at them
    (folder / "data.json").write_text(json.dumps(record))
    assert train(longer, data, folder, resume=True)["step"] == 8


def test_other_annotations_need_force_and_the_same_names(run: Path, toy: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(toy, data)
    shutil.copytree(run, folder)
    with h5py.File(data / "VG-SGG-with-attri.h5", "a") as file:
        file["labels"][0] = 1 + file["labels"][0] % 2
    longer = tiny(training__max_steps=7)
    with pytest.raises(ConfigError, match=r"cannot resume on other data .*; --force goes on"):
        train(longer, data, folder, resume=True)
    assert train(longer, data, folder, resume=True, force=True)["step"] == 7
    names = json.loads((data / "VG-SGG-dicts-with-attri.json").read_text())
    names["predicate_to_idx"] = {f"x{name}": index for name, index in names["predicate_to_idx"].items()}
    del names["idx_to_predicate"]
    (data / "VG-SGG-dicts-with-attri.json").write_text(json.dumps(names))
    with pytest.raises(ConfigError, match="cannot resume on data of other classes or predicates"):
        train(longer, data, folder, resume=True, force=True)


def test_force_needs_resume(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    arguments = ("--config", tmp_path / "c.yaml", "--data", tmp_path, "--output", tmp_path / "run", "--force")
    for task in ("train", "pretrain"):
        assert "--force: has an effect with --resume alone" in refusal(task, *arguments)


def test_a_split_without_images_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num_val"):
        train(tiny(data__num_val=1000), toy, tmp_path)
    with pytest.raises(DataError, match="num_val"):
        train(tiny(data__num_val=0), toy, tmp_path)


def test_the_h5s_own_val_rows_are_evaluated_where_asked_for(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "data")
    with h5py.File(tmp_path / "data" / "VG-SGG-with-attri.h5", "a") as file:
        split = file["split"][:]
        split[np.flatnonzero(split == 0)[-5:]] = 1
        file["split"][:] = split
    config = tiny(data__val="split", data__num_val=0, training__max_steps=2, training__decay_steps=[1])
    train(config, tmp_path / "data", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text())["val_images"] == 5
    with pytest.raises(DataError, match=r"no image to evaluate on \(data\.num_val is 0, data\.val split\)"):
        train(config, toy, tmp_path / "other")


def test_groups_that_the_data_cannot_carry_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="50 predicates; the data has 16"):
        train(tiny(matching__group_counts="visual_genome"), toy, tmp_path)


def test_divergence_is_named(toy: Path, tmp_path: Path) -> None:
    config = tiny(training__learning_rate=1e30, training__clip_norm=1e30)
    line = r"step \d: .*(NaN or infinite in|is nan|not finite).*; lower training\.learning_rate \(1e\+30\) or "
    with pytest.raises(DivergedError, match=line):
        train(config, toy, tmp_path)


def test_sinks_receive_what_the_log_holds(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tiny(sinks__tensorboard=True), toy, tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {
        line["step"]: line["train/loss"] for line in read_lines(tmp_path / "metrics.jsonl") if "train/loss" in line
    }
    assert {event.step: event.value for event in events.Scalars("train/loss")} == pytest.approx(logged)


def test_tensorboard_keeps_the_step_that_a_resumed_run_begins_at(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (4, 6):
        train(tiny(sinks__tensorboard=True, training__max_steps=steps), toy, tmp_path, resume=steps > 4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]


def test_wandb_writes_offline_without_a_key(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "speaq.cli", "train", "--config", str(tmp_path / "config.yaml")]
    command += ["--data", str(toy), "--output", str(tmp_path / "run"), *assignments(), "--set", "sinks.wandb=online"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").glob("wandb/offline-run-*"))


def test_wandb_without_network_trains_offline_and_says_it_once(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "speaq.cli", "train", "--config", str(tmp_path / "config.yaml")]
    command += ["--data", str(toy), "--output", str(tmp_path / "run"), *assignments(), "--set", "sinks.wandb=online"]
    with socket.socket() as unheard:  # taken, and nobody listens
        unheard.bind(("127.0.0.1", 0))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
        environment |= {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{unheard.getsockname()[1]}"}
        for more in (["--set", "training.max_steps=5"], ["--resume"]):
            line = [*command, *more]
            done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=900)
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("sinks.wandb: offline from here on, the server cannot be used") == 1
            assert "Traceback" not in done.stderr
    (name,) = json.loads((tmp_path / "run" / "wandb.json").read_text()).values()
    parts = [path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert parts == [name, name]
