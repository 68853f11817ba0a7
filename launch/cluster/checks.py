"""The checks of `speaq doctor`: each asks all nodes at once and gives a row for every node.

A check waits for a limited time, so that a node that hangs is a row and not the end of the examination.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speaq.config import ConfigError
from speaq.training.environment import versions

from ..store.remote import Store
from . import connection, sharing
from .nodes import Node, Probes, Problem, alive, probes

SKEW = 1.0  # seconds that clocks may differ: the times in a study's ledger come from several nodes
FULL = 0.95  # share of a disk in use above which Ray spills no objects
ROUND_TRIPS = 3


@dataclass(frozen=True)
class Row:
    """The outcome of a check on a node."""

    check: str
    node: str
    state: Literal["ok", "fails", "left out"]
    outcome: str
    fix: str = ""


@dataclass(frozen=True)
class Examination:
    """What `speaq doctor` is to look at: as the user gave it."""

    storage: str | None  # absolute path, or URL
    data: Path | None
    min_free: float  # GiB
    limit: float  # seconds for a check


Judgement = tuple[bool, str, str]  # fit, outcome, what to do otherwise


def doctor(request: Examination, hear: Callable[[Row], None]) -> tuple[list[Row], int]:
    """Runs all checks on the cluster of RAY_ADDRESS, or on a local one. Returns what they found, and how many nodes.

    Args:
        hear: told of each outcome as it comes.

    Raises:
        ConfigError: no such cluster, no such folder, or no URL.
    """
    for name, place in (("--storage", request.storage), ("--data", request.data)):
        if place is None:
            continue
        if "://" in str(place):
            Store(str(place))
        elif not Path(place).is_dir():
            raise ConfigError(f"{name}: {place} is not a folder here")
    rows = []
    with connection.connected():
        nodes = alive()
        with probes(nodes) as asked:
            for row in examine(asked, request):
                rows.append(row)
                hear(row)
    return rows, len(nodes)


def examine(asked: Probes, request: Examination) -> Iterator[Row]:
    """All checks, one after the other. A node that does not even tell the time is asked nothing more."""
    answers = asked.ask("clock", request.limit)
    yield from _rows("answers", asked.nodes, answers, lambda node, answer: (True, "yes", ""))
    asked.nodes = [node for node in asked.nodes if not isinstance(answers[node.id], Problem)]
    if not asked.nodes:
        return
    yield from _rows("versions", asked.nodes, asked.ask("versions", request.limit), _same_versions)
    gpus = asked.ask("gpus", request.limit)
    yield from _rows("GPUs", asked.nodes, gpus, _same_gpus)
    for check in (_storage, _data, _disk, _clock, _ports, _gloo):
        yield from check(asked, request)
    yield from _nccl(asked, request, {node: names for node, names in gpus.items() if not isinstance(names, Problem)})


def _rows(
    check: str, nodes: list[Node], answers: Mapping[str, Any], judge: Callable[[Node, Any], Judgement]
) -> Iterator[Row]:
    for node in nodes:
        answer = answers[node.id]
        if isinstance(answer, Problem):
            yield Row(check, node.name, "fails", answer.text, f"{node.name}: {check} gave no answer: see its logs")
        else:
            fit, outcome, fix = judge(node, answer)
            yield Row(check, node.name, "ok" if fit else "fails", outcome, "" if fit else f"{node.name}: {fix}")


def _same_versions(node: Node, there: Mapping[str, str]) -> Judgement:
    here = versions()
    others = [
        f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
        for name in sorted({*here, *there})
        if there.get(name) != here.get(name)
    ]
    same = " ".join(f"{name} {here[name]}" for name in ("python", "torch", "ray", "source") if name in here)
    fix = "the same source and requirements.lock everywhere: one image, or make setup in the same checkout"
    return not others, "; ".join(others) or same, fix


def _same_gpus(node: Node, names: list[str]) -> Judgement:
    ray, torch = node.resources.get("GPU", 0.0), len(names)
    outcome = ", ".join(f"{len(list(same))} {name}" for name, same in itertools.groupby(sorted(names))) or "none"
    if ray == torch:
        return True, outcome, ""
    more = f"start Ray there with --num-gpus={torch}"
    less = "a torch build for CUDA and a driver that is new enough (nvidia-smi), or a smaller --num-gpus"
    return False, f"torch sees {torch}, Ray {ray:g}", more if torch > ray else less


def _storage(asked: Probes, request: Examination) -> Iterator[Row]:
    if request.storage is None:
        yield Row("storage", "all", "left out", "--storage names the folder to look at")
        return
    found = sharing.storage(asked, request.storage, request.limit)
    fix = f"mount the same writable file system at {request.storage}"
    if "://" in request.storage:
        fix = f"give this node a way to {request.storage}, and credentials to write there"
    judged = _judge_text("every node reads what every node writes", fix)
    yield from _rows("storage", asked.nodes, found, judged)


def _data(asked: Probes, request: Examination) -> Iterator[Row]:
    if request.data is None:
        yield Row("data", "all", "left out", "--data names the folder to look at")
        return
    digests = sharing.digests(asked, request.data, {}, request.limit)
    first = digests[asked.nodes[0].id]
    fix = f"the same data set at {request.data}, on shared storage or copied"
    found = sharing.different(digests, asked.nodes)
    yield from _rows("data", asked.nodes, found, _judge_text(f"{first}", fix))


def _judge_text(fine: str, fix: str) -> Callable[[Node, str], Judgement]:
    return lambda node, problem: (not problem, problem or fine, fix)


def _disk(asked: Probes, request: Examination) -> Iterator[Row]:
    def judge(node: Node, disks: Mapping[str, tuple[int, int]]) -> Judgement:
        small = [name for name, (free, _) in disks.items() if free < request.min_free * 2**30]
        full = [name for name, (free, size) in disks.items() if name not in small and free < (1 - FULL) * size]
        outcome = ", ".join(f"{free / 2**30:.1f} of {size / 2**30:.1f} GiB in {n}" for n, (free, size) in disks.items())
        fix = f"free space in {' and '.join([*small, *full])}: {request.min_free:g} GiB and {1 - FULL:.0%} of the disk"
        return not (small or full), outcome, fix

    found = asked.ask("free", request.limit, lambda node: (request.storage,))
    yield from _rows("free disk", asked.nodes, found, judge)


def _clock(asked: Probes, request: Examination) -> Iterator[Row]:
    skews = {node.id: _skew(asked, node, request.limit) for node in asked.nodes}

    def judge(node: Node, skew: tuple[float, float]) -> Judgement:
        seconds, unsure = skew
        outcome = f"{seconds:+.2f} s, give or take {unsure:.2f} s"
        return abs(seconds) - unsure <= SKEW, outcome, "set the clock by NTP (chrony, systemd-timesyncd)"

    yield from _rows("clock", asked.nodes, skews, judge)


def _skew(asked: Probes, node: Node, limit: float) -> tuple[float, float] | Problem:
    """Seconds by which the node's clock is ahead of this one's, and how exact that is: of the quickest answer."""
    tries = []
    for _ in range(ROUND_TRIPS):
        before = time.time()
        answer = asked.ask_one(node, "clock", limit)
        after = time.time()
        if isinstance(answer, Problem):
            return answer
        tries.append((answer - (before + after) / 2, (after - before) / 2))
    return min(tries, key=lambda found: found[1])


def _ports(asked: Probes, request: Examination) -> Iterator[Row]:
    """Whether every node reaches the others' Ray processes, and a port as training opens it."""
    tokens = {node.id: secrets.token_hex(8) for node in asked.nodes}
    ports = asked.ask("listen", request.limit, lambda node: (node.address, tokens[node.id]))
    peers = {
        node.name: (node.address, {**node.ports, "training": ports[node.id]}, tokens[node.id])
        for node in asked.nodes
        if not isinstance(ports[node.id], Problem)
    }

    def others(node: Node) -> tuple[Mapping[str, Any]]:
        return ({name: peer for name, peer in peers.items() if name != node.name},)

    found = asked.ask("unreachable", request.limit, others)
    answers = {node: ports[node] if isinstance(ports[node], Problem) else found[node] for node in ports}

    def judge(node: Node, unreachable: list[str]) -> Judgement:
        reached = f"reaches {len(peers) - 1} nodes" if len(peers) > 1 else "no other node"
        more = f" and {len(unreachable) - 3} more" if len(unreachable) > 3 else ""
        fix = "let the cluster's nodes reach each other on all ports (firewall, security group, --node-ip-address)"
        return not unreachable, "; ".join(unreachable[:3]) + more or reached, fix

    yield from _rows("ports", asked.nodes, answers, judge)


