"""Random faults against a real search on a real cluster of several nodes, and what they cost.

    python -m tests.soak FOLDER --faults 100 --seconds 3600 --seed 0

The same study (a grid, four of its points poisoned) is run once undisturbed, then again and again while its processes
are killed, its nodes leave and come, its checkpoints are damaged and its disk fills up, until N faults were injected.
Whatever ends the search, it is resumed. Prints one line: faults by kind, trials lost, trials repeated, steps repeated
and the most at one restart, mismatches against the undisturbed run (every metric, bit for bit); then recovery times.
The exit code is 0 where all promises were kept. What happened when lies in FOLDER/soak.log.

A full and a read-only disk need root: the study then lies on a small disk in memory, in a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.nodes import Nodes, raylet

ROOT = Path(__file__).parents[1]
NODES, FEWEST, MOST = 2, 1, 3  # nodes of one CPU each at the start, and how few and many there may be
STEP = 0.1  # seconds
INTERVAL = 10  # steps between checkpoints
CONFIG = {
    "training.max_steps": 100,
    "training.eval_every": 20,
    "training.checkpoint_every": INTERVAL,
    "training.decay_steps": [90],
}
HEALTHY = [round(0.001 * number, 4) for number in range(1, 8)]
POISONED = [0.5, 0.25, 0.125, 0.0625]  # what they do: tests/sturdy_training.py
TRIALS = len(HEALTHY) + len(POISONED) + 2  # with the published setting and the baseline
REASONS = ("RuntimeError: made to fail", "the process of the trial died", "DivergedError: ", "SystemExit: 3")
DISK = 48  # MiB


@dataclass
class Fault:
    kind: str
    time: float
    trials: dict[str, int] = field(default_factory=dict)  # trials that it struck → the last step that they had begun


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

    def __init__(self, study: Path, nodes: Nodes, log: Log, step: float) -> None:
        self._command = [sys.executable, "-m", "speaq.cli", "tune", "--resume", str(study)]
        self._environment = {**os.environ, "RAY_ADDRESS": nodes.cluster.address, "STURDY_STEP": str(step)}
        self._log = log
        self.unclean: list[str] = []  # ends of which more than one line was said
        self.start()

    def start(self) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=self._errors
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


class Disk:
    """The folder that studies lie in; where root allows it, a file system of its own that can be spoiled."""

    def __init__(self, folder: Path, own: bool) -> None:
        self.folder, self.own = folder, own
        folder.mkdir(parents=True, exist_ok=True)
        if own:
            _run("mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder))

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        ballast = self.folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(2**16)):
                    pass
            yield
        finally:
            ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """For whatever opens a file from now on."""
        _run("mount", "--bind", str(self.folder), str(self.folder))
        _run("mount", "-o", "remount,bind,ro", str(self.folder))
        try:
            yield
        finally:
            _run("umount", "-l", str(self.folder))

    def close(self) -> None:
        if self.own:
            _run("umount", "-l", str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


class Round:
    """One run of the study, from its start to its end, with faults."""

    def __init__(self, soak: Soak, study: Path, step: float) -> None:
        self.soak, self.trials, self.log = soak, Trials(study), soak.log
        self.faults: list[Fault] = []
        self.damaged: Counter[str] = Counter()
        self.spoilt = threading.Lock()  # held while the disk cannot be written
        self._threads: list[threading.Thread] = []
        self.driver = Driver(study, soak.nodes, soak.log, step)

    def run(self, next_fault: Callable[[], float | None]) -> bool:
        """Until the study has ended; false where the time is up first. `next_fault`: seconds to wait for the next one,
        None where there are no more.
        """
        wait = next_fault()
        due = None if wait is None else time.monotonic() + 3 + wait
        while True:
            if time.monotonic() > self.soak.deadline + 600:
                self.log("the study does not end")
                return False
            code = self.driver.ended()
            if code == 0 and len(endings(self.trials.rows())) == TRIALS:
                break
            if code is not None:
                with self.spoilt:  # resumed as soon as the disk is well again
                    self.driver.start()
            if due is not None and time.monotonic() >= due and self.inject():
                wait = next_fault()
                due = None if wait is None else time.monotonic() + wait
            time.sleep(0.2)
        for thread in self._threads:
            thread.join()
        return True

    def inject(self) -> bool:
        """Whether a fault could be injected."""
        running = self.trials.running()
        kinds = self.soak.possible(running)
        if not kinds:
            return False
        kind = self.soak.random.choices(list(kinds), list(kinds.values()))[0]
        fault = Fault(kind, time.time())
        self.faults.append(fault)
        getattr(self, f"_{kind}")(fault, running)
        self.log(f"{kind} {fault.trials}")
        return True

    def _strike(self, fault: Fault, trials: list[str]) -> None:
        fault.trials = {trial: self.trials.last(trial) for trial in trials}

    def _one(self, fault: Fault, running: dict[str, int], number: int) -> str:
        trial = self.soak.random.choice(sorted(running))
        with contextlib.suppress(ProcessLookupError):
            os.kill(running[trial], number)
        self._strike(fault, [trial])
        return trial

    def _worker(self, fault: Fault, running: dict[str, int]) -> None:
        self._one(fault, running, signal.SIGKILL)

    def _preempted(self, fault: Fault, running: dict[str, int]) -> None:
        self._one(fault, running, signal.SIGTERM)

    def _damaged(self, fault: Fault, running: dict[str, int]) -> None:
        """Kills a trial and spoils its newest checkpoint, where there is one before it."""
        trial = self._one(fault, running, signal.SIGKILL)
        folder = self.trials.study / "trials" / trial / "checkpoints"
        last, previous = folder / "last.pt", folder / "previous.pt"
        if last.exists() and previous.exists():
            content = bytearray(last.read_bytes())
            if self.soak.random.random() < 0.5:
                content = content[: self.soak.random.randrange(len(content))]
            else:
                for _ in range(20):
                    content[self.soak.random.randrange(len(content))] ^= 0xFF
            last.write_bytes(content)
            self.damaged[trial] += 1

    def _straggler(self, fault: Fault, running: dict[str, int]) -> None:
        pid = running[self._one(fault, running, signal.SIGSTOP)]
        fault.trials = {}  # it goes on where it was
        self._later(self.soak.random.uniform(2, 6), lambda: _continue(pid))

    def _driver(self, fault: Fault, running: dict[str, int]) -> None:
        self.driver.send(signal.SIGKILL)
        self._strike(fault, sorted(running))

    def _interrupt(self, fault: Fault, running: dict[str, int]) -> None:
        self.driver.send(signal.SIGTERM)
        self._strike(fault, sorted(running))

    def _node(self, fault: Fault, running: dict[str, int]) -> None:
        node = self.soak.random.choice(self.soak.healthy)
        pids = self.soak.nodes.processes(node)
        self._strike(fault, [trial for trial, pid in running.items() if pid in pids])
        self.soak.nodes.kill(node)

    def _join(self, fault: Fault, running: dict[str, int]) -> None:
        self.soak.nodes.join()

    def _cut(self, fault: Fault, running: dict[str, int]) -> None:
        """A node that the others take for lost while its trials go on: its raylet is silent, then comes back."""
        node = self.soak.random.choice(self.soak.healthy)
        pids = self.soak.nodes.processes(node)
        self._strike(fault, [trial for trial, pid in running.items() if pid in pids])
        os.kill(raylet(node), signal.SIGSTOP)
        self.soak.frozen.add(node)

        def heal() -> None:
            _continue(raylet(node))
            time.sleep(20)  # it learns that it is lost, and ends its trials
            self.soak.nodes.kill(node)
            self.soak.frozen.discard(node)

        self._later(40, heal)

    def _full(self, fault: Fault, running: dict[str, int]) -> None:
        self._spoil(self.soak.disk.full(), fault, running)

    def _read_only(self, fault: Fault, running: dict[str, int]) -> None:
        self._spoil(self.soak.disk.read_only(), fault, running)

    def _spoil(self, spoiling: contextlib.AbstractContextManager[None], fault: Fault, running: dict[str, int]) -> None:
        self._strike(fault, sorted(running))
        with self.spoilt, spoiling:
            time.sleep(self.soak.random.uniform(2, 5))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        thread = threading.Timer(seconds, action)
        thread.start()
        self._threads.append(thread)


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@dataclass
class Count:
    """What the faults have cost."""

    faults: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    lost: int = 0
    repeated: int = 0
    steps: int = 0
    steps_repeated: int = 0
    most: int = 0  # steps repeated at one restart
    broken: int = 0  # restarts that repeated more than was promised
    mismatches: int = 0
    unclean: int = 0
    left_over: int = 0
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def kept(self) -> bool:
        bad = self.lost, self.repeated, self.broken, self.mismatches, self.unclean, self.left_over
        return not any(bad)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(self.faults.items()))
        return (
            f"faults injected {self.faults.total()} ({kinds}) · trials {self.trials} · trials lost {self.lost} · "
            f"trials repeated {self.repeated} · steps repeated {self.steps_repeated} of {self.steps}, at most "
            f"{self.most} at one restart (checkpoints every {INTERVAL}), {self.broken} more than promised · "
            f"mismatches {self.mismatches} · ends without one line {self.unclean} · files left over {self.left_over}"
        )

    def recovery_lines(self) -> list[str]:
        return [
            f"recovery {kind}: median {statistics.median(found):.1f} s, longest {max(found):.1f} s, of {len(found)} "
            f"trials (checkpoints every {INTERVAL * STEP:.1f} s)"
            for kind, found in sorted(self.recovery.items())
        ]

    def add(self, round_: Round, undisturbed: dict[str, dict[str, Any]]) -> None:
        """A round that has ended."""
        trials, rows = round_.trials, round_.trials.rows()
        results = endings(rows)
        self.faults.update(fault.kind for fault in round_.faults)
        self.unclean += len(round_.driver.unclean)
        self.trials += len(undisturbed)
        for digest, expected in undisturbed.items():
            found = results.get(digest)
            if found is None or (expected["event"] == "finished" and found["event"] != "finished"):
                round_.log(f"lost: {found}")
                self.lost += 1
            elif any(found.get(key) != expected.get(key) for key in ("event", "reason", "metrics", "step")):
                round_.log(f"mismatch: {found} instead of {expected}")
                self.mismatches += 1
        for trial in trials.names():
            self._count_steps(round_, trial, rows)
            self.left_over += len(list((trials.study / "trials" / trial / "checkpoints").glob(".*")))
        self._time(round_)

    def _count_steps(self, round_: Round, trial: str, rows: list[dict[str, Any]]) -> None:
        ended = [row["time"] for row in rows if row.get("trial") == trial and row["event"] in ("finished", "failed")]
        furthest = 0
        for line in round_.trials.steps(trial):
            step = int(line[1])
            if line[0] == "step":
                self.steps += 1
                self.steps_repeated += step <= furthest
                furthest = max(furthest, step)
                continue
            self.repeated += bool(ended) and float(line[3]) > ended[0]
            back = furthest - step
            self.most = max(self.most, back)
            if back > INTERVAL * (1 + min(1, round_.damaged[trial])):
                round_.log(f"trial {trial} went back {back} steps to {step}")
                self.broken += 1

    def _time(self, round_: Round) -> None:
        """From a fault to the first step that had not been begun before it, where no other fault came in between."""
        begins = [fault.time for fault in round_.faults if fault.kind not in ("join", "straggler")]
        for fault in round_.faults:
            for trial, last in fault.trials.items():
                steps = (line for line in round_.trials.steps(trial) if line[0] == "step" and int(line[1]) > last)
                then = min((moment for line in steps if (moment := float(line[2])) > fault.time), default=None)
                if then is not None and not any(fault.time < begin < then for begin in begins):
                    self.recovery[fault.kind].append(then - fault.time)


def endings(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the digest of the trial's config: the row of its end."""
    digests = {row["trial"]: row["digest"] for row in rows if row["event"] == "asked"}
    return {digests[row["trial"]]: row for row in rows if row["event"] in ("finished", "failed")}


