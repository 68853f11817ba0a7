"""Random faults against a real search on a real cluster of several nodes, and what they cost.

    python -m tests.soak FOLDER --faults 100 --seconds 3600 --seed 0

The same study (a grid, four of its points poisoned) is run once undisturbed, then again and again while its processes
are killed, its nodes leave and come, its checkpoints are damaged and its disk fills up, until N faults were injected.
No trial is killed more often between two checkpoints than a search forgives (MAX_DEATHS). Whatever ends the search, it
is resumed. Prints one line: faults by kind, trials lost, trials repeated, steps repeated and the most at one restart,
mismatches against the undisturbed run (every metric, bit for bit); then recovery times. The exit code is 0 where all
promises were kept. What happened when lies in FOLDER/soak.log.

Needs root: hosts are namespaces (tests/hosts.py), and the study lies on a small disk in memory that can be spoiled, in
a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.search import MAX_DEATHS
from tests.hosts import Host, Hosts
from tests.sturdy_study import INTERVAL, Driver, Log, Trials, endings, write_study

ROOT = Path(__file__).parents[1]
NODES, FEWEST, MOST, CPUS = 2, 1, 3, 2  # hosts at the start, how few and many there may be, CPUs of each
STEP = 0.1  # seconds
HEALTHY = [round(0.001 * number, 4) for number in range(1, 41)]
POISONED = [0.5, 0.25, 0.125, 0.0625]  # what they do: tests/sturdy_training.py
TRIALS = len(HEALTHY) + len(POISONED) + 2  # with the published setting and the baseline
REASONS = ("RuntimeError: made to fail", "the process of the trial died", "DivergedError: ", "SystemExit: 3")
DISK = 48  # MiB
Running = dict[str, int]  # trial → its process


@dataclass
class Fault:
    kind: str
    time: float
    trials: dict[str, int] = field(default_factory=dict)  # trials that it struck → the last step that they had begun


class Disk:
    """The folder that studies lie in: a file system of its own, which can be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
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
        _run("umount", "-l", str(self.folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


class Round:
    """One run of the study, from its start to its end, with faults."""

    def __init__(self, soak: Soak, study: Path, step: float) -> None:
        self.soak, self.trials, self.log = soak, Trials(study), soak.log
        self.faults: list[Fault] = []
        self.running: Running = {}  # when a fault is injected
        self.tired: set[int] = set()  # processes of trials that are given up when they die once more
        self.damaged: Counter[str] = Counter()
        self.spoilt = threading.Lock()  # held while the disk cannot be written
        self._threads: list[threading.Thread] = []
        os.environ["STURDY_STEP"] = str(step)
        self.driver = Driver(study, lambda: soak.hosts.address, soak.log)

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
        self.running = self.trials.running()
        self.tired = {p for trial, p in self.running.items() if self.trials.without_progress(trial) >= MAX_DEATHS}
        kinds = self.soak.possible(self.running, self.tired)
        if not kinds:
            return False
        if new := {kind: weight for kind, weight in kinds.items() if kind not in self.soak.seen}:
            kinds = new if self.soak.random.random() < 0.3 else kinds  # each kind is to be seen
        kind = self.soak.random.choices(list(kinds), list(kinds.values()))[0]
        self.soak.seen.add(kind)
        fault = Fault(kind, time.time())
        self.faults.append(fault)
        getattr(self, f"_{kind}")(fault)
        self.log(f"{kind} {fault.trials}")
        return True

    def _strike(self, fault: Fault, trials: list[str]) -> None:
        fault.trials = {trial: self.trials.last(trial) for trial in trials}

    def _one(self, fault: Fault, number: int) -> str:
        trial = self.soak.random.choice(sorted(trial for trial, pid in self.running.items() if pid not in self.tired))
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.running[trial], number)
        self._strike(fault, [trial])
        return trial

    def _worker(self, fault: Fault) -> None:
        self._one(fault, signal.SIGKILL)

    def _preempted(self, fault: Fault) -> None:
        self._one(fault, signal.SIGTERM)

    def _damaged(self, fault: Fault) -> None:
        """Kills a trial and spoils its newest checkpoint, where there is one before it."""
        trial = self._one(fault, signal.SIGKILL)
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

    def _straggler(self, fault: Fault) -> None:
        pid = self.running[self._one(fault, signal.SIGSTOP)]
        fault.trials = {}  # it goes on where it was
        self._later(self.soak.random.uniform(2, 6), lambda: _continue(pid))

    def _driver(self, fault: Fault) -> None:
        self.driver.send(signal.SIGKILL)
        self._strike(fault, sorted(self.running))

    def _interrupt(self, fault: Fault) -> None:
        self.driver.send(signal.SIGTERM)
        self._strike(fault, sorted(self.running))

    def _node(self, fault: Fault) -> None:
        host = self.soak.random.choice(self.soak.fresh(self.tired))
        pids = host.processes()
        self._strike(fault, [trial for trial, pid in self.running.items() if pid in pids])
        self.soak.hosts.kill(host)

    def _head(self, fault: Fault) -> None:
        """All hosts at once, and another cluster: the driver is to end by itself."""
        self._strike(fault, sorted(self.running))
        self.soak.restart()

    def _join(self, fault: Fault) -> None:
        self.soak.hosts.join(CPUS, wait=False)

    def _cut(self, fault: Fault) -> None:
        """A host without a network, whose trials go on until they report; it comes back, perhaps too late."""
        host = self.soak.random.choice(self.soak.fresh(self.tired))
        pids = host.processes()
        self._strike(fault, [trial for trial, pid in self.running.items() if pid in pids])
        self.soak.hosts.cut(host)
        self.soak.away.add(host)

        def heal() -> None:
            self.soak.hosts.heal(host)
            time.sleep(30)  # where it is given up, it learns that now, and ends its trials
            self.soak.hosts.kill(host)
            self.soak.away.discard(host)

        self._later(self.soak.random.uniform(10, 70), heal)

    def _full(self, fault: Fault) -> None:
        self._spoil(self.soak.disk.full(), fault)

    def _read_only(self, fault: Fault) -> None:
        self._spoil(self.soak.disk.read_only(), fault)

    def _spoil(self, spoiling: contextlib.AbstractContextManager[None], fault: Fault) -> None:
        self._strike(fault, sorted(self.running))
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
        made = [line[1] for line in round_.trials.steps(trial) if line[0] == "step"]
        self.steps += len(made)
        self.steps_repeated += len(made) - len(set(made))
        for begin, back in round_.trials.starts(trial):
            self.repeated += bool(ended) and begin > ended[0]
            self.most = max(self.most, back)
            if back > INTERVAL * (1 + min(1, round_.damaged[trial])):
                round_.log(f"trial {trial} went back {back} steps")
                self.broken += 1

    def _time(self, round_: Round) -> None:
        """From a fault to the first new step of a process that began after it, where no other fault came in between."""
        begins = [fault.time for fault in round_.faults if fault.kind not in ("join", "straggler")]
        for fault in round_.faults:
            for trial, last in fault.trials.items():
                lines = round_.trials.steps(trial)
                again = [at for at, line in enumerate(lines) if line[0] == "from" and float(line[3]) > fault.time]
                steps = (line for line in lines[again[0] :] if line[0] == "step") if again else iter(())
                then = next((float(line[2]) for line in steps if int(line[1]) > last), None)
                if then is not None and not any(fault.time < begin < then for begin in begins):
                    self.recovery[fault.kind].append(then - fault.time)


class Soak:
    def __init__(self, folder: Path, faults: int, seconds: float, every: float, seed: int) -> None:
        self.folder, self.left, self.every = folder, faults, every
        self.seconds = seconds
        self.deadline = math.inf  # of the last fault
        self.random = random.Random(seed)
        self.log = Log(folder / "soak.log")
        self.disk = Disk(folder / "disk")
        self.hosts = Hosts()
        self.away: set[Host] = set()  # cut off
        self.seen: set[str] = set()  # kinds of faults so far
        self.count = Count()

    @property
    def healthy(self) -> list[Host]:
        return [host for host in self.hosts.hosts if host not in self.away]

    def restart(self) -> None:
        """Another cluster, at the same address."""
        self.hosts.close()
        self.hosts = Hosts()
        for _ in range(NODES):
            self.hosts.join(CPUS, wait=False)

    def fresh(self, tired: set[int]) -> list[Host]:
        """Hosts whose loss gives no trial up."""
        return [host for host in self.healthy if tired.isdisjoint(host.processes())]

    def possible(self, running: Running, tired: set[int]) -> dict[str, float]:
        """Kinds that can be injected now → how often in relation to each other.

        Args:
            tired: processes of trials that are given up when they die once more before their next checkpoint.
        """
        nodes = len(self.healthy)
        kinds = {"driver": 0.5, "interrupt": 0.3, "full": 0.4, "read_only": 0.4}  # after which the driver starts again
        kinds |= {} if self.away else {"head": 0.2}
        kinds |= {"node": 0.8, "cut": 0.5} if nodes > FEWEST and self.fresh(tired) else {}
        kinds |= {"join": 3.0} if nodes < MOST else {}
        if set(running.values()) - tired:
            kinds |= {"worker": 5.0, "damaged": 3.0, "preempted": 3.0, "straggler": 4.0}
        return kinds if running else {}

    def run(self) -> int:
        self.hosts.add(NODES, CPUS)
        first = Round(self, self._write("undisturbed"), 0.0)
        assert first.run(lambda: None)
        undisturbed = endings(first.trials.rows())
        reasons = sorted(row["reason"] for row in undisturbed.values() if row["event"] == "failed")
        assert all(any(reason.startswith(start) for start in REASONS) for reason in reasons), reasons
        assert len(undisturbed) == TRIALS, undisturbed
        number = 0
        self.deadline = time.monotonic() + self.seconds
        while self.left > 0 and time.monotonic() < self.deadline:
            number += 1
            round_ = Round(self, self._write(f"round-{number}"), STEP)
            if not round_.run(self._next):
                self.count.lost += 1
            self.count.faults["poisoned"] += len(POISONED)
            self.left -= len(POISONED)
            self.count.add(round_, undisturbed)
            self.log(f"round {number}: {self.count}")
            shutil.rmtree(round_.trials.study, ignore_errors=True)
        print(self.count)
        for line in self.count.recovery_lines():
            print(line)
        return 0 if self.count.kept else 1

    def _next(self) -> float | None:
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline:
            return None
        return self.random.uniform(0.5, 1.5) * self.every

    def _write(self, name: str) -> Path:
        output = self.disk.folder / name
        assert write_study(output, self.folder / "data", [*HEALTHY, *POISONED]) == TRIALS
        return output

    def close(self) -> None:
        self.hosts.close()
        self.disk.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no fault is injected after that")
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-mounts", action="store_true", help=argparse.SUPPRESS)  # set by itself
    given = parser.parse_args()
    if not given.own_mounts:
        again = [sys.executable, "-m", "tests.soak", *sys.argv[1:], "--own-mounts"]
        return subprocess.run(["unshare", "--mount", *again], check=False).returncode
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    soak = Soak(folder, given.faults, given.seconds, given.every, given.seed)
    try:
        return soak.run()
    finally:
        soak.close()


if __name__ == "__main__":
    sys.exit(main())
