"""Random faults against a real search on a real cluster of several nodes, and what they cost.

    python -m tests.soak FOLDER --faults 100 --seconds 3600 --seed 0

The same study (a grid, four of its points poisoned) is run again and again with faults, until N of them were injected.
Then every trial is trained once more, without a search and without a fault, to compare it with. No trial is killed more
often between two checkpoints than a search forgives (MAX_DEATHS). Whatever ends the search, it is resumed. `--only`
takes some kinds of faults alone:

- worker, preempted, straggler, damaged: a trial is killed, told to end, held up; killed, and its checkpoint spoilt
- node, head, cut, join: a host is lost, all of them, one loses its network for a while, one comes
- bare: a host comes that does not have the disk, and goes again
- driver, interrupt, hangup, pipe: the driver is killed, ended, its terminal is closed, nobody reads what it says
- full, read_only: the disk, for a while
- full_best, full_last, full_result, full_start, full_report, full_end: the disk is full from the very moment in which a
  trial opens this file (full_start: config.yaml), reports, or has ended: the next write fails
- unmounted: the disk is taken away, or another one is mounted in its place, for a while
- moved, moved_project: the study is renamed while it runs; the folder that holds it and its data, between two drivers

Prints one line: faults by kind, trials lost, trials repeated, steps repeated and the most at one restart, mismatches
against the undisturbed run (every metric, bit for bit), trials with wrong weights (best.pt and last.pt are opened: each
must be of the same step as undisturbed, bit for bit, and of the best step that result and ledger name), files where
the study's disk or folder was before; then recovery times. The exit code is 0 where all promises were kept. What
happened when lies in FOLDER/soak.log.

Needs root: hosts are namespaces (tests/helpers/hosts.py), and the study lies on a small disk in memory that can be
spoiled, in a mount namespace of its own.
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

from launch.search.searcher import MAX_DEATHS
from tests.helpers.hosts import Host, Hosts
from tests.soak.study import (
    END,
    INTERVAL,
    REPORT,
    Control,
    Driver,
    Kept,
    Log,
    Output,
    Trials,
    at_once,
    endings,
    fill,
    kept,
    write_study,
)

NODES, FEWEST, MOST, CPUS = 2, 1, 3, 2  # hosts at the start, how few and many there may be, CPUs of each
STEP = 0.1  # seconds
HEALTHY = [round(0.001 * number, 4) for number in range(1, 41)]
REASONS = {  # of those that fail, by weight decay
    0.5: "RuntimeError: made to fail",
    0.25: "the process of the trial died",
    0.125: "DivergedError: ",
    0.0625: "SystemExit: 3",
}
TRIALS = len(HEALTHY) + len(REASONS) + 2  # with the published setting and the baseline
DISK = 48  # MiB
FULL_AT = {  # kind → what the name of the opened file holds, or another moment
    "full_best": "best.pt",
    "full_last": "last.pt",
    "full_result": "result",
    "full_start": "config.yaml",
    "full_report": REPORT,
    "full_end": END,
}
DECAY = "training.weight_decay"
HARMLESS = ("join", "straggler", "bare", "pipe")  # after which nothing need start again
PATIENCE = 120.0  # seconds that a driver is given to notice that its folder is gone, or to end where it is told to
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
        self._kept, beneath = folder.with_name("kept"), folder.with_name("beneath")
        for path in (folder, self._kept, beneath):
            path.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(folder.parent), str(beneath))
        self._beneath = beneath / folder.name  # the mount point itself, where a file is written once the disk is gone
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(self._kept))
        _run("mount", "--bind", str(self._kept), str(folder))

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        try:
            fill(self.folder / "ballast")
            yield
        finally:
            self.empty()

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        _run("umount", "-l", str(self.folder))
        try:
            yield
        finally:
            _run("mount", "--bind", str(self._kept), str(self.folder))

    @contextlib.contextmanager
    def another(self, astray: list[Path]) -> Iterator[None]:
        """Another disk in its place; `astray` gets the files that are written onto it."""
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(self.folder))
        try:
            yield
        finally:
            astray += _files(self.folder)
            _run("umount", "-l", str(self.folder))

    def astray(self) -> list[Path]:
        """Files that were written where the disk was not. They are removed."""
        found = _files(self._beneath)
        for path in self._beneath.iterdir():
            shutil.rmtree(path)
        return found

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
        for mount in (self.folder, self._kept, self._beneath.parent):
            _run("umount", "-l", str(mount))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


class Round:
    """One run of the study, from its start to its end, with faults."""

    def __init__(self, soak: Soak, project: Path, step: float) -> None:
        """`project`: folder with the study and its data."""
        self.soak, self.project, self.log = soak, project, soak.log
        self.trials = Trials(project / "study")
        self.faults: list[Fault] = []
        self.running: Running = {}  # when a fault is injected
        self.tired: set[int] = set()  # processes of trials that are given up when they die once more
        self.damaged: Counter[str] = Counter()
        self.spoilt = threading.Lock()  # held while the disk cannot be written
        self.strayed: list[Path] = []  # files where the study's disk or folder was before
        self._threads: list[threading.Thread] = []
        soak.control.pace(step)
        self.driver = Driver(self.trials.study, lambda: soak.hosts.address, soak.log, soak.output)

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
        kinds = self.soak.possible(self.running, self.tired, self.driver)
        if not kinds:
            return False
        if new := {kind: weight for kind, weight in kinds.items() if kind not in self.soak.seen}:
            kinds = new if self.soak.random.random() < 0.3 else kinds  # each kind is to be seen
        kind = self.soak.random.choices(list(kinds), list(kinds.values()))[0]
        self.soak.seen.add(kind)
        fault = Fault(kind, time.time())
        self.faults.append(fault)
        if kind in FULL_AT:
            self._full_at(fault)
        else:
            getattr(self, f"_{kind}")(fault)
        self.log(f"{kind} {fault.trials}")
        return fault in self.faults

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

    def _hangup(self, fault: Fault) -> None:
        self._strike(fault, sorted(self.running))
        self.driver.hang_up()

    def _pipe(self, fault: Fault) -> None:
        """The driver is to go on, at least for a while, unless an earlier fault may end it."""
        self._strike(fault, sorted(self.running))
        self.driver.hang_up()
        alone = all(other.time < fault.time - 60 for other in self.faults[:-1] if other.kind not in HARMLESS)
        time.sleep(6.0)
        if alone and self.driver.process.poll():
            self.driver.complain("ended where nobody read what it said")

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

    def _bare(self, fault: Fault) -> None:
        host = self.soak.hosts.join(CPUS, wait=False, without=self.soak.disk.folder)
        self.soak.away.add(host)

        def leave() -> None:
            self.soak.hosts.kill(host)
            self.soak.away.discard(host)

        self._later(self.soak.random.uniform(30, 60), leave)

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

    def _full_at(self, fault: Fault) -> None:
        disk = self.soak.disk
        if not self.soak.control.fill_at(FULL_AT[fault.kind], disk.folder, 20.0):
            self.faults.remove(fault)  # no trial came to it
            return
        fault.time = time.time()
        self._strike(fault, sorted(self.trials.running()))
        with self.spoilt:
            time.sleep(self.soak.random.uniform(1, 4))
            disk.empty()

    def _unmounted(self, fault: Fault) -> None:
        self._strike(fault, sorted(self.running))
        disk = self.soak.disk
        taken = disk.away() if self.soak.random.random() < 0.6 else disk.another(self.strayed)
        with self.spoilt, taken:
            time.sleep(self.soak.random.uniform(2, 15))

    def _moved(self, fault: Fault) -> None:
        """The study gets another name while it runs: the driver is to notice."""
        self._strike(fault, sorted(self.running))
        study = self.trials.study
        self._go_on_in(self.project, study.rename(study.with_name(f"study-{len(self.faults)}")))
        self._end_driver()

    def _moved_project(self, fault: Fault) -> None:
        """The folder of study and data gets another name while nothing runs."""
        self._strike(fault, sorted(self.running))
        self.driver.send(signal.SIGTERM)
        self._end_driver()
        project = self.project.rename(self.project.with_name(f"round-{len(self.faults)}-moved"))
        self._go_on_in(project, project / self.trials.study.name)

    def _go_on_in(self, project: Path, study: Path) -> None:
        self.project, self.trials.study, self.driver.study = project, study, study

    def _end_driver(self) -> None:
        """Waits for its end, and ends it where it does not come."""
        try:
            self.driver.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.driver.complain(f"does not end in {PATIENCE:.0f} s")
            self.driver.send(signal.SIGKILL)

    def _spoil(self, spoiling: contextlib.AbstractContextManager[None], fault: Fault) -> None:
        self._strike(fault, sorted(self.running))
        with self.spoilt, spoiling:
            time.sleep(self.soak.random.uniform(2, 5))

    def astray(self) -> list[Path]:
        """Files where the study's disk or folder was before."""
        known = {self.trials.study, self.project / "data"}
        others = [path for path in self.project.iterdir() if path not in known]
        others += [path for path in self.project.parent.iterdir() if path != self.project]
        self.strayed += self.soak.disk.astray()
        return self.strayed + [path for other in others for path in (_files(other) if other.is_dir() else [other])]

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
    wrong: int = 0  # trials with other weights
    unclean: int = 0
    left_over: int = 0
    astray: int = 0
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def kept(self) -> bool:
        bad = self.lost, self.repeated, self.broken, self.mismatches, self.wrong, self.unclean
        return not any((*bad, self.left_over, self.astray))

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(self.faults.items()))
        return (
            f"faults injected {self.faults.total()} ({kinds}) · trials {self.trials} · trials lost {self.lost} · "
            f"trials repeated {self.repeated} · steps repeated {self.steps_repeated} of {self.steps}, at most "
            f"{self.most} at one restart (checkpoints every {INTERVAL}), {self.broken} more than promised · "
            f"mismatches {self.mismatches} · wrong weights {self.wrong} · ends without one line {self.unclean} · "
            f"files left over {self.left_over} · files astray {self.astray}"
        )

    def recovery_lines(self) -> list[str]:
        return [
            f"recovery {kind}: median {statistics.median(found):.1f} s, longest {max(found):.1f} s, of {len(found)} "
            f"trials (checkpoints every {INTERVAL * STEP:.1f} s)"
            for kind, found in sorted(self.recovery.items())
        ]

    def add(self, round_: Round, undisturbed: dict[str, Kept]) -> None:
        """A round that has ended; `undisturbed` by trial."""
        trials, rows = round_.trials, round_.trials.rows()
        results = {row["trial"]: row for row in endings(rows).values()}
        decays = {row["trial"]: row["overrides"].get(DECAY) for row in rows if row["event"] == "asked"}
        self.faults.update(fault.kind for fault in round_.faults)
        self.unclean += len(round_.driver.unclean)
        self.trials += TRIALS
        self.lost += TRIALS - len(results)
        for trial, found in results.items():
            if (reason := REASONS.get(decays[trial])) is not None:
                self._judge_failed(round_, found, reason)
            else:
                self._judge_finished(round_, found, undisturbed[trial])
        for path in round_.astray():
            round_.log(f"astray: {path}")
            self.astray += 1
        for trial in trials.names():
            self._count_steps(round_, trial, rows)
            self.left_over += len(list((trials.study / "trials" / trial / "checkpoints").glob(".*")))
        self._time(round_)

    def _judge_failed(self, round_: Round, found: dict[str, Any], reason: str) -> None:
        if found["event"] != "failed" or not found["reason"].startswith(reason):
            round_.log(f"mismatch: {found} instead of {reason}")
            self.mismatches += 1

    def _judge_finished(self, round_: Round, found: dict[str, Any], undisturbed: Kept) -> None:
        if found["event"] != "finished":
            round_.log(f"lost: {found}")
            self.lost += 1
            return
        if (found["metrics"], found["step"]) != (undisturbed.metrics, undisturbed.weights["last.pt"][0]):
            round_.log(f"mismatch: {found} instead of {undisturbed.metrics}")
            self.mismatches += 1
        here = kept(round_.trials.study / "trials" / found["trial"])
        reason = here.differs(undisturbed)
        if not reason and found["best_step"] != here.best_step:
            reason = f"the ledger says step {found['best_step']}, the result {here.best_step}"
        if reason:
            round_.log(f"wrong weights: trial {found['trial']}: {reason}")
            self.wrong += 1

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
        """From a fault to the first new step, where no other fault came in between: where the fault does harm, of a
        process that began after it.
        """
        begins = [fault.time for fault in round_.faults if fault.kind not in HARMLESS]
        for fault in round_.faults:
            for trial, last in fault.trials.items():
                lines = round_.trials.steps(trial)
                again = [at for at, line in enumerate(lines) if line[0] == "from" and float(line[3]) > fault.time]
                first = 0 if fault.kind in HARMLESS else again[0] if again else len(lines)
                steps = (line for line in lines[first:] if line[0] == "step")
                then = next((float(line[2]) for line in steps if int(line[1]) > last), None)
                if then is not None and not any(fault.time < begin < then for begin in begins):
                    self.recovery[fault.kind].append(then - fault.time)


