"""Where a run trains: a config that asks for a GPU goes to a Ray worker that has one, and never onto a CPU unsaid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.trials import place
from launch.trials.place import on_workers
from speaq import config as configs
from speaq.config import ConfigError
from speaq.training.callbacks import Callbacks
from speaq.training.loop import train
from tests.helpers.command import refusal
from tests.helpers.tiny import assignments, tiny

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the GPU is invented: Ray's workers must not find one"
)

INVENTED = """
import json, sys
from pathlib import Path
import ray
from launch.jobs import rerun
from launch.trials import place
from speaq import config as configs
from speaq.config import ConfigError
from speaq.training.callbacks import Callbacks, no_progresses
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
run, data = Path(sys.argv[1]), Path(sys.argv[2])
config = configs.load(run / "config.yaml")
said = []
for start in (
    lambda: rerun.rerun(run, run.parent / "again", None, no_progresses),
    lambda: place.train_trial(config, data, run.parent / "confirmed", Callbacks(print)),
):
    try:
        said.append(start())
    except ConfigError as error:
        said.append(str(error))
print(json.dumps([said, ray.available_resources().get("GPU")]))
"""


def test_a_run_with_a_gpu_that_is_repeated_or_confirmed_goes_to_a_worker(toy: Path, tmp_path: Path) -> None:
    """The workers of an invented GPU say that PyTorch finds none: they are where the config says, and train nothing."""
    train(tiny(training__max_steps=1), toy, tmp_path / "run")
    config = tiny(training__max_steps=1, resources__gpus_per_worker=1.0)
    (tmp_path / "run" / "config.yaml").write_text(configs.dump(config))
    line = [sys.executable, "-c", INVENTED, str(tmp_path / "run"), str(toy)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    said, free = json.loads(done.stdout.splitlines()[-1])
    for text in said:
        assert "resources.gpus_per_worker: Ray gave a worker on " in str(text)
        assert "GPU 0, but PyTorch sees no CUDA device there" in text
    assert free == 1.0
    assert not (tmp_path / "again" / "checkpoints").exists()


def test_train_without_a_gpu_is_refused_rather_than_slow(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "config.yaml").write_text("")
    line = ("train", "--config", tmp_path / "config.yaml", "--data", toy, "--output", tmp_path / "run")
    asked = refusal(*line, *assignments(resources__gpus_per_worker=0.5))
    assert "resources.gpus_per_worker: 0.5 asked for, but PyTorch sees no CUDA device" in asked
    assert not (tmp_path / "run").exists()


def test_a_worker_of_an_invented_gpu_does_not_train_on_the_cpu(toy: Path, tmp_path: Path) -> None:
    """As a trial of a search and a queued run are: their process holds the GPU already."""
    config = tiny(resources__gpus_per_worker=1.0)
    with pytest.raises(ConfigError, match="PyTorch sees no CUDA device there"):
        place.train_trial(config, toy, tmp_path / "run", Callbacks(), placed=True)
    assert not (tmp_path / "run").exists()


def test_one_function_says_where_a_run_takes_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    on_cpu, on_gpu = tiny(), tiny(resources__gpus_per_worker=1.0)
    several = tiny(resources__num_workers=2, resources__gpus_per_worker=1.0)
    assert [on_workers(config, placed=True) for config in (on_cpu, on_gpu, several)] == [False, False, True]
    with pytest.raises(ConfigError, match="PyTorch sees no CUDA device; set RAY_ADDRESS"):
        on_workers(on_gpu, own_gpu=True)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert [on_workers(config, own_gpu=True) for config in (on_cpu, on_gpu, several)] == [False, True, True]
    assert [place.several_at_once(on_cpu, runs) for runs in (0, 1, 2)] == [False, False, True]
    assert [place.several_at_once(on_gpu, runs) for runs in (0, 1, 2)] == [False, True, True]


@pytest.mark.parametrize(
    ("workers", "gpus", "there"), [(1, 0.0, False), (2, 0.0, True), (1, 0.5, True), (2, 1.0, True)]
)
def test_several_workers_or_a_gpu_are_ray_s(workers: int, gpus: float, there: bool) -> None:
    assert on_workers(tiny(resources__num_workers=workers, resources__gpus_per_worker=gpus)) is there