def _gloo(asked: Probes, request: Examination) -> Iterator[Row]:
    """A sum over one process on each node, over two where there is one node."""
    nodes = asked.nodes
    ranks = {node.id: [rank] for rank, node in enumerate(nodes)} if len(nodes) > 1 else {nodes[0].id: [0, 1]}
    yield from _all_reduce("gloo", "GLOO_SOCKET_IFNAME", asked, ranks, request.limit)


def _nccl(asked: Probes, request: Examination, gpus: Mapping[str, list[str]]) -> Iterator[Row]:
    """A sum over one process on each GPU that torch sees."""
    count = itertools.count()
    ranks = {node.id: [next(count) for _ in gpus[node.id]] for node in asked.nodes if gpus.get(node.id)}
    if not ranks:
        yield Row("nccl", "all", "left out", "no GPU")
        return
    yield from _all_reduce("nccl", "NCCL_SOCKET_IFNAME", asked, ranks, request.limit)


def _all_reduce(
    backend: str, variable: str, asked: Probes, ranks: Mapping[str, list[int]], limit: float
) -> Iterator[Row]:
    nodes = [node for node in asked.nodes if node.id in ranks]
    size = sum(map(len, ranks.values()))
    several = len({node.address for node in nodes}) > 1
    networks = asked.ask("network", limit, lambda node: (node.address,))
    port = asked.ask_one(nodes[0], "free_port", limit, nodes[0].address)
    answers: Mapping[str, Any] = {node.id: port for node in nodes}
    if not isinstance(port, Problem):
        answers = asked.ask(
            "all_reduce",
            limit + 5,  # it ends its processes itself
            lambda node: (backend, ranks.get(node.id, []), size, nodes[0].address, port, limit),
            ends="end_sum",  # at a failure
        )

    def judge(node: Node, failure: str) -> Judgement:
        if not failure:
            return True, f"a sum over {size} processes", ""
        wrong = _wrong_interface(networks[node.id], variable, node, several)
        if not wrong:
            return False, failure, "a sum needs all nodes: repair the others that fail, then what is said here"
        interface = networks[node.id]["interface"] or "the interface of its address"
        return False, f"{wrong}; {failure}", f"export {variable}={interface} before `ray start` on that node"

    yield from _rows(backend, nodes, answers, judge)


def _wrong_interface(network: Mapping[str, str | None] | Problem, variable: str, node: Node, several: bool) -> str:
    """Why the backend took another interface than that of the node's address; "" where nothing says that it did."""
    if isinstance(network, Problem):
        return ""
    chosen, interface = network[variable], network["interface"]
    if chosen:
        names = chosen.lstrip("^=").split(",")
        fits = interface is None or chosen.startswith("^") or any(interface.startswith(name) for name in names)
        return "" if fits else f"{variable} is {chosen}, the node's address is that of {interface}"
    if variable.startswith("GLOO") and several and network["hostname"] != node.address:
        return f"the host name stands for {network['hostname']}, which gloo takes while {variable} is not set"
    return ""
