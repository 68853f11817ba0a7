"""What shows a search while it runs: the job says where it stands, whoever started it prints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from speaq.study.ledger import Entry
from speaq.study.plan import Listener
from speaq.study.snapshot import Snapshot

# Gets what tells how the study is now; for the time of the block, its listener hears of every event of a trial.
Display = Callable[[Callable[[], Snapshot]], AbstractContextManager[Listener]]


@contextlib.contextmanager
def silent(now: Callable[[], Snapshot]) -> Iterator[Listener]:
    """Shows nothing."""

    def ignore(entry: Entry, event: str) -> None:
        pass

    yield ignore
