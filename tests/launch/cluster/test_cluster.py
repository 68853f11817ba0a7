"""A cluster that is gone or hangs, and compiled code that does: one line, and Ctrl-C acts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from speaq.study import file
from tests.helpers.shared import ROOT

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.cluster import head
from speaq import config as configs
from speaq.config import ConfigError
from tests.helpers.listening import free_port
from tests.helpers.tiny import tiny

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the first frame of an HTTP/2 server
SPACE = "parameters: {training.learning_rate: {type: float, low: 1.0e-5, high: 1.0e-2, log: true}}"


def serve(server: socket.socket, word: bytes) -> None:
    """Takes connections and says `word` to each, and nothing else for ever."""
    kept = []
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connection.sendall(word)
        kept.append(connection)


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", SETTINGS], ids=["silent", "other", "head"])
def answer(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    """Address of a server, and whether it answers as a head of Ray does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server, request.param), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", request.param == SETTINGS
        server.shutdown(socket.SHUT_RDWR)


def test_an_open_port_is_no_head(answer: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ANSWER", 0.2)
    address, expected = answer
    assert head.answers(address) is expected
    assert head.found(address, 0.5) is expected


@pytest.mark.parametrize("address", ["127.0.0.1:", "127.0.0.1:abc", "127.0.0.1:99999"])
def test_what_has_no_port_is_no_head(address: str) -> None:
    assert not head.answers(address)


def test_a_head_that_is_about_to_start_is_found() -> None:
    port = free_port("127.0.0.1")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def start() -> None:
            server.bind(("127.0.0.1", port))
            server.listen()
            serve(server, SETTINGS)

        threading.Timer(0.3, start).start()
        assert head.found(f"127.0.0.1:{port}", 60.0)
        server.shutdown(socket.SHUT_RDWR)


ADDRESSES = """
import os, sys
from launch.cluster import connection as cluster
from ray._private import services
cluster.FIND = 0.3
services.find_node_ids = lambda: set()  # as on a machine where Ray does not run
for address in sys.argv[1:]:
    os.environ["RAY_ADDRESS"] = address
    try:
        with cluster.connected():
            print("connected")
    except cluster.ClusterError as error:
        print(error)
"""


def test_every_way_in_which_a_cluster_is_not_there_has_a_line() -> None:
    gone = f"127.0.0.1:{free_port('127.0.0.1')}"
    with socket.create_server(("", 0)) as server:
        threading.Thread(target=serve, args=(server, SETTINGS), daemon=True).start()
        there = f"127.0.0.1:{server.getsockname()[1]}"
        asked = [gone, there, "ray://127.0.0.1:10001", "http://127.0.0.1:8265", "nonsense"]
        malformed = [":6379", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "fe80::1:6379", "head :6379"]
        done = subprocess.run(
            [sys.executable, "-c", ADDRESSES, *asked, *malformed],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        server.shutdown(socket.SHUT_RDWR)
    lines = done.stdout.splitlines()
    reasons = ["no head of Ray answered at", "no node of Ray runs on this machine", "names no head", "names no head"]
    reasons += ["Invalid address", *("is no HOST:PORT; give that of the head" for _ in malformed)]
    for address, line, reason in zip([*asked, *malformed], lines, reasons, strict=True):
        assert line.startswith(f"RAY_ADDRESS {address}: ")
        assert reason in line, done.stdout
    assert done.stderr == ""


def test_a_search_whose_cluster_is_gone_leaves_nothing(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "config.yaml").write_text(configs.dump(tiny()))
    line = [sys.executable, "-m", "speaq.cli", "tune", "--config", "config.yaml", "--space", "space.yaml"]
    line += ["--data", str(toy), "--output", "study"]
    environment = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{free_port('127.0.0.1')}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("speaq: RAY_ADDRESS 127.0.0.1:")
    assert not (tmp_path / "study").exists()


def test_the_folder_of_a_search_that_never_began_is_taken_again(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    with pytest.raises(ConfigError, match="is not empty"):
        file.check_new(tmp_path)
    (tmp_path / "study.yaml").write_text("{}")
    file.check_new(tmp_path)
    (tmp_path / "ledger.jsonl").touch()
    file.check_new(tmp_path)
    (tmp_path / "ledger.jsonl").write_text('{"event": "opened"')
    with pytest.raises(ConfigError, match="is not empty"):
        file.check_new(tmp_path)


def test_a_search_that_ended_while_its_storage_was_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    for name in (".claim", "ledger.jsonl", "study.db", "study.db-journal", ".0123456789ab.tmp.study.yaml"):
        (tmp_path / name).touch()
    file.check_new(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        file.check_new(tmp_path)


def test_ctrl_c_ends_a_command_that_waits_for_a_head() -> None:
    with socket.create_server(("", 0)) as server:
        environment = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{server.getsockname()[1]}"}
        line = [sys.executable, "-m", "speaq.cli", "doctor"]
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        connection, _ = server.accept()  # it asks
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        connection.close()
    assert (process.returncode, errors) == (130, "speaq: interrupted\n")


BLOCKED = """
import ctypes, os, signal, sys, threading
from launch.cluster import limits
limits.PATIENCE = 0.2
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
if sys.argv[1] == "signal":
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
signal.signal(signal.SIGTERM, signal.default_int_handler)
with limits.bounded(0.5 if sys.argv[1] == "late" else 3600.0, "too late"):
    for _ in range(1 if sys.argv[1] == "ended" else 2):  # the second waits for ever, and no signal ends it
        lock(mutex)
assert signal.set_wakeup_fd(-1) == -1
print("went on")
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("signal", 130, "speaq: interrupted\n"), ("late", 1, "speaq: too late\n"), ("ended", 0, "went on\n")],
)
def test_compiled_code_that_hangs_ends_with_one_line(how: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, how], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout + done.stderr) == (code, said)