class Soak:
    def __init__(self, folder: Path, faults: int, seconds: float, every: float, seed: int, own_disk: bool) -> None:
        self.folder, self.left, self.every = folder, faults, every
        self.deadline = time.monotonic() + seconds
        self.random = random.Random(seed)
        self.log = Log(folder / "soak.log")
        self.disk = Disk(folder / "disk", own_disk)
        self.nodes = Nodes()
        self.frozen: set[Any] = set()  # nodes that are cut off
        self.count = Count()

    @property
    def healthy(self) -> list[Any]:
        return [node for node in self.nodes.cluster.worker_nodes if node not in self.frozen]

    def possible(self, running: dict[str, int]) -> dict[str, float]:
        """Kinds that can be injected now → how often in relation to each other."""
        nodes = len(self.healthy)
        kinds = {"driver": 2.0, "interrupt": 1.0}
        kinds |= {"node": 2.0, "cut": 0.7} if nodes > FEWEST else {}
        kinds |= {"join": 4.0} if nodes < MOST else {}
        kinds |= {"full": 2.0, "read_only": 2.0} if self.disk.own else {}
        kinds |= {"worker": 5.0, "damaged": 3.0, "preempted": 2.0, "straggler": 4.0}
        return kinds if running else {}

    def run(self) -> int:
        for _ in range(NODES):
            self.nodes.join()
        study = self._study()
        first = Round(self, self._write(study, "undisturbed"), 0.0)
        assert first.run(lambda: None)
        undisturbed = endings(first.trials.rows())
        reasons = sorted(row["reason"] for row in undisturbed.values() if row["event"] == "failed")
        assert all(any(reason.startswith(start) for start in REASONS) for reason in reasons), reasons
        assert len(undisturbed) == TRIALS, undisturbed
        number = 0
        while self.left > 0 and time.monotonic() < self.deadline:
            number += 1
            round_ = Round(self, self._write(study, f"round-{number}"), STEP)
            if not round_.run(self._next):
                self.count.lost += 1
            self.count.faults["poisoned"] += len(POISONED)
            self.left -= len(POISONED)
            self.count.add(round_, undisturbed)
            self.log(f"round {number}: {self.count}")
            shutil.rmtree(round_.trials.study, ignore_errors=self.disk.own)
        print(self.count)
        for line in self.count.recovery_lines():
            print(line)
        return 0 if self.count.kept else 1

    def _next(self) -> float | None:
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline:
            return None
        return self.random.uniform(0.5, 1.5) * self.every

    def _study(self) -> Any:
        from launch import study as studies
        from speaq import config as configs
        from speaq import space as spaces
        from speaq.config import Config
        from speaq.data.toy import make_toy

        data = self.folder / "data"
        if not data.exists():
            make_toy(data, 12, seed=0)
        parameters = {"training.weight_decay": {"type": "categorical", "choices": [*HEALTHY, *POISONED]}}
        search = {"sampler": "grid", "scheduler": "none", "trials": TRIALS}
        space = spaces.from_dict({"search": search, "parameters": parameters})
        return studies.create(configs.apply(Config(), CONFIG), space, data, train="tests.sturdy_training:train")

    def _write(self, study: Any, name: str) -> Path:
        from launch import study as studies

        output = self.disk.folder / name
        output.mkdir()
        studies.write(dataclasses.replace(study), output, None)
        return output

    def close(self) -> None:
        self.nodes.close()
        self.disk.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no fault is injected after that")
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-disk", action="store_true", help=argparse.SUPPRESS)  # set by itself
    given = parser.parse_args()
    if not given.own_disk and os.geteuid() == 0 and shutil.which("unshare"):
        again = [sys.executable, "-m", "tests.soak", *sys.argv[1:], "--own-disk"]
        return subprocess.run(["unshare", "--mount", *again], check=False).returncode
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    soak = Soak(folder, given.faults, given.seconds, given.every, given.seed, given.own_disk)
    try:
        return soak.run()
    finally:
        soak.close()


if __name__ == "__main__":
    sys.exit(main())
