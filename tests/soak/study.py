"""A real search whose trials cost next to nothing but remember every step (tests/soak/training.py), for programs that
do things to it: its study, its driver, and what its trials have written down.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speaq.study import creation
from speaq.study import file as study_record
from tests.helpers.shared import ROOT
from tests.helpers.tiny import TINY

CONTROL = "STURDY_CONTROL"  # names the folder of `Control`
REPORT, END = "the report", "the end"  # moments in which the disk can get full, besides names of files
INTERVAL = 10  # steps between checkpoints
CONFIG = {
    **TINY,
    "data.num_val": 2,
    "training.batch_size": 2,
    "training.learning_rate": 0.02,
    "training.max_steps": 100,
    "training.eval_every": 20,
    "training.log_every": INTERVAL,
    "training.checkpoint_every": INTERVAL,
    "training.decay_steps": [90],
}
DECAYS = (0.001, 0.002)  # of trials that do nothing odd


class Control:
    """What trainings on all hosts are told through a folder: how long a step takes, and where the disk gets full."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def given(cls) -> Control:
        """That of the environment; none controls nothing."""
        return cls(Path(os.environ[CONTROL]) if CONTROL in os.environ else None)

    @classmethod
    def new(cls, folder: Path, seconds: float) -> Control:
        """For all processes that are started from now on."""
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[CONTROL] = str(folder)
        control = cls(folder)
        control.pace(seconds)
        return control

    @property
    def on(self) -> bool:
        return self._folder is not None

    @property
    def seconds(self) -> float:
        """That a step takes."""
        return 0.0 if self._folder is None else float((self._folder / "pace").read_text())

    def pace(self, seconds: float) -> None:
        assert self._folder is not None
        _replace(self._folder / "pace", str(seconds))

    def fill_at(self, moment: str, disk: Path, seconds: float) -> bool:
        """Whether a training came to this moment within so many seconds: `ballast` in `disk` has filled it then.

        `moment`: what the name of a file must hold that is opened for writing, or REPORT or END.
        """
        assert self._folder is not None
        order, taken, done = (self._folder / name for name in ("order", "taken", "done"))
        _replace(order, f"{moment}\n{disk / 'ballast'}")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not done.exists():
            time.sleep(0.05)
        order.unlink(missing_ok=True)  # from here on nobody can take it
        while taken.exists() and not done.exists() and time.monotonic() < deadline + seconds:
            time.sleep(0.05)
        filled = done.exists()
        for path in (taken, done):
            path.unlink(missing_ok=True)
        return filled

    def reached(self, moment: str) -> None:
        """Fills the disk where that was asked for; the first training that comes to this moment does it."""
        if self._folder is None:
            return
        order, taken = self._folder / "order", self._folder / "taken"
        try:
            wanted, ballast = order.read_text().splitlines()
            if wanted not in moment:
                return
            order.rename(taken)
        except FileNotFoundError:  # none, or another one was quicker
            return
        fill(Path(ballast))
        taken.rename(self._folder / "done")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def fill(ballast: Path) -> None:
    """Writes into a file until its disk is full to the last page."""
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass


def at_once(study: Path, data: Path, output: Path) -> dict[str, Kept]:
    """What each trial of a study that does nothing odd comes to where it is trained here without a search, without any
    fault; by its id. What is in `output` already, by digest, is not trained again.
    """
    from speaq import config as configs
    from tests.soak import training

    plan = study_record.read(study / "study.yaml").plan
    asked = [row for row in Trials(study).rows() if row["event"] == "asked"]
    for row in asked:
        config, folder = configs.apply(plan.base, row["overrides"]), output / row["digest"]
        if config.training.weight_decay not in training.POISON and not (folder / "result.json").exists():
            training.train(config, data, folder, report=_ignore, resume=False)
    found = {row["trial"]: output / row["digest"] for row in asked}
    return {trial: kept(folder) for trial, folder in found.items() if folder.exists()}