class Soak:
    def __init__(
        self, folder: Path, faults: int, seconds: float, every: float, seed: int, only: tuple[str, ...] = ()
    ) -> None:
        """`only`: kinds of faults; all where none is named."""
        self.folder, self.left, self.every, self.only = folder, faults, every, only
        self.seconds = seconds
        self.deadline = math.inf  # of the last fault
        self.random = random.Random(seed)
        self.log = Log(folder / "soak.log")
        self.disk = Disk(folder / "disk")
        self.control = Control.new(folder / "control", 0.0)
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

    def output(self) -> Output:
        """Where the next driver's goes."""
        outputs: dict[str, Output] = {"hangup": "terminal", "pipe": "pipe"}
        return self.random.choice([outputs[kind] for kind in self.only if kind in outputs] or list(outputs.values()))

    def possible(self, running: Running, tired: set[int], driver: Driver) -> dict[str, float]:
        """Kinds that can be injected now → how often in relation to each other.

        Args:
            tired: processes of trials that are given up when they die once more before their next checkpoint.
        """
        nodes = len(self.healthy)
        kinds = {"driver": 0.5, "interrupt": 0.3, "full": 0.4, "read_only": 0.4}  # after which the driver starts again
        kinds |= {"unmounted": 0.6, "moved": 0.4, "moved_project": 0.25, **dict.fromkeys(FULL_AT, 0.2)}
        if not driver.hung_up:
            kinds |= {"hangup": 0.6} if driver.output == "terminal" else {"pipe": 1.2}
        kinds |= {} if self.away else {"head": 0.2, "bare": 1.0}
        kinds |= {"node": 0.8, "cut": 0.5} if nodes > FEWEST and self.fresh(tired) else {}
        kinds |= {"join": 3.0} if nodes < MOST else {}
        if set(running.values()) - tired:
            kinds |= {"worker": 5.0, "damaged": 3.0, "preempted": 3.0, "straggler": 4.0}
        if self.only:
            kinds = {kind: weight for kind, weight in kinds.items() if kind in self.only}
        return kinds if running else {}

    def run(self) -> int:
        self.hosts.add(NODES, CPUS)
        number = 0
        self.deadline = time.monotonic() + self.seconds
        while self.left > 0 and time.monotonic() < self.deadline:
            number += 1
            round_ = Round(self, self._write(f"round-{number}"), STEP)
            if not round_.run(self._next):
                self.count.lost += 1
            self.count.faults["poisoned"] += len(REASONS)
            self.left -= len(REASONS)
            self.control.pace(0.0)
            undisturbed = at_once(round_.trials.study, round_.project / "data", self.folder / "undisturbed")
            self.count.add(round_, undisturbed)
            self.log(f"round {number}: {self.count}")
            self._clear()
        print(self.count)
        for line in self.count.recovery_lines():
            print(line)
        return 0 if self.count.kept else 1

    def _clear(self) -> None:
        for path in self.disk.folder.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def _next(self) -> float | None:
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.deadline:
            return None
        return self.random.uniform(0.5, 1.5) * self.every

    def _write(self, name: str) -> Path:
        """A project: data and study side by side."""
        project = self.disk.folder / name
        assert write_study(project / "study", project / "data", [*HEALTHY, *REASONS]) == TRIALS
        return project

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
    parser.add_argument("--only", default="", help="kinds of faults, with commas between; else all")
    parser.add_argument("--own-mounts", action="store_true", help=argparse.SUPPRESS)  # set by itself
    given = parser.parse_args()
    if not given.own_mounts:
        again = [sys.executable, "-m", "tests.soak", *sys.argv[1:], "--own-mounts"]
        return subprocess.run(["unshare", "--mount", *again], check=False).returncode
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    only = tuple(filter(None, given.only.split(",")))
    if unknown := [kind for kind in only if kind not in FULL_AT and not hasattr(Round, f"_{kind}")]:
        parser.error(f"--only: no such fault: {', '.join(unknown)}")
    soak = Soak(folder, given.faults, given.seconds, given.every, given.seed, only)
    try:
        return soak.run()
    finally:
        soak.close()


if __name__ == "__main__":
    sys.exit(main())
