"""Fuzzes every reader of files that others may have written: python -m tests.fuzz --seconds 60 [--only yaml,json,h5].

Inputs are made by hypothesis: valid files with bytes or parts of them changed, and files made up from their grammar.
Each must be taken in, or be refused in one line by an error of ours. Everything else is a finding: another exception,
a reader that takes longer than SLOW seconds or MEMORY bytes, starts a program, opens a file beside the input, or ends
the interpreter (each reader runs in a process of its own). Prints a line for each reader; exit code 1 with findings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.fuzz_inputs import TARGETS, Target

SLOW = 20.0  # seconds
MEMORY = 2 * 2**30  # bytes beyond what the reader's modules take
STUCK, START = 90.0, 600.0  # seconds until a process that does not go on, or does not begin, is killed
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn")
OURS = ("ConfigError", "CheckpointError", "LedgerError", "DataError", "WeightsError")


class TooSlow(BaseException):
    """Raised by the clock inside a reader."""


class Watch:
    """Notes what Python does on behalf of a reader that no reader of files has to do."""

    def __init__(self, forbidden: Path) -> None:
        self._forbidden, self.seen = str(forbidden), list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROGRAMS or (event == "open" and str(arguments[0]).startswith(self._forbidden)):
            self.seen.append(f"{event} {arguments[:1]}")


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def verdict(target: Target, folder: Path, seconds: float | None = None) -> str | None:
    """Reads the input that lies in `folder`. Returns what is wrong with how it ended, None where nothing is.

    Args:
        seconds: that it may take; the clock takes SIGALRM, which pytest's own limit uses too.
    """
    try:
        with contextlib.nullcontext() if seconds is None else limited(seconds):
            target.read(folder)
    except TooSlow:
        return f"takes more than {seconds:g} s at {_place(sys.exc_info()[1])}"
    except Exception as error:
        if any(_is_of_memory(each) for each in _chain(error)):
            return f"takes more than {MEMORY} bytes at {_place(error)}"
        if type(error).__name__ not in OURS:
            return f"{type(error).__name__} at {_place(error)}: {str(error)[:200]}"
        if "\n" in str(error).strip():
            return f"several lines at {_place(error)}: {str(error)[:200]}"
        return None
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "Unable to allocate" in text


def _place(error: BaseException | None) -> str:
    """Where in our code an error came from: the innermost frame of it."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    ours = [frame for frame in frames if "/speaq/" in frame.filename or "/launch/" in frame.filename] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"


def child(name: str, folder: Path, seconds: float, seed: int) -> None:
    """Reads inputs until the time is over; what it is at lies in `folder`, what it found is printed as JSON lines."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    target = TARGETS[name](folder)
    outside = folder.parent / "outside"
    watch = Watch(outside)
    target.write(target.valid())
    assert verdict(target, folder) is None  # what is valid is taken in; modules are loaded before memory is limited
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    end, outcomes, known = time.monotonic() + seconds, Counter[str](), set[str]()

    @settings(
        max_examples=1000,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**63), target.made_up)
    def attempt(number: int, made_up: Any) -> None:
        if time.monotonic() > end:
            return
        generator = random.Random(number)
        content = target.changed(generator) if made_up is None or generator.random() < 0.75 else target.encode(made_up)
        target.write(content)
        wrong = verdict(target, folder, SLOW)
        if watch.seen:
            wrong, watch.seen[:] = f"{watch.seen[0]}", []
        outcomes["inputs"] += 1
        if wrong is not None:
            outcomes["findings"] += 1
            kind = wrong.partition(": ")[0]
            if kind not in known:
                known.add(kind)
                print(json.dumps({"finding": wrong, "input": content.hex()}), flush=True)

    while time.monotonic() < end:
        seeded(seed)(attempt)()
        seed += 1
    print(json.dumps(outcomes), flush=True)


def run(name: str, seconds: float, seed: int, keep: Path | None) -> tuple[int, dict[str, str]]:
    """Fuzzes one reader. Returns the number of inputs, and what is wrong → an input that shows it, in hexadecimal."""
    found: dict[str, str] = {}
    inputs, end = 0, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 or not inputs:
        with tempfile.TemporaryDirectory(prefix="speaq-fuzz-") as place:
            folder = Path(place) / "input"
            folder.mkdir()
            (Path(place) / "outside").mkdir()
            lines, crash = _run_child(name, folder, max(left, 1.0), seed)
            if crash is not None:
                found.setdefault(crash, TARGETS[name].current(folder).hex())
        for line in lines:
            if "finding" in line:
                found.setdefault(line["finding"], line["input"])
            inputs += line.get("inputs", 0)
        seed += 1000
        if crash is not None and not lines and len(found) > 20:
            break
        inputs = inputs or int(crash is not None)
    if keep is not None:
        for number, (wrong, content) in enumerate(found.items()):
            (keep / f"{name}-{number}.bin").write_bytes(bytes.fromhex(content))
            (keep / f"{name}-{number}.txt").write_text(wrong)
    return inputs, found


def _run_child(name: str, folder: Path, seconds: float, seed: int) -> tuple[list[dict[str, Any]], str | None]:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz", "--child", str(folder)]
    command += ["--only", name, "--seconds", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        start = time.time()
        while process.poll() is None:
            time.sleep(0.2)
            if time.time() > max(start + START, _last_write(folder) + STUCK):
                process.kill()
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines()]
        crash = None
        if process.returncode:
            said = err.read().decode("utf-8", "replace")
            if process.returncode == 1:
                raise RuntimeError(said)
            frames = said.rpartition("(most recent call first):\n")[2].splitlines()
            where = " | ".join(" ".join(frame.split()) for frame in frames[:4])
            crash = f"the interpreter ended with {process.returncode}, perhaps by an earlier input: {where[:400]}"
    return lines, crash


def _last_write(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--only", default=",".join(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that show a finding")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [key for key in TARGETS if key.startswith(tuple(options.only.split(",")))]
    if options.child is not None:
        child(names[0], options.child, options.seconds, options.seed)
        return 0
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    total = 0
    for name in names:
        inputs, found = run(name, options.seconds, options.seed, options.keep)
        print(f"{name}: {inputs} inputs, {len(found)} findings", flush=True)
        for wrong in found:
            print(f"  {wrong}", flush=True)
        total += len(found)
    return 1 if total else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