def _ignore(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
    """What a report comes to where nobody listens."""


def write_study(output: Path, data: Path, decays: Sequence[float]) -> int:
    """A grid over weight decays, which say what trials do, with a toy world; returns the number of its trials."""
    from launch.jobs import tune as studies
    from speaq import config as configs
    from speaq import space as spaces
    from speaq.config import Config
    from speaq.data.toy.world import make_toy

    if not data.exists():
        make_toy(data, 12, seed=0)
    trials = len(decays) + 2  # the published setting and the baseline
    search = {"sampler": "grid", "scheduler": "none", "trials": trials}
    parameters = {"training.weight_decay": {"type": "categorical", "choices": list(decays)}}
    space = spaces.from_dict({"search": search, "parameters": parameters})
    study = creation.create(configs.apply(Config(), CONFIG), space, data, train="tests.soak.training:train")
    output.mkdir(parents=True)
    studies.write(study, output, None)
    return trials


class Trials:
    """What the trials of a study have written down, and where they run."""

    def __init__(self, study: Path) -> None:
        self.study = study

    def steps(self, trial: str) -> list[list[str]]:
        """`from STEP PID TIME` and `step STEP TIME`."""
        path = self.study / "trials" / trial / "steps.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[:-1] for line in lines if line.endswith(" .")]

    def names(self) -> list[str]:
        folder = self.study / "trials"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def running(self) -> dict[str, int]:
        """Trials in the middle of their steps → their process."""
        found = {}
        for trial in self.names():
            begun = [line for line in self.steps(trial) if line[0] == "from"]
            ended = (self.study / "trials" / trial / "result.json").exists()
            if begun and not ended and _is_ray(pid := int(begun[-1][2])):
                found[trial] = pid
        return found

    def starts(self, trial: str) -> list[tuple[float, int]]:
        """When each attempt began, and how many steps behind the furthest one."""
        furthest, found = 0, []
        for line in self.steps(trial):
            if line[0] == "from":
                found.append((float(line[3]), furthest - int(line[1])))
            else:
                furthest = max(furthest, int(line[1]))
        return found

    def without_progress(self, trial: str) -> int:
        """How often it was started again, up to now, without having got further than the attempt before."""
        begun = [int(line[1]) for line in self.steps(trial) if line[0] == "from"]
        further = (later > before for before, later in zip(begun[-2::-1], begun[::-1], strict=False))
        return sum(1 for _ in itertools.takewhile(lambda got_further: not got_further, further))

    def last(self, trial: str) -> int:
        return max((int(line[1]) for line in self.steps(trial)), default=0)

    def rows(self) -> list[dict[str, Any]]:
        path = self.study / "ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _is_ray(pid: int) -> bool:
    """Not a process of somebody else that got the number."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


Output = Literal["pipe", "terminal"]


class Driver:
    """`speaq tune --resume` of one study, whose output goes into a pipe or to a terminal."""

    def __init__(
        self, study: Path, address: Callable[[], str], log: Log, choose: Callable[[], Output] = lambda: "pipe"
    ) -> None:
        """`address` of the cluster and `choose`, where the output goes, are asked at each start."""
        self.study = study
        self._address, self._log, self._choose = address, log, choose
        self.unclean: list[str] = []  # ends of which more than one line was said
        self.start()

    def start(self) -> None:
        self.output = self._choose()
        command = [sys.executable, "-m", "speaq.cli", "tune", "--resume", str(self.study)]
        environment = {**os.environ, "RAY_ADDRESS": self._address()}
        if self.output == "terminal":
            command = ["setsid", "--ctty", *command]  # a session of its own, which ends with its terminal
            environment["TERM"] = "xterm"
        reading, writing = os.pipe() if self.output == "pipe" else os.openpty()
        self._said = _Said(reading)
        stdin = subprocess.DEVNULL if self.output == "pipe" else writing
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=stdin, stdout=writing, stderr=writing)
        os.close(writing)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def hung_up(self) -> bool:
        """Whether nobody reads what it says."""
        return self._said.closed

    def hang_up(self) -> None:
        """Closes the pipe, as `head` does, or the terminal: its session gets SIGHUP."""
        self._said.close()

    def ended(self) -> int | None:
        """The exit code; what was said is kept."""
        code = self.process.poll()
        if code is None:
            return None
        text = self._said.text()
        last = text.rpartition("\n")[2]
        self._log(f"driver ended with {code}: {last}")
        untold = code > 0 and not self._said.closed and not last.startswith("speaq: ")
        crashed = code < 0 and code != -signal.SIGKILL  # of which the last line tells nothing
        if "Traceback" in text or crashed or untold:
            self.complain(f"ended with {code}: {text[-3000:]}")
        return code

    def complain(self, text: str) -> None:
        self.unclean.append(text)
        self._log(f"unclean: {text}")


class _Said:
    """What a process says, read by a thread; who reads can go away."""

    def __init__(self, file: int) -> None:
        self._file, self._parts = file, list[bytes]()
        self.closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
            while not self.closed:
                if select.select([self._file], [], [], 0.1)[0]:
                    if not (part := os.read(self._file, 2**16)):
                        break
                    self._parts.append(part)
        os.close(self._file)

    def close(self) -> None:
        self.closed = True
        self._thread.join()

    def text(self) -> str:
        """All of it, where the process has ended, without what moves the cursor."""
        self._thread.join(5.0)  # what a process has left behind may hold the other end
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(self._parts).decode(errors="replace"))
        return text.replace("\r", "\n").strip()


class Log:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def __call__(self, line: str) -> None:
        self._file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


@dataclass(frozen=True)
class Kept:
    """What the folder of a finished run holds: step and weights by file, and what its result tells of the best one."""

    weights: dict[str, tuple[int, dict[str, Any]]]
    best_step: int | None
    metrics: dict[str, float | None]

    def differs(self, there: Kept) -> str:
        """What is other than there; nothing where all is the same, bit for bit, and fits together."""
        import torch

        for name, (step, tensors) in there.weights.items():
            if name not in self.weights:
                return f"{name} is missing"
            step_here, here = self.weights[name]
            if step_here != step:
                return f"{name} is of step {step_here}, not {step}"
            if here.keys() != tensors.keys() or not all(torch.equal(here[key], tensors[key]) for key in tensors):
                return f"{name} has other weights"
        best = there.weights["best.pt"][0]
        return "" if self.best_step == best else f"the result says step {self.best_step}, best.pt is of step {best}"


def kept(run: Path) -> Kept:
    """What cannot be read is missing."""
    from speaq.training import checkpoint
    from speaq.training.checkpoint import CheckpointError

    weights = {}
    for name in (checkpoint.BEST, checkpoint.LAST):
        with contextlib.suppress(CheckpointError):
            content = checkpoint.load(run / "checkpoints" / name)
            weights[name] = content["step"], content["model"]
    try:
        best = json.loads((run / "result.json").read_text())["best"]
    except (OSError, ValueError):
        best = {"step": None, "metrics": {}}
    return Kept(weights, best["step"], best["metrics"])


def endings(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the digest of the trial's config: the row of its end."""
    digests = {row["trial"]: row["digest"] for row in rows if row["event"] == "asked"}
    return {digests[row["trial"]]: row for row in rows if row["event"] in ("finished", "failed")}
