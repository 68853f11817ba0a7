"""The nodes of the cluster, each asked by an actor of its own; a node that hangs does not keep the others waiting."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from speaq.study.errors import last_line

from .probe import Probe

THREADS = 16  # of an actor: a question that hangs leaves the others free
LOOK = 0.5  # seconds between looks whether the answers are still wanted


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive."""

    id: str
    name: str  # as people know it: host and address, unique
    address: str
    resources: Mapping[str, float]
    ports: Mapping[str, int]  # what for → number


@dataclass(frozen=True)
class Problem:
    """Instead of an answer: why there is none."""

    text: str


def alive() -> list[Node]:
    """Nodes of the cluster, this process's first."""
    here = ray.get_runtime_context().get_node_id()
    found = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    found.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"], node["NodeID"]))
    names = [_name(node) for node in found]
    counts = Counter(names)
    return [
        Node(
            node["NodeID"],
            name if counts[name] == 1 else f"{name} {node['NodeID'][:6]}",
            node["NodeManagerAddress"],
            node["Resources"],
            {"node manager": node["NodeManagerPort"], "object manager": node["ObjectManagerPort"]},
        )
        for name, node in zip(names, found, strict=True)
    ]


def _name(node: Mapping[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return str(address) if host in ("", address) else f"{host} ({address})"


class Probes:
    """One `Probe` on each node."""

    def __init__(self, nodes: list[Node], ended: threading.Event | None = None) -> None:
        """`ended`: set where the answers are no longer wanted; nothing waits from then on."""
        actor: Any = ray.remote(Probe)
        self.nodes = nodes
        self._ended = threading.Event() if ended is None else ended
        self._actors = {
            node.id: actor.options(
                num_cpus=0,  # a busy cluster can be asked, too
                max_concurrency=THREADS,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            ).remote()
            for node in nodes
        }

    def ask(
        self,
        question: str,
        limit: float,
        arguments: Callable[[Node], tuple[Any, ...]] = lambda node: (),
        *,
        ends: str | None = None,
    ) -> dict[str, Any]:
        """What all nodes answer to a method of `Probe`, by node id; a `Problem` where there is no answer.

        Args:
            limit: seconds for all of them together.
            arguments: of the question to a node.
            ends: method that tells all nodes that the first answer that is not empty makes the others pointless.
        """
        calls = {node.id: getattr(self._actors[node.id], question).remote(*arguments(node)) for node in self.nodes}
        waiting, deadline = list(calls.values()), time.monotonic() + limit
        while waiting and (left := deadline - time.monotonic()) > 0 and not self._ended.is_set():
            number = len(waiting) if ends is None else 1
            ready, waiting = ray.wait(waiting, num_returns=number, timeout=min(left, LOOK), fetch_local=False)
            if ends is not None and any(_answer(call, limit) for call in ready):
                for actor in self._actors.values():
                    getattr(actor, ends).remote()
                ends = None
        return {node: _answer(call, limit) for node, call in calls.items()}

    def ask_one(self, node: Node, question: str, limit: float, *arguments: Any) -> Any:
        """What one node answers, or a `Problem`."""
        call = getattr(self._actors[node.id], question).remote(*arguments)
        ray.wait([call], timeout=limit, fetch_local=False)
        return _answer(call, limit)

    def close(self) -> None:
        """Ends them; those of a connection that is gone have ended with it."""
        for actor in self._actors.values():
            with contextlib.suppress(RayError):
                ray.kill(actor)


@contextlib.contextmanager
def probes(nodes: list[Node], ended: threading.Event | None = None) -> Iterator[Probes]:
    """Probes for the time of the block; `ended` as `Probes` has it."""
    opened = Probes(nodes, ended)
    try:
        yield opened
    finally:
        opened.close()


def _answer(call: Any, limit: float) -> Any:
    try:
        return ray.get(call, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return Problem(f"no answer in {limit:g} s")
    except RayTaskError as error:
        return Problem(_one_line(error.cause or error))
    except RayError as error:
        return Problem(_one_line(error))


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return last_line(error)[:300]
