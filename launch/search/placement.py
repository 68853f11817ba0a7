"""What a trial holds, and where: the driver's part of `resources.trials_per_gpu`, and the nodes that get trials."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from speaq.config import ResourcesConfig
from speaq.study.ledger import Entry

PEAK, DEVICE = "peak_memory_mib", "device_memory_mib"  # of a trial's cost
KEPT_FREE = 0.05  # share of a device's memory
BEYOND_PEAK = 1.2  # what PyTorch reserves, times what was in use at most
CONTEXT = 800.0  # MiB that a process takes of a device before it computes anything


class Anywhere:
    """Where trials go is not the search's to say."""

    @property
    def is_kept_free(self) -> bool:
        """Whether no other trial may be placed now."""
        return False

    def place(self, trial: str) -> dict[str, Any]:
        """What Tune has to know to place a trial, as a part of what it runs with."""
        return {}

    def began(self, trial: str) -> dict[str, Any]:
        """What the ledger's row says of a trial that has begun."""
        return {}

    def ended(self, trial: str) -> None:
        """The trial has ended, or has to be placed again."""

    def give_own_gpu(self, trial: str) -> None:
        """From now on the trial shares no GPU."""


class Placement(Anywhere):
    """How many trials share a GPU, by what is known of their memory, and which trials get one of their own."""

    def __init__(
        self,
        resources: ResourcesConfig,
        entries: Mapping[str, Entry],
        nodes: Callable[[], Collection[str]],
        bundle: Callable[[ResourcesConfig], dict[str, float]],
    ) -> None:
        """
        Args:
            entries: trials of the ledger, by their ids.
            nodes: ids of the nodes that may get trials now.
            bundle: what a trial with such resources holds, as Ray names it.
        """
        self._resources, self._entries, self._nodes, self._bundle = resources, entries, nodes, bundle
        self._alone: set[str] = set()
        self._shares: dict[str, float] = {}  # of those placed
        self._waits: str | None = None  # for a GPU of its own

    def resources(self, trial: str | None = None) -> ResourcesConfig:
        """What the worker of a trial takes, or that of the next one: a share of a GPU where several fit."""
        number = 1 if trial in self._alone else trials_per_gpu(self._resources, self._entries.values())
        if number == 1:
            return self._resources
        return self._resources.model_copy(update={"gpus_per_worker": share(number)})

    @property
    def is_kept_free(self) -> bool:
        """Whether a trial waits for a whole GPU, which others with a share would take again and again."""
        return self._waits is not None

    def place(self, trial: str) -> dict[str, Any]:
        """What a trial holds, and the nodes that it may be on."""
        resources, whole = self.resources(trial), self._resources.gpus_per_worker
        self._shares[trial] = resources.gpus_per_worker / whole if whole else 1.0
        self._waits = trial if trial in self._alone else self._waits
        return {"bundle": self._bundle(resources), "nodes": sorted(self._nodes())}

    def began(self, trial: str) -> dict[str, Any]:
        """What the trial holds of each of its GPUs, where that is a share."""
        self.ended(trial)
        share = self._shares[trial]
        return {} if share == 1.0 else {"gpu_share": share}

    def ended(self, trial: str) -> None:
        """The trial waits for no GPU any more."""
        self._waits = None if self._waits == trial else self._waits

    def give_own_gpu(self, trial: str) -> None:
        """From now on the trial shares no GPU."""
        self._alone.add(trial)


def share(number: int) -> float:
    """What each of so many trials takes of a GPU. Ray counts in ten-thousandths."""
    return int(10_000 / number) / 10_000


def trials_per_gpu(resources: ResourcesConfig, entries: Collection[Entry]) -> int:
    """How many trials share a GPU now.

    With `auto` that is one until a trial has told its peak memory; then as many as have room on the smallest device
    seen if each takes as much as the largest trial seen.
    """
    if resources.trials_per_gpu != "auto":
        return resources.trials_per_gpu
    peaks = [peak for entry in entries if (peak := entry.cost.get(PEAK)) and entry.cost.get(DEVICE)]
    if not peaks:
        return 1
    device = min(entry.cost[DEVICE] or 0.0 for entry in entries if entry.cost.get(DEVICE))
    return max(1, int(device * (1 - KEPT_FREE) / (max(peaks) * BEYOND_PEAK + CONTEXT)))
