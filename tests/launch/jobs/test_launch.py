"""Searches and runs on real local Ray clusters, with the real training on a toy world and with a cheap stand-in."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config, ConfigError, ResourcesConfig
from speaq.data.loading import train_loader
from speaq.data.toy.world import make_toy
from speaq.data.visual_genome import open_data
from speaq.runs.run import evaluate_run
from speaq.study import changes, creation, file
from speaq.training.callbacks import Callbacks
from speaq.training.loop import train
from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.cluster import connection
from launch.jobs import tune
from launch.search.searcher import MAX_DEATHS
from launch.trials import worker
from launch.trials.worker import train_distributed
from speaq.study.errors import Halted
from speaq.study.ledger import Entry, Ledger, LedgerError
from tests.helpers.command import command, refusal
from tests.helpers.listening import descendants, open_to_others
from tests.helpers.search_of_toy import CHEAP, LONG, make_space

TOGETHER = "ray"  # shares `ray_cluster`, see conftest

pytestmark = pytest.mark.slow
TINY = {
    "data.num_val": 41,  # odd: two workers have different shares
    "data.train_sides": [96],
    "data.train_max_side": 96,
    "data.crop_probability": 0.0,
    "data.eval_side": 96,
    "data.eval_max_side": 96,
    "data.num_workers": 0,
    "data.cache_images": True,
    "model.backbone": "small",
    "model.frozen_stages": 0,
    "model.hidden_dim": 16,
    "model.num_heads": 2,
    "model.feedforward_dim": 32,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "model.num_queries": 8,
    "model.dropout": 0.1,
    "training.max_steps": 6,
    "training.batch_size": 4,
    "training.learning_rate": 1e-3,
    "training.clip_norm": 1.0,
    "training.decay_steps": [5],
    "training.num_threads": 1,
    "training.eval_every": 2,
    "training.log_every": 1,
}
CONFIG = configs.apply(Config(), TINY)


def free_cpus() -> float:
    import ray  # noqa: TID251

    return float(ray.available_resources().get("CPU", 0.0))


def metrics_lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    clock = ("seconds", "images_per_second", "data_wait_share", "time")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in lines]


def states(entries: list[Entry]) -> list[str]:
    return [entry.state for entry in entries]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_a_cluster_of_our_own_is_closed_to_other_machines(ray_cluster: None) -> None:
    processes = descendants(os.getpid())
    assert len(processes) > 3
    assert list(open_to_others(processes)) == []


def test_a_search_leaves_what_a_researcher_needs(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "study"
    asked = creation.create(CONFIG, make_space(objective=["R@20"]), toy, trials=3)
    entries = tune.start(asked, output)
    assert states(entries)[:2] == ["finished", "finished"]
    assert [e.label for e in entries] == ["published", "baseline", None]
    written = file.read(output / "study.yaml")
    assert (written.plan, written.data, written.data_digest) == (asked.plan, asked.data, asked.data_digest)
    assert {"python", "torch", "ray", "optuna"} <= set(written.versions)
    for entry in entries:
        run = output / "trials" / entry.id
        names = {"config.yaml", "data.json", "metrics.jsonl", "checkpoints", "result.json"}
        assert names <= {path.name for path in run.iterdir()}
        assert evaluate_run(run).evaluation.metrics == pytest.approx(dict(entry.metrics), nan_ok=True, abs=1e-9)
    rows = list(csv.DictReader((output / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0000", "0001", "0002"]
    assert (output / "search.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in output.iterdir()} == {
        "study.yaml",
        "ledger.jsonl",
        "trials",
        "trials.csv",
        "best.yaml",
        "search.png",
        "study.db",
    }
    best = configs.load(output / "best.yaml")
    again = train(best, toy, tmp_path / "again")  # the best config trains as it is, to the same result
    assert again["best"]["value"] == max(e.metrics["R@20"] or 0.0 for e in entries if e.state == "finished")


def test_ray_train_with_one_worker_computes_what_the_loop_does(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    here = train(CONFIG, toy, tmp_path / "here")
    reported: list[int] = []
    there = train_distributed(CONFIG, toy, tmp_path / "there", Callbacks(lambda step, m, c: reported.append(step)))
    assert reported == [2, 4, 6]
    assert metrics_lines(tmp_path / "there") == metrics_lines(tmp_path / "here")
    for key in ("status", "step", "metrics", "best"):
        assert there[key] == here[key]

    def files(run: Path) -> set[str]:
        return {p.relative_to(run).as_posix() for p in run.rglob("*") if p.name not in (".claim", "log.worker.jsonl")}

    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_two_workers_count_every_image_once_and_resume(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    config = configs.apply(CONFIG, {"resources.num_workers": 2, "training.max_steps": 4})
    run = tmp_path / "run"
    result = train_distributed(config, toy, run)
    assert (result["step"], result["cost"]["workers"]) == (4, 2)
    alone = evaluate_run(run)  # one process, all images, the same checkpoint
    assert alone.step == result["best"]["step"]
    assert alone.images == 41
    assert alone.evaluation.metrics == pytest.approx(result["best"]["metrics"], abs=1e-9, nan_ok=True)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_distributed(config, toy, run)
    longer = configs.apply(config, {"training.max_steps": 6})
    assert train_distributed(longer, toy, run, resume=True)["step"] == 6
    steps = [line["step"] for line in metrics_lines(run) if "val/R@20" in line]
    assert steps == [2, 4, 6]


def test_what_the_user_did_wrong_is_said_once_by_all_workers(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    config = configs.apply(CONFIG, {"resources.num_workers": 2, "data.num_val": 10_000})
    with pytest.raises(ConfigError, match="no image to train on"):
        train_distributed(config, toy, tmp_path / "run")


def test_a_photo_that_one_worker_cannot_read_ends_all_of_them(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    """The others would wait for it in the sum of the gradients."""
    data = tmp_path / "data"
    shutil.copytree(toy, data)
    config = configs.apply(CONFIG, {"resources.num_workers": 2, "data.cache_images": False})
    split = open_data(data).split("train", config.data)
    drawn = [next(train_loader(split, config, rank, 2)).indices for rank in (0, 1)]
    photo = split.image_path(next(row for row in drawn[1] if row not in drawn[0]))
    photo.write_bytes(photo.read_bytes()[:100])
    with pytest.raises(ConfigError, match=photo.name):
        train_distributed(config, data, tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.worker.jsonl").read_text().splitlines()]
    assert any(photo.name in row["message"] and "read_image" in row.get("traceback", "") for row in logged)


def test_a_worker_with_other_code_is_noticed(
    toy: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "source_digest", lambda: "0123")
    with pytest.raises(Halted, match=r"runs other code than the run \(source \w+, 0123 there\)"):
        train_distributed(CONFIG, toy, tmp_path / "run")


def test_trials_of_two_workers_are_stopped_and_free_their_place(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    short = {"training.max_steps": 3, "training.eval_every": 1, "training.decay_steps": [2]}
    config = configs.apply(LONG, {**short, "resources.num_workers": 2, "resources.cpus_per_worker": 0.5})
    before = free_cpus()
    worse = {"type": "float", "low": 1e-6, "high": 1e-5}  # than the rate of the references
    space = spaces.from_dict({"search": {"grace_steps": 1}, "parameters": {"training.learning_rate": worse}})
    entries = tune.start(creation.create(config, space, toy, trials=3, train=CHEAP), tmp_path / "study")
    assert states(entries) == ["finished", "finished", "paused"]
    paused = entries[-1]
    result = json.loads((tmp_path / "study" / "trials" / paused.id / "result.json").read_text())
    assert (result["status"], result["step"]) == ("stopped", paused.step)
    deadline = time.monotonic() + 180
    while free_cpus() < before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert free_cpus() == before


def test_a_failed_trial_is_recorded_and_does_not_stop_the_search(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    bad = {"type": "categorical", "choices": [0.5, 0.25]}  # raises; kills its process
    space = spaces.from_dict({"parameters": {"training.weight_decay": bad}})
    asked = creation.create(LONG, space, toy, trials=5, train=CHEAP)
    entries = tune.start(asked, tmp_path / "study")
    assert sorted(states(entries)) == ["failed", "failed", "finished", "finished"]  # the space has no more points
    raised, killed = sorted((e for e in entries if e.state == "failed"), key=lambda e: "died" in (e.reason or ""))
    assert raised.reason == "RuntimeError: made to fail"
    assert raised.attempts == 1
    assert "died" in (killed.reason or "")
    assert killed.attempts == 1 + MAX_DEATHS
    starts = (tmp_path / "study" / "trials" / killed.id / "steps.txt").read_text().splitlines()
    assert [line.split()[-1] for line in starts] == ["0", "80", "80"]  # it went on from its checkpoint


DRIVER = """
import os, sys
from pathlib import Path
os.environ["CHEAP_TRAINING_SLEEP"] = "0.05"
from launch.jobs import tune
from speaq.study import creation
from tests.helpers.search_of_toy import CHEAP, LONG, make_space
if __name__ == "__main__":
    asked = creation.create(LONG, make_space(grace_steps=30), Path(sys.argv[1]), trials=6, train=CHEAP)
    tune.start(asked, Path(sys.argv[2]))
