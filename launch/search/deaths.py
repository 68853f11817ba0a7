"""How often a run may die before it counts as one that cannot be trained."""

from __future__ import annotations

from collections.abc import Callable

MAX_DEATHS = 2  # times that a run whose process dies is started again from one and the same checkpoint


class Deaths:
    """How often runs have died, each since its last checkpoint was written."""

    def __init__(self, checkpoint: Callable[[str], object]) -> None:
        """`checkpoint`: tells the last checkpoint of a run, by its name, from those before; None: there is none."""
        self._checkpoint = checkpoint
        self._found: dict[str, tuple[object, int]] = {}  # name → its checkpoint then, deaths since

    def count(self, run: str) -> int:
        """Counts a death; returns the number of them."""
        then, deaths = self._found.get(run, (None, 0))
        now = self._checkpoint(run)
        self._found[run] = now, deaths + 1 if now == then else 1
        return self._found[run][1]

    def forget(self, run: str) -> None:
        """The run has got on."""
        self._found.pop(run, None)
