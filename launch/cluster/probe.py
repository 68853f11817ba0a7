"""What `speaq doctor` asks of a node. Runs there, in an actor; light to import, so that it answers soon."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from speaq.study.errors import StorageLost

from ..store import workspace
from ..store.remote import Store, parent

CONNECT = 5.0  # seconds for another node to take a connection
CACHED = 10.0  # seconds that a network file system may go on showing a folder as it was
AT_ONCE = 32  # connections


class Probe:
    """Answers about the node where it runs."""

    def __init__(self) -> None:
        self._summing: list[subprocess.Popen[str]] = []

    def versions(self) -> dict[str, str]:
        """Versions that results depend on, and the digest of our source."""
        from speaq.training.environment import versions

        return versions()

    def gpus(self) -> list[str]:
        """Names of the GPUs that torch sees."""
        import torch

        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def free(self, storage: str | None) -> dict[str, tuple[int, int]]:
        """(free bytes, all bytes) where Ray writes on this node, and in a folder or, for a URL, where copies lie."""
        import ray

        node = ray._private.worker.global_worker.node
        assert node is not None, "in a process of Ray's"
        session: str = node.get_session_dir_path()
        folders = {"Ray's folder": session}
        if storage is not None and "://" in storage:
            folders[f"${workspace.VARIABLE}"] = str(workspace.existing(workspace.scratch()))
        elif storage is not None:
            folders["storage"] = storage
        usage = {name: shutil.disk_usage(path) for name, path in folders.items()}
        return {name: (disk.free, disk.total) for name, disk in usage.items()}

    # Storage: every node writes a file into a new folder, reads everybody's, and removes what is left.

    def write_token(self, folder: str, name: str, token: str) -> None:
        """Raises OSError, or of a URL StorageLost or StoreError, where the node cannot write."""
        if "://" in folder:
            place, hidden = parent(folder)
            Store(place, patience=0.0).write(f"{hidden}/{name}", token.encode())
            return
        Path(folder).mkdir(exist_ok=True)  # its parent must be there
        (Path(folder) / name).write_text(token, encoding="utf-8")

    def unseen(self, folder: str, tokens: Mapping[str, str]) -> list[str]:
        """Names of the files that are not here, or hold something else than their token."""
        deadline = time.monotonic() + CACHED
        while True:
            missing = [name for name, token in tokens.items() if _content(folder, name) != token]
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(0.2)

    def remove(self, folder: str, names: Sequence[str] = ()) -> None:
        """Removes a folder of tokens; of a URL the objects `names` in it, since a store has no folders."""
        if "://" in folder:
            with contextlib.suppress(StorageLost):  # another node may have been quicker
                place, hidden = parent(folder)
                for name in names:
                    Store(place, patience=0.0).remove(f"{hidden}/{name}")
            return
        shutil.rmtree(folder, ignore_errors=True)  # another node may have been quicker

    def digests(self, data: str | None, files: Mapping[str, str]) -> dict[str, str]:
        """Of the annotations of a data set, with the number of its photos, and of files, by name.

        Raises DataError, OSError for what is not there.
        """
        found = {}
        if data is not None:
            from speaq.data.files import PhotoFolders, find_files

            there = find_files(Path(data))
            folders = PhotoFolders.of(there.directory)
            photos = sum(len(os.listdir(folder)) for folder in folders.folders) if folders.exist else 0
            found["data"] = f"{there.digest()[:16]} with {photos} photos"
        for name, path in files.items():
            with Path(path).open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
        return found

    # Network

    def listen(self, address: str, token: str) -> int:
        """Opens a port on the node's address which sends `token` to whoever connects; returns its number."""
        server = socket.create_server((address, 0), family=_family(address))
        threading.Thread(target=_serve, args=(server, token.encode()), daemon=True).start()
        return int(server.getsockname()[1])

    def unreachable(self, peers: Mapping[str, tuple[str, Mapping[str, int], str]]) -> list[str]:
        """What cannot be reached of `peers`: name → (address, what → port, token of the port `training`)."""
        calls = [
            (f"{name} port {port} ({what})", address, port, token if what == "training" else "")
            for name, (address, ports, token) in peers.items()
            for what, port in ports.items()
        ]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            problems = pool.map(lambda call: _call(*call[1:]), calls)
            return [f"{call[0]}: {problem}" for call, problem in zip(calls, problems, strict=True) if problem]

    def network(self, address: str) -> dict[str, str | None]:
        """What gloo and NCCL choose their interface by, and the interface that has the node's address."""
        try:
            own = socket.gethostbyname(socket.gethostname())
        except OSError:
            own = None
        chosen = {name: os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
        return {"hostname": own, "interface": interface_of(address), **chosen}

    def free_port(self, address: str) -> int:
        """The number of a port that nobody listens on now."""
        with socket.create_server((address, 0), family=_family(address)) as server:
            return int(server.getsockname()[1])

    def all_reduce(self, backend: str, ranks: Sequence[int], size: int, address: str, port: int, limit: float) -> str:
        """Takes part in a sum over `size` processes with one process for each of `ranks`; returns why it failed, or "".

        Args:
            address, port: where rank 0 listens.
            limit: seconds, after which the processes are killed.
        """
        script = str(Path(__file__).with_name("all_reduce.py"))
        deadline = time.monotonic() + limit
        self._summing = []
        for rank in ranks:
            arguments = [backend, rank, size, address, port, max(1.0, limit - 5)]
            line = [sys.executable, "-P", script, *map(str, arguments)]
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._summing.append(process)
        return next(filter(None, [_failure(process, deadline) for process in self._summing]), "")

    def end_sum(self) -> None:
        """Ends this node's part of a sum that has failed on another node, which it would wait for."""
        for process in self._summing:
            process.terminate()


def _failure(process: subprocess.Popen[str], deadline: float) -> str:
    try:
        _, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "no answer in time"
    if process.returncode == 0:
        return ""
    if process.returncode == -signal.SIGTERM:
        return "ended, since another node failed"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)] or lines
    return told[-1][:300] if told else f"exit code {process.returncode}"


def interface_of(address: str) -> str | None:
    """The name of the network interface with this IPv4 address (Linux); None where it is not known."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without such an address
                request = struct.pack("256s", name[:15].encode())
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def _content(folder: str, name: str) -> str | None:
    try:
        if "://" in folder:
            place, hidden = parent(folder)
            content = Store(place, patience=0.0).read(f"{hidden}/{name}")
            return None if content is None else content.decode(errors="replace")
        return (Path(folder) / name).read_text(encoding="utf-8")
    except (OSError, StorageLost):
        return None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _serve(server: socket.socket, token: bytes) -> None:
    while True:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):  # whoever called has gone
            connection.sendall(token)


def _call(address: str, port: int, token: str) -> str:
    """Why nobody answers there; "" where somebody does, with `token`."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT) as connection:
            got = connection.recv(len(token)).decode(errors="replace") if token else ""
            return "" if got == token else "somebody else answers"
    except OSError as error:
        return error.strerror or "no answer in time"
