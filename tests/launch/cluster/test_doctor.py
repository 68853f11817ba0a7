"""`speaq doctor`, and runs that refuse to start, on a real cluster of two nodes that differ in what doctor looks at."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import refusal
from tests.helpers.hosts import COUNT
from tests.helpers.listening import free_port, kill
from tests.helpers.shared import ROOT
from tests.helpers.tiny import assignments

pytest.importorskip("ray")

from launch.cluster.checks import Row, _wrong_interface
from launch.cluster.nodes import Node
from launch.cluster.probe import Probe, interface_of

TOGETHER = "nodes"  # starts nodes, see conftest

BIN = Path(sys.executable).parent
LIMIT = 240  # seconds for a check: importing torch takes a while on a busy machine


# What a node says of itself, without a cluster


def test_a_node_finds_out_whom_it_reaches() -> None:
    probe = Probe()
    port = probe.listen("127.0.0.1", "secret")
    closed = probe.free_port("127.0.0.1")
    peers = {
        "fine": ("127.0.0.1", {"training": port}, "secret"),
        "other": ("127.0.0.1", {"training": port}, "another"),  # a forwarded port, a proxy
        "down": ("127.0.0.1", {"training": port, "node manager": closed}, "secret"),
    }
    assert probe.unreachable(peers) == [
        f"other port {port} (training): somebody else answers",
        f"down port {closed} (node manager): Connection refused",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are found on Linux")
def test_a_node_knows_the_interface_of_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None


def test_storage_is_what_every_node_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.cluster.probe.CACHED", 0.1)
    probe, folder = Probe(), str(tmp_path / "new")
    probe.write_token(folder, "first", "abc")
    assert probe.unseen(folder, {"first": "abc"}) == []
    assert probe.unseen(folder, {"first": "other", "second": "abc"}) == ["first", "second"]
    probe.remove(folder)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        probe.write_token(str(tmp_path / "missing" / "new"), "first", "abc")


def test_data_differ_by_annotations_and_photos(toy: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy, copy)
    file = copy / "weights"
    file.write_bytes(b"1")
    digests = Probe().digests(str(copy), {"start": str(file)})
    assert digests["data"] == Probe().digests(str(toy), {})["data"]
    next((copy / "VG_100K").iterdir()).unlink()
    file.write_bytes(b"2")
    changed = Probe().digests(str(copy), {"start": str(file)})
    assert changed["data"] != digests["data"]
    assert changed["start"] != digests["start"]


def test_what_doctor_is_to_look_at_must_be_here(tmp_path: Path) -> None:
    assert f"--storage: {tmp_path / 'none'} is not a folder here" in refusal("doctor", "--storage", tmp_path / "none")


def test_a_host_name_that_stands_for_the_loopback_is_named() -> None:
    node = Node("id", "host", "192.0.2.7", {}, {})
    network = {"hostname": "127.0.1.1", "interface": "eth0", "GLOO_SOCKET_IFNAME": None, "NCCL_SOCKET_IFNAME": "eth"}
    said = _wrong_interface(network, "GLOO_SOCKET_IFNAME", node, several=True)
    assert said == "the host name stands for 127.0.1.1, which gloo takes while GLOO_SOCKET_IFNAME is not set"
    assert _wrong_interface(network, "GLOO_SOCKET_IFNAME", node, several=False) == ""
    assert _wrong_interface(network | {"hostname": "192.0.2.7"}, "GLOO_SOCKET_IFNAME", node, several=True) == ""
    assert _wrong_interface(network, "NCCL_SOCKET_IFNAME", node, several=True) == ""  # a prefix is enough for NCCL


# A cluster


@dataclass
class Nodes:
    """A head and a second node, which has its own content in the folder `private` and names a wrong interface."""

    environment: dict[str, str]
    second: subprocess.Popen[bytes]
    private: Path

    def speaq(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "speaq.cli", *map(str, arguments)]
        return subprocess.run(
            line, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500
        )

    def count(self) -> int:
        line = [sys.executable, "-c", COUNT]
        return int(subprocess.run(line, env=self.environment, capture_output=True, text=True, check=True).stdout)

    def doctor(self, *arguments: str | Path, code: int, limit: float = LIMIT) -> list[Row]:
        done = self.speaq("doctor", "--json", "--limit", str(limit), "--min-free", "0.001", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return [Row(**row) for row in json.loads(done.stdout)]


def start(environment: dict[str, str], *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    line = [*before, str(BIN / "ray"), "start", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", *arguments]
    line += ["--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}"]
    return subprocess.Popen(
        line, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    unshare = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
    folder = Path(tempfile.mkdtemp(prefix="speaq-", dir="/tmp"))
    private = folder / "private"
    private.mkdir()
    if subprocess.run([*unshare, str(private), "true"], capture_output=True, check=False).returncode:
        shutil.rmtree(folder)
        pytest.skip("this machine lets nobody mount")
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    running = []
    try:
        running.append(
            start(environment, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        )
        address = f"127.0.0.1:{port}"
        health = [str(BIN / "ray"), "health-check", f"--address={address}"]
        wait_until(lambda: subprocess.run(health, env=environment, capture_output=True, check=False).returncode == 0)
        elsewhere = environment | {"GLOO_SOCKET_IFNAME": "none0"}
        running.append(start(elsewhere, f"--address={address}", before=(*unshare, str(private))))
        found = Nodes(environment | {"RAY_ADDRESS": address}, running[-1], private)
        wait_until(lambda: found.count() == 2)
        yield found
    finally:
        for process in reversed(running):
            kill(process)
        shutil.rmtree(folder, ignore_errors=True)


def failing(rows: list[Row]) -> dict[str, list[Row]]:
    """By check."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.state == "fails":
            found.setdefault(row.check, []).append(row)
    return found


