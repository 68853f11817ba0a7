"""A real search whose trials cost next to nothing but remember every step (tests/sturdy_training.py), for programs that
do things to it: its study, its driver, and what its trials have written down.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
INTERVAL = 10  # steps between checkpoints
CONFIG = {
    "training.max_steps": 100,
    "training.eval_every": 20,
    "training.checkpoint_every": INTERVAL,
    "training.decay_steps": [90],
}
DECAYS = (0.001, 0.002)  # of trials that do nothing odd


def at_once(study: Path, output: Path) -> dict[str, Any]:
    """The metrics of each trial of a study, trained here without a search, without any fault."""
    from launch import study as studies
    from speaq import config as configs
    from tests import sturdy_training

    plan = studies.read(study / "study.yaml").plan
    asked = [json.loads(line) for line in (study / "ledger.jsonl").read_text().splitlines()]
    metrics = {}
    for row in (row for row in asked if row["event"] == "asked"):
        config = configs.apply(plan.base, row["overrides"])
        result = sturdy_training.train(config, study, output / row["trial"], report=_ignore, resume=False)
        metrics[row["trial"]] = result["best"]["metrics"]
    return metrics


def _ignore(step: int, metrics: Mapping[str, float | None], checkpoint: Path) -> None:
    """What a report comes to where nobody listens."""


def write_study(output: Path, data: Path, decays: Sequence[float]) -> int:
    """A grid over weight decays, which say what trials do, with a toy world; returns the number of its trials."""
    from launch import study as studies
    from speaq import config as configs
    from speaq import space as spaces
    from speaq.config import Config
    from speaq.data.toy import make_toy

    if not data.exists():
        make_toy(data, 12, seed=0)
    trials = len(decays) + 2  # the published setting and the baseline
    search = {"sampler": "grid", "scheduler": "none", "trials": trials}
    parameters = {"training.weight_decay": {"type": "categorical", "choices": list(decays)}}
    space = spaces.from_dict({"search": search, "parameters": parameters})
    study = studies.create(configs.apply(Config(), CONFIG), space, data, train="tests.sturdy_training:train")
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


class Driver:
    """`speaq tune --resume` of one study."""

    def __init__(self, study: Path, address: Callable[[], str], log: Log) -> None:
        """`address`: of the cluster, asked at each start."""
        self._command = [sys.executable, "-m", "speaq.cli", "tune", "--resume", str(study)]
        self._address, self._log = address, log
        self.unclean: list[str] = []  # ends of which more than one line was said
        self.start()

    def start(self) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, "RAY_ADDRESS": self._address()}
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=self._errors
        )

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int | None:
        """The exit code; what was said is kept."""
        code = self.process.poll()
        if code is None:
            return None
        self._errors.seek(0)
        text = self._errors.read().strip()
        last = text.rpartition("\n")[2]
        self._log(f"driver ended with {code}: {last}")
        if "Traceback" in text or (code > 0 and not last.startswith("speaq: ")):
            self.unclean.append(text[-3000:])
            self._log(f"unclean: {text[-3000:]}")
        return code


class Log:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def __call__(self, line: str) -> None:
        self._file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def endings(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the digest of the trial's config: the row of its end."""
    digests = {row["trial"]: row["digest"] for row in rows if row["event"] == "asked"}
    return {digests[row["trial"]]: row for row in rows if row["event"] in ("finished", "failed")}
