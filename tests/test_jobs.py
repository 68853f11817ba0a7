"""The jobs of the README and of job.yaml: searches on a cluster with token authentication, data outside the package."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_clusters import submissions
from tests.test_readme import ROOT, commands
from tests.tiny import assignments

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A head node of its own; gives the environment in which a shell talks to it."""
    folder = Path(tempfile.mkdtemp(prefix="speaq-", dir="/tmp"))
    dashboard, port = free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_agent(address, environment["RAY_AUTH_TOKEN"], process)
        yield environment | {"RAY_API_SERVER_ADDRESS": address}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_agent(address: str, token: str, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise TimeoutError(address)


def submit(head: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The README's line, with other files and fewer steps."""
    line = next(c for c in commands() if "ray job submit" in c)
    before, _, entry = line.partition(" -- ")
    words = [*before.split(), "--", *entry.split()[: entry.split().index("tune")], *arguments]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(words, cwd=ROOT, env=head, capture_output=True, text=True, check=False, timeout=500)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:  # not up yet
            return done
        time.sleep(2)


def test_a_submitted_search_ends_with_its_outcome(head: dict[str, str], toy: Path, tmp_path: Path) -> None:
    config, space = tmp_path / "config.yaml", tmp_path / "space.yaml"
    config.write_text("", encoding="utf-8")
    space.write_text("parameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
    where = ("--config", str(config), "--space", str(space), "--data", str(toy), "--output", str(tmp_path / "study"))
    done = submit(head, "tune", *where, "--trials", "3", *assignments())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best trial" in done.stdout
    assert (tmp_path / "study" / "best.yaml").exists()
    assert head["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
    refused = submit(head, "tune", *where, "--trials", "3", *assignments())
    assert refused.returncode == 1
    assert "is not empty" in refused.stdout + refused.stderr


def of_file(head: dict[str, str], job: str, *arguments: str) -> list[str]:
    """The line of job.yaml for a search, with other files; the job gets a name."""
    words = next(words for words in submissions() if "tune" in words)
    return [*words[:3], "--submission-id", job, *words[3 : words.index("tune")], "tune", *arguments]


def events(study: Path) -> list[str]:
    path = study / "ledger.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_stopped_job_leaves_a_search_that_the_next_one_finishes(
    head: dict[str, str], toy: Path, tmp_path: Path
) -> None:
    config, space, study = tmp_path / "config.yaml", tmp_path / "space.yaml", tmp_path / "study"
    config.write_text("", encoding="utf-8")
    space.write_text("parameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
    where = ("--config", str(config), "--space", str(space), "--data", str(toy), "--output", str(study))
    long = assignments(training__max_steps=300, training__eval_every=5, training__decay_steps=[200])
    line = of_file(head, "search", *where, "--trials", "2", *long)
    job = subprocess.Popen(line, cwd=ROOT, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while events(study).count("reported") < 2:
        assert job.poll() is None, job.stdout and job.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    subprocess.run(["ray", "job", "stop", "search"], env=head, capture_output=True, check=True, timeout=120)
    told, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "interrupted" in told
    before = events(study)
    assert "finished" not in before
    time.sleep(2)
    assert events(study) == before  # nothing trains on
    done = subprocess.run(
        of_file(head, "search-again", "--resume", str(study)),
        cwd=ROOT,
        env=head,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(study)[: len(before)] == before
    assert events(study).count("finished") == 2