@pytest.mark.slow
@pytest.mark.timeout(2700)
class TestOnTwoNodes:
    def test_doctor_names_what_the_second_node_lacks(self, nodes: Nodes, toy: Path) -> None:
        rows = nodes.doctor("--storage", nodes.private, "--data", toy, code=1)
        problems = failing(rows)
        assert set(problems) == {"storage", "gloo"}
        assert {row.check: row.state for row in rows if row.state != "fails"} == {
            **dict.fromkeys(("answers", "versions", "GPUs", "data", "free disk", "clock", "ports"), "ok"),
            "nccl": "left out",
        }
        assert all("does not see what is written on" in row.outcome for row in problems["storage"])
        assert problems["gloo"][0].outcome == "ended, since another node failed"  # and has not waited to the limit
        assert problems["gloo"][-1].outcome.startswith("GLOO_SOCKET_IFNAME is none0, the node's address is that of ")
        assert re.search(r"export GLOO_SOCKET_IFNAME=\w+ before `ray start`", problems["gloo"][-1].fix)
        assert list(nodes.private.iterdir()) == []  # nothing is left behind

    def test_a_run_refuses_storage_that_its_nodes_do_not_share(self, nodes: Nodes, toy: Path, tmp_path: Path) -> None:
        config, space = tmp_path / "config.yaml", tmp_path / "space.yaml"
        config.write_text("", encoding="utf-8")
        space.write_text("parameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
        hidden = nodes.private / "data"
        shutil.copytree(toy, hidden)
        given: list[Any] = ["--config", config, *assignments(resources__num_workers=2)]
        refused = {
            "output": nodes.speaq("train", *given, "--data", toy, "--output", nodes.private / "run"),
            "data": nodes.speaq("tune", *given, "--space", space, "--data", hidden, "--output", tmp_path / "study"),
        }
        shutil.rmtree(hidden)
        for what, done in refused.items():
            assert done.returncode == 2, done.stdout + done.stderr
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("speaq: ")]
            assert line.startswith(f"speaq: {what} ")
            assert "is not shared by the cluster's 2 nodes" in line
        assert list(nodes.private.iterdir()) == []

    @pytest.mark.cluster
    def test_a_hung_node_is_a_row_and_the_others_are_examined(self, nodes: Nodes, toy: Path) -> None:
        os.killpg(nodes.second.pid, signal.SIGSTOP)
        problems = failing(rows := nodes.doctor(code=1, limit=20))
        assert len({row.node for row in rows if row.check == "ports"}) == 1
        assert [row.outcome for row in problems.pop("answers")] == ["no answer in 20 s"]
        assert problems == {}
        kill(nodes.second)
        wait_until(lambda: nodes.count() == 1)
        assert failing(nodes.doctor("--storage", toy.parent, "--data", toy, code=0)) == {}  # all that is left is fit
