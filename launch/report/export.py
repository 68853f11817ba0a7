"""A study as an Optuna storage of its own (SQLite), for `speaq export`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL

from speaq.study.file import Address
from speaq.study.snapshot import Snapshot

from ..search.optuna_study import rebuild
from ..search.storage import connect


def write_database(path: Path, snapshot: Snapshot) -> None:
    """Writes the trials of a study into the new SQLite file `path`, which `optuna-dashboard` opens."""
    url = URL.create("sqlite", database=str(path.resolve())).render_as_string()
    name = snapshot.folder.resolve().name
    rebuild(snapshot.entries, snapshot.plan, connect(Address(url, name)), name)
