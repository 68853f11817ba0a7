"""A Ray cluster of hosts that have networks of their own: namespaces joined by a bridge. Needs root and Linux.

The head, which has no CPUs, is in the namespace where this runs, as drivers are. All hosts see the same files, as with
shared storage. One such cluster at a time on a machine; what an earlier one has left behind is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.listening import free_port
from tests.helpers.shared import AS_IMPORTANT, ROOT

PREFIX, LINK, BRIDGE = "speaq-host", "speaq", "speaq-bridge"
NETWORK = "10.213.77"
MEMORY = 80 * 2**20  # bytes of a node's object store; Ray takes no less
PATIENCE = 600.0  # seconds that a node may take to start: a slow machine is no failure
COUNT = "import ray; ray.init(logging_level='ERROR'); print(sum(node['Alive'] for node in ray.nodes()))"


@dataclass(eq=False)
class Host:
    number: int
    cpus: int
    without: Path | None = None  # a mount that it lacks
    ray: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.number}"

    @property
    def link(self) -> str:
        """Its end of the cable at the bridge."""
        return f"{LINK}{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    def processes(self) -> list[int]:
        return _processes(self.name)


def possible() -> bool:
    """Whether this machine lets us make networks."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


class Hosts:
    def __init__(self) -> None:
        self._lock = Path(tempfile.gettempdir(), "speaq-hosts.lock").open("w")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        _clean()
        self._folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))  # short: it is part of sockets' names
        os.environ |= {"RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(self._folder)}
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
        os.environ |= AS_IMPORTANT
        self.hosts: list[Host] = []
        self._numbers = 1
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        own = own_address()  # of the drivers too, which join the node of their own machine
        port = free_port(own)
        self.address = f"{own}:{port}"
        self._start_head = ["--head", f"--port={port}", f"--node-ip-address={own}", "--num-cpus=0"]
        self._start_head += ["--include-dashboard=false"]
        self._head = self._start([], BRIDGE, *self._start_head)
        self.wait()

    def join(self, cpus: int = 1, *, wait: bool = True, without: Path | None = None) -> Host:
        """A new host, whose Ray has joined when this returns, unless it is not to be waited for.

        `without`: where a disk is mounted that this host does not have.
        """
        self._numbers += 1
        host = Host(self._numbers, cpus, without)
        _ip("netns", "add", host.name)
        _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("link", "set", host.link, "master", BRIDGE, "up")
        route = f"route add default via {NETWORK}.1"  # Ray finds its own address by it
        for command in (f"address add {host.address}/24 dev eth0", "link set eth0 up", "link set lo up", route):
            _ip("-n", host.name, *command.split())
        self._start_on(host)
        self.hosts.append(host)
        if wait:
            self.wait()
        return host

    def add(self, number: int, cpus: int = 1) -> None:
        """New hosts, all of which have joined when this returns."""
        for _ in range(number):
            self.join(cpus, wait=False)
        self.wait()

    def _start_on(self, host: Host) -> None:
        inside = ["nsenter", f"--net=/run/netns/{host.name}"]
        if host.without is not None:
            inside += ["unshare", "--mount", "sh", "-c", 'umount -l "$0" && exec "$@"', str(host.without)]
        node = [f"--address={self.address}", f"--node-ip-address={host.address}", f"--num-cpus={host.cpus}"]
        sockets = self._folder / "ray" / "session_latest" / "sockets"
        before = len(list(sockets.glob("raylet*")))
        host.ray = self._start(inside, "eth0", *node)
        while len(list(sockets.glob("raylet*"))) == before and host.ray.poll() is None:
            time.sleep(0.1)  # two at once would choose the same names

    def cut(self, host: Host) -> None:
        _ip("link", "set", host.link, "down")

    def heal(self, host: Host) -> None:
        _ip("link", "set", host.link, "up")

    def kill(self, host: Host) -> None:
        """All of its processes at once, as when a machine loses its power."""
        _remove(host.name)
        self.hosts.remove(host)

    def close(self) -> None:
        """All hosts and the head, at once."""
        for host in self.hosts[:]:
            self.kill(host)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._head.pid, signal.SIGKILL)
        self._head.wait()
        _clean()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def alive(self) -> int:
        """Nodes, looked at by a process of its own: this one need not load Ray."""
        environment = {**os.environ, "RAY_ADDRESS": self.address}
        line = [sys.executable, "-c", COUNT]
        try:
            done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=200)
        except subprocess.TimeoutExpired:
            return 0
        return int(done.stdout.split()[0]) if done.returncode == 0 else 0  # Ray may say more

    def wait(self) -> None:
        """Until all hosts and the head have joined."""
        deadline = time.monotonic() + PATIENCE
        while self.alive() <= len(self.hosts):
            assert time.monotonic() < deadline
            if self._head.poll() is not None:  # Ray gives itself 30 s to start
                self._head = self._start([], BRIDGE, *self._start_head)
            for host in self.hosts:
                if host.ray is not None and host.ray.poll() is not None:
                    self._start_on(host)
            time.sleep(0.5)

    def _start(self, inside: list[str], interface: str, *arguments: str) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).parent / "ray")
        line = [*inside, ray, "start", "--block", f"--object-store-memory={MEMORY}", *arguments]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface}  # else it takes the loopback
        with (self._folder / "start.log").open("ab") as log:
            return subprocess.Popen(line, start_new_session=True, cwd=ROOT, env=environment, stdout=log, stderr=log)


def own_address() -> str:
    """That by which this machine would leave for others, as Ray finds it; that of the bridge where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 53))  # sends nothing
        except OSError:
            return f"{NETWORK}.1"
        return str(probe.getsockname()[0])


def _clean() -> None:
    """Removes hosts and the bridge."""
    for namespace in Path("/run/netns").glob(f"{PREFIX}*"):
        _remove(namespace.name)
    for link in (*Path("/sys/class/net").glob(f"{LINK}[0-9]*"), Path(BRIDGE)):
        subprocess.run(["ip", "link", "delete", link.name], capture_output=True, check=False)


def _processes(namespace: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _remove(namespace: str) -> None:
    """With all that runs in it; the file of one that another mount namespace has made may stay."""
    for pid in _processes(namespace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
