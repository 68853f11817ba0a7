"""The jobs of the README and of job.yaml: searches on a cluster with token authentication, data outside the package.

While one runs, its metrics and Ray's dashboard are looked at; afterwards, whether a secret has got anywhere.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import command, refusal
from tests.helpers.listening import free_port, kill
from tests.helpers.readme import commands
from tests.helpers.shared import AS_IMPORTANT, ROOT
from tests.helpers.submissions import submissions
from tests.helpers.tiny import assignments

pytest.importorskip("ray")

TOGETHER = "nodes"  # starts nodes, see conftest
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]
BIN = Path(sys.executable).parent


OBSERVABILITY = ROOT / "launch" / "files" / "observability"
PLANTED = {"WANDB_API_KEY": secrets.token_hex(20), "password": secrets.token_hex(8)}  # in no file: tests travel too


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A head node of its own; gives the environment in which a shell talks to it."""
    folder = Path(tempfile.mkdtemp(prefix="speaq-", dir="/tmp"))
    dashboard, port, exported = free_port(), free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **AS_IMPORTANT}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    # As on a cluster whose nodes were started with them: jobs get the environment of the node.
    environment["WANDB_API_KEY"] = PLANTED["WANDB_API_KEY"]
    environment["SPEAQ_STORAGE"] = f"journal:///{folder}/search.log?password={PLANTED['password']}"
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"]
    command += [f"--metrics-export-port={exported}", '--system-config={"metrics_report_interval_ms": 500}']
    with (folder / "head.out").open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=said, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_agent(address, environment["RAY_AUTH_TOKEN"], process)
        yield environment | {
            "RAY_API_SERVER_ADDRESS": address,
            "METRICS": f"http://127.0.0.1:{exported}/metrics",
            "FOLDER": str(folder),
        }
    finally:
        kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_agent(address: str, token: str, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + 1200
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
    deadline = time.monotonic() + 360
    while True:
        done = subprocess.run(words, cwd=ROOT, env=head, capture_output=True, text=True, check=False, timeout=1500)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:  # not up yet
            return done
        time.sleep(2)


@dataclass
class Job:
    """A search that was submitted, and what was seen of it while it ran."""

    study: Path
    arguments: tuple[str, ...]
    metrics: dict[str, set[str]] = field(default_factory=dict)  # name → its samples' labels
    pages: dict[str, str] = field(default_factory=dict)  # of the dashboard
    done: subprocess.CompletedProcess[str] | None = None

    @property
    def said(self) -> str:
        assert self.done is not None
        return self.done.stdout + self.done.stderr

    def look(self, head: Mapping[str, str]) -> None:
        for line in fetch(head["METRICS"], head).splitlines():
            if sample := re.match(r"(ray_speaq_\w+)\{(.*)\} ", line):
                self.metrics.setdefault(sample[1], set()).add(sample[2])
        for path in ("/", "/api/jobs/", "/nodes?view=summary", "/api/v0/actors?limit=100", "/api/v0/workers?limit=100"):
            self.pages[path] = self.pages.get(path, "") + fetch(head["RAY_API_SERVER_ADDRESS"] + path, head)


def fetch(address: str, head: Mapping[str, str]) -> str:
    """A page, empty where there is none yet."""
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {head['RAY_AUTH_TOKEN']}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except (urllib.error.URLError, OSError):
        return ""


@pytest.fixture(scope="module")
def job(head: dict[str, str], toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A small search whose trials write for Weights & Biases."""
    folder = tmp_path_factory.mktemp("job")
    config, space = folder / "config.yaml", folder / "space.yaml"
    config.write_text("sinks: {wandb: offline}\n", encoding="utf-8")
    space.write_text("parameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
    where = ("--config", str(config), "--space", str(space), "--data", str(toy), "--output", str(folder / "study"))
    job = Job(folder / "study", ("tune", *where, "--trials", "3", *assignments()))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            job.look(head)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        job.done = submit(head, *job.arguments)
    finally:
        ended.set()
        watcher.join()
    assert job.done.returncode == 0, job.said
    return job


def test_a_submitted_search_ends_with_its_outcome(head: dict[str, str], job: Job) -> None:
    assert "best trial" in job.said
    assert (job.study / "best.yaml").exists()
    refused = submit(head, *job.arguments)
    assert refused.returncode == 1
    assert "is not empty" in refused.stdout + refused.stderr


def test_the_dashboard_shows_the_job(job: Job) -> None:
    assert "<title>Ray Dashboard</title>" in job.pages["/"]
    assert "speaq.cli tune" in job.pages["/api/jobs/"]
    assert "RUNNING" in job.pages["/api/jobs/"]


def test_prometheus_gets_what_the_grafana_dashboard_draws(head: dict[str, str], job: Job) -> None:
    dashboard = (OBSERVABILITY / "grafana_dashboard.json").read_text(encoding="utf-8")
    drawn = set(re.findall(r"ray_speaq_\w+", dashboard))
    assert drawn == set(job.metrics)
    for panel in json.loads(dashboard)["panels"]:
        for wanted in panel["targets"]:
            assert re.search(r"ray_speaq_\w+", wanted["expr"]), panel["title"]
    (states,) = {frozenset(re.findall(r'state="(\w+)"', " ".join(job.metrics["ray_speaq_trials"])))}
    assert states == {"waiting", "running", "finished", "paused", "pruned", "infeasible", "failed"}
    recalls = " ".join(job.metrics["ray_speaq_recall"])
    # Exported each second: a short trial whose process ends with it may be missed, not all three.
    assert all(label in recalls for label in ('study="study"', 'trial="000', 'metric="mR@50"'))
    scraped = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    (listed,) = scraped["scrape_configs"][0]["file_sd_configs"][0]["files"]
    found = Path(head["FOLDER"]) / Path(listed).name  # of a cluster with another folder than /tmp/ray
    port = head["METRICS"].removesuffix("/metrics").rpartition(":")[2]
    assert f':{port}"' in found.read_text(encoding="utf-8")


def test_a_trial_says_what_it_does(job: Job) -> None:
    rows = [json.loads(line) for line in command("logs", job.study, "0001", "--json").stdout.splitlines()]
    assert {row["trial"] for row in rows} == {"0001"}
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    said = [(row["step"], row["message"].partition(":")[0]) for row in rows]
    assert [step for step, message in said if message == "evaluated"] == [3, 6]
    shown = command("logs", job.study, "0001", "--follow").stdout  # the trial has ended: nothing is waited for
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO step 3 evaluated: .*R@50 \d", shown, flags=re.MULTILINE)
    assert "trial 7: no such trial (there are 0000, 0001, 0002)" in refusal("logs", job.study, "7")


def test_no_secret_gets_anywhere(head: dict[str, str], job: Job) -> None:
    assert head["RAY_AUTH_TOKEN"] not in job.said
    assert (Path(head["FOLDER"]) / "search.log").stat().st_size > 0  # the storage with the password was used
    assert list(job.study.glob("trials/*/wandb/offline-run-*"))  # and wandb too
    files = [path for place in (job.study, Path(head["FOLDER"])) for path in place.rglob("*") if path.is_file()]
    assert len(files) > 50
    shown = {"output": job.said, **job.pages}
    for name, secret in PLANTED.items():
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == [], name
        assert [page for page, text in shown.items() if secret in text] == [], name


def of_file(head: dict[str, str], job: str, *arguments: str) -> list[str]:
    """The line of job.yaml for a search, with other files; the job gets a name."""
    words = next(words for words in submissions() if "tune" in words)
    return [*words[:3], "--submission-id", job, *words[3 : words.index("tune")], "tune", *arguments]


def events(study: Path) -> list[str]:
    path = study / "ledger.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.cluster
def test_a_stopped_job_leaves_a_search_that_the_next_one_finishes(
    head: dict[str, str], toy: Path, tmp_path: Path
) -> None:
    config, space, study = tmp_path / "config.yaml", tmp_path / "space.yaml", tmp_path / "study"
    config.write_text("", encoding="utf-8")
    space.write_text("parameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
    where = ("--config", str(config), "--space", str(space), "--data", str(toy), "--output", str(study))
    long = assignments(training__max_steps=120, training__eval_every=4, training__decay_steps=[100])
    line = of_file(head, "search", *where, "--trials", "2", *long)
    job = subprocess.Popen(line, cwd=ROOT, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 720
    while events(study).count("reported") < 2:
        assert job.poll() is None, job.stdout and job.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    subprocess.run(["ray", "job", "stop", "search"], env=head, capture_output=True, check=True, timeout=360)
    told, _ = job.communicate(timeout=360)
    assert job.returncode == 0, told  # Ray's word for a job that was stopped
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
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(study)[: len(before)] == before
    assert events(study).count("finished") == 2
