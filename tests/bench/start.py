"""How long a process takes until it works: `speaq --help`, and a trial's first training step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.measure import Settings, Values, beside
from tests.helpers.shared import ROOT

# What a trial does until its first step has been made, in the order and with the functions of speaq/training/loop.py.
TRIAL = """
import json, sys, time
stamps = {}
last = float(sys.argv[1])
def stamp(name):
    global last
    now = time.time()
    stamps[name], last = now - last, now
stamp("python")
import torch
stamp("import torch")
from pathlib import Path
from speaq.training import loop, step, tasks
from speaq.data.loading import train_loader
from tests.helpers.tiny import tiny
stamp("import speaq")
torch.set_num_threads(1)
config = tiny()
stamp("config")
vg = loop.open_data(Path(sys.argv[2]))
split = vg.split("train", config.data)
stamp("data")
task = tasks.make_task("speaq", config, vg, split)
stamp("model")
stepper = step.make_optimizer(task.model, config.training)
stamp("optimizer")
batch = next(train_loader(split, config))
stamp("first batch")
task.criterion_for(config.losses)(task.model(batch.images, batch.sizes_hw), batch.targets)[0].backward()
step.clip_gradients(task.model, config.training)
stepper.step()
stamp("first step")
print(json.dumps(stamps))
"""


def show_help(settings: Settings) -> Values:
    """`speaq --help` from the start of the process to its end."""

    def run() -> float:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "speaq.cli", "--help"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
        return time.perf_counter() - begin

    run()
    return beside(run, settings.repeats)


def trial_start(settings: Settings) -> Values:
    """From the start of a process to the end of the first training step of the toy world, and its parts in seconds."""
    from speaq.data.toy.world import make_toy

    parts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_toy(Path(folder) / "data", 20, seed=0)

        def run() -> float:
            command = [sys.executable, "-c", TRIAL, str(time.time()), f"{folder}/data"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=300
            )
            parts.append(json.loads(done.stdout))
            return sum(parts[-1].values())

        values = beside(run, 1 if settings.quick else min(settings.repeats, 3))
    quickest = min(parts, key=lambda part: sum(part.values()))
    return values | {"parts": quickest}
