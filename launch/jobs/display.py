"""What shows a search while it runs: the job says where it stands, whoever started it prints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from speaq.study.plan import Listener
from speaq.study.snapshot import Snapshot

# Gets what tells how the study is now; for the time of the block, its listener hears of every event of a trial.
Display = Callable[[Callable[[], Snapshot]], AbstractContextManager[Listener]]


def silent(now: Callable[[], Snapshot]) -> AbstractContextManager[Listener]:
    """Shows nothing."""
    return nullcontext(lambda entry, event: None)