"""


PROMOTING = """
import os, sys
from pathlib import Path
os.environ["CHEAP_TRAINING_SLEEP"] = "0.02"
from launch.jobs import tune
from speaq import space as spaces
from speaq.study import creation
from tests.helpers.search_of_toy import CHEAP, LONG
if __name__ == "__main__":
    rates = {"type": "categorical", "choices": [1e-3 * 0.9**number for number in range(1, 15)]}
    search = {"sampler": "grid", "seed": 1732, "grace_steps": 10, "reduction_factor": 2.0}
    space = spaces.from_dict({"search": search, "parameters": {"training.learning_rate": rates}})
    tune.start(creation.create(LONG, space, Path(sys.argv[1]), trials=8, train=CHEAP), Path(sys.argv[2]))
"""


def start_driver(toy: Path, output: Path, code: str = DRIVER, **environment: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    command = [sys.executable, "-c", code, str(toy), str(output)]
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


def rows(output: Path) -> list[dict[str, Any]]:
    path = output / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(driver: subprocess.Popen[bytes], output: Path, event: str, count: int) -> None:
    deadline = time.monotonic() + 720
    while sum(row["event"] == event for row in rows(output)) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_driver_is_resumed_without_repeating_or_losing(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    output = tmp_path / "study"
    driver = start_driver(toy, output)
    wait_for(driver, output, "finished", 1)
    wait_for(driver, output, "reported", 20)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = rows(output)
    ended = {row["trial"] for row in before if row["event"] == "finished"}
    rest = {row["trial"] for row in before if row["event"] == "paused"}  # it may go on, or not
    open_ = {row["trial"] for row in before if row["event"] == "running"} - ended - rest
    assert ended
    assert open_
    entries = tune.resume(output)
    assert len(entries) == 6
    assert all(entry.ended for entry in entries)
    assert not [e.reason for e in entries if e.reason]
    after = rows(output)
    assert after[: len(before)] == before
    for trial in ended:
        assert sum(row.get("trial") == trial and row["event"] == "running" for row in after) == 1
    for trial in open_:  # they go on from their last checkpoint
        starts = (output / "trials" / trial / "steps.txt").read_text().splitlines()
        steps = max((r["step"] for r in before if r["event"] == "reported" and r["trial"] == trial), default=0)
        assert int(starts[-1].split()[-1]) >= steps
    assert tune.resume(output) == entries  # nothing is left to do


def test_paused_trials_go_on_after_a_kill_and_with_more_trials(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    """The order of this grid is such that most trials are worse than those before them, and half of them go on."""
    output = tmp_path / "study"
    driver = start_driver(toy, output, PROMOTING)
    try:
        wait_for(driver, output, "promoted", 1)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = rows(output)
    entries = {entry.id: entry for entry in tune.resume(output)}
    assert rows(output)[: len(before)] == before
    assert len(entries) == 8
    assert {entry.state for entry in entries.values()} == {"finished", "paused"}
    assert not [entry.reason for entry in entries.values() if entry.reason]
    check_promotions(output, entries)
    assert tune.resume(output) == list(entries.values())  # nothing is left to do
    told = json.loads(command("status", output, "--json").stdout)["totals"]
    assert told["promoted"] == [entry.id for entry in entries.values() if entry.promotions]
    assert "went on after a pause" in command("status", output).stdout
    command("report", output)
    assert ">paused<" in (output / "report.html").read_text()
    command("export", output, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open() as file_:
        exported = {row["trial"]: row for row in csv.DictReader(file_)}
    assert {trial for trial, row in exported.items() if row["promotions"] != "0"} == set(told["promoted"])

    more = {entry.id: entry for entry in tune.resume(output, trials=12)}
    assert len(more) == 12
    assert sum(entry.promotions for entry in more.values()) > sum(entry.promotions for entry in entries.values())
    check_promotions(output, more)


def check_promotions(output: Path, entries: dict[str, Entry]) -> None:
    """Of each rung half of those that came there have gone on; who went on did so from where it had been paused."""
    for rung in (10, 20, 40):
        there = [entry for entry in entries.values() if rung in entry.reports]
        assert sum(entry.step > rung for entry in there) >= len(there) // 2
    assert any(entry.promotions for entry in entries.values())
    for entry in entries.values():
        starts = [int(s.split()[-1]) for s in (output / "trials" / entry.id / "steps.txt").read_text().splitlines()]
        assert starts[0] == 0
        assert len(set(starts)) > entry.promotions
        assert entry.seconds > 0


def test_a_changed_study_is_refused_until_it_is_forced(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    output, other = tmp_path / "study", tmp_path / "other"
    make_toy(other, 40, seed=1)
    output.mkdir()
    begun = creation.create(LONG, make_space(scheduler="none"), toy, trials=2, train=CHEAP)
    begun = dataclasses.replace(begun, versions=begun.versions | {"source": "0123456789ab", "torch": "2.0.0"})
    tune.write(begun, output, None)
    before = (output / "study.yaml").read_text()
    with pytest.raises(
        ConfigError, match=r"has changed .* \(data set \w{12} then, \w{12} now; source 0123456789ab then, "
    ):
        tune.resume(output, data=other)
    with pytest.raises(ConfigError, match=r"; torch 2\.0\.0 then, \S+ now\); --force goes on"):
        tune.resume(output)
    with contextlib.closing(Ledger(output / "ledger.jsonl")), pytest.raises(LedgerError):
        tune.resume(output, data=other, force=True)  # another driver works on it
    assert (output / "study.yaml").read_text() == before
    assert states(tune.resume(output, data=other, force=True)) == ["finished"] * 2
    kept = file.read(output / "study.yaml")
    assert kept.data == other
    assert [change.split()[0] for change in kept.forced[0]["changes"]] == ["data", "source", "torch"]
    assert "resumed with --force at" in command("status", output).stdout
    tune.resume(output)  # nothing has changed since
    assert file.read(output / "study.yaml") == kept
    assert len(file.read(output / "study.yaml").forced) == 1


def test_replaced_photos_are_refused_until_they_are_forced_and_copied_ones_are_not(toy: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "study"
    shutil.copytree(toy, data, copy_function=shutil.copyfile)  # with times of its own
    output.mkdir()
    begun = creation.create(LONG, make_space(scheduler="none"), toy, trials=2, train=CHEAP)
    tune.write(begun, output, None)
    begun = file.read(output / "study.yaml")
    assert set(begun.seen) == {"photos", "zero_shot"}
    moved = changes.as_now(begun, output, data, begun.data_digest, None, force=False)
    assert moved.forced == ()
    assert moved.seen["photos"]["contents"] == begun.seen["photos"]["contents"]
    first, second = sorted((data / "VG_100K").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    (data / "zeroshot_triplets.npy").unlink()
    with pytest.raises(
        ConfigError, match=r"\(photos \w{12} then, \w{12} now; zero-shot list \w{12} then, none now\); --f"
    ):
        tune.resume(output, data=data)
    forced = changes.as_now(begun, output, data, begun.data_digest, None, force=True)
    file.keep(forced, output)
    kept = file.read(output / "study.yaml")
    assert kept.seen == forced.seen != begun.seen
    assert len(kept.forced) == 1
    old = dataclasses.replace(begun, seen={})  # as a version wrote it that did not look at photos
    assert changes.as_now(old, output, data, begun.data_digest, None, force=False).forced == ()


def test_a_used_folder_is_refused(toy: Path, tmp_path: Path) -> None:
    assert "--force has no effect without --resume" in refusal("tune", "--force")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"is not empty; give another --output, or --resume"):
        tune.start(creation.create(LONG, make_space(), toy, train=CHEAP), tmp_path)


def test_a_trial_that_cannot_fit_is_refused_before_it_starts(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    config = configs.apply(LONG, {"resources.cpus_per_worker": 1000.0})
    with pytest.raises(ConfigError, match=r"one run needs 1 workers with 1000 CPU each; the cluster's nodes have"):
        tune.start(creation.create(config, make_space(), toy, train=CHEAP), tmp_path / "study")
    assert connection.places(ResourcesConfig(cpus_per_worker=0.5)) == 2 * connection.places(ResourcesConfig())


def test_an_interrupt_that_was_swallowed_is_raised_again() -> None:
    from launch.cluster.interrupts import Interrupts

    before = signal.getsignal(signal.SIGINT)
    with Interrupts(grace=0.0) as interrupts:
        interrupts.on_step_begin(0, [])
        with contextlib.suppress(KeyboardInterrupt):  # as Ray's compiled code does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.on_step_begin(1, [])
        interrupts.on_step_begin(2, [])
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_leaves_a_folder_to_resume_and_nothing_elsewhere(toy: Path, tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", Path("/tmp") / f"speaq-test-{os.getpid()}"
    home.mkdir()
    temporary.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(configs.dump(configs.apply(CONFIG, {"training.max_steps": 24})))
    space = tmp_path / "space.yaml"
    space.write_text("# Which rate?\nparameters:\n  training.learning_rate: {type: float, low: 1e-4, high: 1e-2}\n")
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "MPLCONFIGDIR"):
        environment.pop(name, None)
    speaq = [str(Path(sys.executable).with_name("speaq")), "tune"]
    output = tmp_path / "study"
    resume = [*speaq, "--resume", str(output)]
    new = ["--config", str(config), "--space", str(space), "--data", str(toy), "--output", str(output), "--trials", "2"]
    for line, sent in (([*speaq, *new], signal.SIGINT), (resume, signal.SIGTERM)):
        reported = sum(row["event"] == "reported" for row in rows(output))
        driver = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
        wait_for(driver, output, "reported", reported + 2)
        driver.send_signal(sent)
        _, errors = driver.communicate(timeout=360)
        assert driver.returncode == 130, errors
        assert errors.decode().strip().splitlines()[-1].startswith("speaq: interrupted")
    done = subprocess.run(resume, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "published" in done.stdout
    assert sum(row["event"] == "finished" for row in rows(output)) == 2
    steps = [row["step"] for row in rows(output) if row["event"] == "reported" and row["trial"] == "0000"]
    assert steps == sorted(set(steps))  # no evaluation was repeated
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "home", "space.yaml", "study"]
    assert list(home.rglob("*")) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


def test_an_evaluation_on_a_worker_does_not_wait_for_ever(toy: Path, tmp_path: Path, ray_cluster: None) -> None:
    import ray  # noqa: TID251

    from launch.jobs.remote_evaluation import evaluate_remotely

    everything = ray.cluster_resources()["CPU"]
    ray.get((holder := ray.remote(num_cpus=everything)(_Holder).remote()).hold.remote())  # type: ignore[attr-defined]
    try:
        with pytest.raises(ConfigError, match="no worker with 1 CPU became free within 1 s"):
            evaluate_remotely(tmp_path / "run", "val", toy, ResourcesConfig(), room=1.0)
    finally:
        ray.kill(holder)


class _Holder:
    """An actor that takes what it was given."""

    def hold(self) -> None:
        pass
