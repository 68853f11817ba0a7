"""Ray itself: connect to the cluster of RAY_ADDRESS, or start one on this machine that leaves nothing behind."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.state import available_resources_per_node

from speaq.config import ConfigError, ResourcesConfig
from speaq.files.home import make_up_home
from speaq.files.shipped import CODE

from . import head
from .limits import bounded

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between looks at the nodes
FIND = 8.0  # seconds in which the head of RAY_ADDRESS must answer
CONNECT = 90.0  # seconds for Ray to connect to a head that answers
START = 300.0  # seconds to start one here: Ray's processes take turns on a busy machine
SLOW = "timed out during startup"  # how Ray says that it gave up
MAX_SOCKET = 107  # bytes of a socket's path
SOCKET = "/speaq-12345678/r/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # Ray's longest
OBJECT_STORE = 100 * 2**20  # bytes; only configs and metrics travel through it


_LOCAL = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon Ray Train sees a report
}


class ClusterError(ConfigError):
    """A cluster that cannot run what is asked of it."""


@contextlib.contextmanager
def connected(*, dashboard: bool = False) -> Iterator[None]:
    """Ray for the time of the block: as it is, the cluster of RAY_ADDRESS, or a new one on this machine.

    Args:
        dashboard: start it with a new cluster. Ray Train's clean-up of lost runs asks it.

    Raises ClusterError in one line, soon, where there is no such cluster.
    """
    if ray.is_initialized():
        yield
        return
    make_up_home()
    asked = os.environ.get("RAY_ADDRESS", "")
    with contextlib.ExitStack() as stack:
        if asked not in ("", "local"):
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "5")  # the head answers: a refusal is one
            _init(address=_found(asked))
        else:
            # Closed to others: in Ray's own folder, which is open to all, they could put sockets in the place of ours.
            closed = tempfile.TemporaryDirectory(prefix="speaq-", dir=_short_place(), ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(closed)) / "r"
            _use_own_token()
            for name, value in _LOCAL.items():
                os.environ.setdefault(name, value)
            with _on_loopback():
                _init(
                    address="local",
                    include_dashboard=dashboard,
                    dashboard_host="127.0.0.1",
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                    object_store_memory=OBJECT_STORE,
                )
        stack.callback(ray.shutdown)
        stack.enter_context(head.watched(ray.get_runtime_context().gcs_address))
        yield


def _found(asked: str) -> str:
    """host:port of the head that RAY_ADDRESS names.

    Raises ClusterError unless it answers soon and this machine is one of its nodes.
    """
    where = f"RAY_ADDRESS {asked}"
    scheme, mark, _ = asked.partition("://")
    if mark:
        raise ClusterError(f"{where}: {scheme}:// names no head; give its HOST:PORT, as ray start printed it")
    if ":" in asked and not _is_head(asked):
        raise ClusterError(f"{where}: is no HOST:PORT; give that of the head, as ray start printed it")
    try:
        address = services.canonicalize_bootstrap_address(asked)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    if address is None or not head.found(address, FIND):
        raise ClusterError(
            f"{where}: no head of Ray answered at {address} within {FIND:g} s; start that cluster, or unset "
            "RAY_ADDRESS to use this machine alone"
        )
    if not services.find_node_ids():  # type: ignore[no-untyped-call]
        raise ClusterError(
            f"{where}: the head answers, but no node of Ray runs on this machine; ray start --address={address} starts "
            "one, or run the command on a node of the cluster"
        )
    return address


def _is_head(asked: str) -> bool:
    """Whether a text has the form of host:port, or [IPv6 address]:port."""
    found = re.fullmatch(r"(?:\[[^\s\[\]]+\]|[^\s:\[\]]+):([0-9]{1,5})", asked)
    return found is not None and 0 < int(found[1]) < 2**16


def _init(**options: Any) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    local = options["address"] == "local"
    limit, what = (START, "did not start here") if local else (CONNECT, f"{options['address']}: could not be joined")
    try:
        # Ray's workers import from the directory that it is started in.
        with bounded(limit, f"Ray: {what} within {limit:g} s"), contextlib.chdir(CODE), _own_signals():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = "its token is another one (RAY_AUTH_MODE, RAY_AUTH_TOKEN)" if _is_of_token(error) else str(error)
        raise ClusterError(f"Ray: {options['address']}: {' '.join(told.split())[:300]}") from error
    except Exception as error:
        if SLOW not in str(error):  # Ray has no type of its own for it
            raise
        raise ClusterError(
            f"Ray: {what}: its processes were too slow (a busy machine, a full {tempfile.gettempdir()}); look at both, "
            "then give the same command again"
        ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps our handlers: Ray's of SIGTERM exits with code 15. What Ray starts ignores a closed terminal; we end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminate, hang_up = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGHUP, hang_up)


def _is_of_token(error: BaseException | None) -> bool:
    """Whether a cluster has refused our token: Ray names that in a cause of its error alone."""
    return error is not None and ("InvalidAuthToken" in str(error) or _is_of_token(error.__cause__))


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets a cluster that starts here listen on the loopback alone.

    Ray replaces 127.0.0.1 by an address that others reach, and then some of its processes listen on all of them.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # as on macOS, where no cluster of several machines is meant to be
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _short_place() -> str:
    """Where temporary files go, or another place where that has too long a name. Raises ClusterError without any."""
    given = tempfile.gettempdir()  # TMPDIR, where it can be written
    places = [given, *(place for place in ("/tmp", "/var/tmp", "/dev/shm") if os.access(place, os.W_OK | os.X_OK))]
    most = MAX_SOCKET - len(SOCKET)
    found = next((place for place in places if len(os.fsencode(place)) <= most), None)
    if found is None:
        raise ClusterError(f"TMPDIR: {given} is too long for Ray's sockets; set it to a folder of at most {most} bytes")
    if found != given:
        log.info("Ray's files lie in %s: the name of %s (TMPDIR) is too long for its sockets", found, given)
    return found


def _use_own_token() -> None:
    """Gives Ray a token that only this process and its children know, unless the user has chosen otherwise.

    A new local cluster asks for one by default, and would write it to the home directory for good. Ray caches the
    token, so it stays the same for all clusters that this process starts.
    """
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    folder = Path(tempfile.mkdtemp(prefix="speaq-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    """What one worker takes, as Ray names it."""
    needs = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return {name: amount for name, amount in needs.items() if amount > 0}


def wanted(resources: ResourcesConfig) -> str:
    """The same in words."""
    return " and ".join(f"{amount:g} {name}" for name, amount in worker_resources(resources).items())


def places(resources: ResourcesConfig, *, free: bool = False, among: Collection[str] | None = None) -> int:
    """Workers of this kind that the cluster can run at once.

    Args:
        free: beside those that it runs now.
        among: ids of the nodes that count; all without it.
    """
    needs = worker_resources(resources)
    found = available_resources_per_node() if free else nodes_alive()  # type: ignore[no-untyped-call]
    nodes = [has for node, has in found.items() if among is None or node in among]
    return sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needs.items()) for node in nodes)


def runs(resources: ResourcesConfig, among: Collection[str] | None = None) -> int:
    """Runs of this kind that the cluster can hold at once; one that is elastic may be smaller where it is alone."""
    found = places(resources, among=among)
    return max(found // resources.num_workers, int(found >= resources.least_workers))


class Places:
    """Runs that the cluster can hold at once, as its nodes come and go; looked up once in a while."""

    def __init__(
        self, resources: Callable[[], ResourcesConfig], among: Callable[[], Collection[str] | None] = lambda: None
    ) -> None:
        """`resources`: of the next run. `among`: which nodes count. Both are asked again each time."""
        self._resources, self._among = resources, among
        self._number, self._until = 0, -math.inf

    def __call__(self) -> int:
        if time.monotonic() >= self._until:
            self._number = runs(self._resources(), self._among())
            self._until = time.monotonic() + LOOK
        return self._number


def nodes_alive() -> dict[str, dict[str, float]]:
    """Resources of the nodes that are alive, by their ids."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def total(name: str) -> float:
    """What all nodes together have of a resource, in use or not."""
    return sum(node.get(name, 0.0) for node in nodes_alive().values())


def check_fits(resources: ResourcesConfig) -> int:
    """Runs that fit at once. Raises ClusterError where not even one does."""
    if fit := runs(resources):
        return fit
    nodes = nodes_alive().values()
    have = ", ".join(" ".join(f"{node.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for node in nodes)
    raise ClusterError(
        f"resources: one run needs {resources.least_workers} workers with {wanted(resources)} each; "
        f"the cluster's nodes have {have}"
    )
