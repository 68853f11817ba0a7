"""Which nodes get trials. A node that joins a search later is looked at first: it must see what the others see."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ray import tune
from ray.util.placement_group import PlacementGroup, placement_group

from . import connection
from .nodes import Node, alive

log = logging.getLogger(__name__)

AGAIN = 30.0  # seconds after which a node that was refused is looked at again
PATIENCE = 5.0  # seconds that threads get to see that the search has ended


class Admission:
    """The nodes that may get trials: those given, and those that joined later and in which `problem` finds nothing."""

    def __init__(self, admitted: Collection[str], problem: Callable[[Node, threading.Event], str]) -> None:
        """
        Args:
            admitted: ids of the nodes that take part from the beginning.
            problem: why a node cannot take part, or ""; called in a thread, as it may take minutes, with what is set
                where nobody wants to know any more.
        """
        self._problem = problem
        self._admitted = set(admitted)
        self._looked: dict[str, float] = {}  # nodes that are looked at or were refused → when their turn comes again
        self._refused: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def __call__(self) -> Collection[str]:
        """Ids of the nodes that may get trials now; looks at new ones meanwhile."""
        now = time.monotonic()
        for node in connection.nodes_alive():
            if node not in self._admitted and self._looked.get(node, 0.0) <= now:
                self._looked[node] = float("inf")
                thread = threading.Thread(target=self._look, args=(node,), name=f"look-{node[:6]}", daemon=True)
                self._threads = [*(t for t in self._threads if t.is_alive()), thread]
                thread.start()
        return frozenset(self._admitted)

    def close(self) -> None:
        """Looks at no node any more. While Ray disconnects, a thread that asks it something would crash the process."""
        self._ended.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _look(self, id: str) -> None:
        """Runs in a thread that may outlive the search and its connection to Ray: nothing is raised here."""
        try:
            node = next((node for node in alive() if node.id == id), None)
            if node is None:  # gone already
                self._looked.pop(id, None)
                return
            problem = self._problem(node, self._ended)
        except Exception as error:  # of Ray, where the search has ended meanwhile, or the node has left
            log.debug("node %s: could not be looked at: %s", id, error)
            self._looked[id] = time.monotonic() + AGAIN
            return
        if self._ended.is_set():
            return
        if not problem:
            self._admitted.add(id)
            log.info("node %s: takes part from now on", node.name)
            return
        if id not in self._refused:
            log.warning("node %s: gets no trial (%s); it is looked at again every %.0f s", node.name, problem, AGAIN)
            self._refused.add(id)
        self._looked[id] = time.monotonic() + AGAIN


class OnAdmitted(tune.PlacementGroupFactory):
    """A trial's resources, on nodes that may get trials alone."""

    def __init__(self, bundle: dict[str, float], nodes: Collection[str]) -> None:
        """`nodes`: their ids."""
        super().__init__([bundle])
        self._nodes = nodes

    def to_placement_group(self) -> PlacementGroup:
        """Reserves the resources on one of the nodes."""
        label = {"ray.io/node-id": f"in({','.join(sorted(self._nodes))})"}
        group: PlacementGroup = placement_group(self.bundles, self.strategy, bundle_label_selector=[label])
        return group

    def __deepcopy__(self, memo: dict[int, Any]) -> OnAdmitted:
        return self

    def __reduce__(self) -> tuple[type[tune.PlacementGroupFactory], tuple[Any, ...]]:
        """Tune pickles it into its own state, which nobody reads."""
        return tune.PlacementGroupFactory, (self.bundles,)
