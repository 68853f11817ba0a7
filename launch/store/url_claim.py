"""The claim of one process on what lies at a URL: who has it writes there, and shows by a beat that it lives.

A store that cannot write on a condition has no locks. So a process writes its name there, waits a moment, and looks
whether another one has written since; and it looks again before every upload.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, TypeVar

from speaq.config import ConfigError
from speaq.files.locks import Owner, Taken
from speaq.study.errors import StorageLost

from .remote import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
CLAIM, BEAT = ".claim.json", ".beat"
BEAT_EVERY, SILENT = 15.0, 60.0  # seconds; a process that has shown no beat for so long is taken for dead
SETTLE = 1.0  # seconds in which two that claimed at once see each other


class UrlClaim:
    """What this process has taken at a URL, from `take` to `release`."""

    def __init__(self, store: Store) -> None:
        """Takes nothing yet."""
        self.store = store
        self.token = self.before = ""  # of this process's claim, and of the one that it followed
        self.lost: Exception | None = None  # why it is this process's no more, once the beat has found out
        self._silent = threading.Event()

    def take(self, *, patient: bool) -> None:
        """Takes the URL for this process.

        With `patient`, who had it before gets `SILENT` seconds to show that it lives. Raises ConfigError where it does.
        """
        there = said(self.store.read(CLAIM))
        if there and patient and not there.get("released") and not _is_dead(there):
            self._watch(there)
        self.before, self.token = there.get("token", ""), Owner.new().token
        self._put()
        if patient:
            time.sleep(SETTLE)
            try:
                self.check()
            except Taken as error:
                raise ConfigError(f"{self.store.url}: another process has begun to work on it just now") from error

    def _put(self, **more: bool) -> None:
        who = asdict(replace(Owner.new(), token=self.token))
        apart(self.store.write, CLAIM, json.dumps(who | more).encode())

    def _watch(self, who: Mapping[str, Any]) -> None:
        """Waits `SILENT` seconds for a sign of life of who had the URL last. Raises ConfigError where one comes."""
        url, name = self.store.url, f"process {who.get('process')} on {who.get('host')}"
        log.info("%s: %s had it last; it has %.0f s to show that it lives", url, name, SILENT)
        before, deadline = self.store.read(BEAT), time.monotonic() + SILENT
        while time.monotonic() < deadline:
            time.sleep(1.0)
            if said(self.store.read(CLAIM)).get("released"):
                return
            if self.store.read(BEAT) != before:
                raise ConfigError(f"{url}: {name} works on it")

    def check(self) -> None:
        """Raises Taken where another process has claimed the URL."""
        if said(self.store.read(CLAIM)).get("token") != self.token:
            raise Taken(f"{self.store.url}: another process works on it now")

    def beat(self) -> None:
        """Shows from now on that this process lives. Where another one has taken the URL, `lost` says so."""

        def run() -> None:
            number = 0
            while not self._silent.wait(BEAT_EVERY if number else 0.0):
                number += 1
                try:
                    self.check()
                    self.store.write(BEAT, f"{self.token} {number}".encode())
                except Taken as error:
                    self.lost = error
                    return
                except StorageLost as error:  # uploads will say so
                    log.warning("%s", error)

        threading.Thread(target=run, name="beat", daemon=True).start()

    def fall_silent(self) -> None:
        """Ends the beat: whoever wants the URL next takes this process for dead after a while."""
        self._silent.set()

    def release(self) -> None:
        """Gives the URL back. Raises Taken where another process has it."""
        self.fall_silent()
        self.check()
        self.store.remove(BEAT)
        self._put(released=True)


def said(claim: bytes | None) -> dict[str, Any]:
    """What a claim says; nothing where there is none, or something else in its place."""
    if claim is None:
        return {}
    try:
        content = json.loads(claim)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def is_at_work(store: Store) -> bool:
    """Whether a process that lives has claimed what lies at the store's URL."""
    claim, beat = said(store.read(CLAIM)), store.stamp(BEAT)[0]
    lives = beat is not None and time.time() - beat[1] / 1e9 < SILENT
    return lives and bool(claim) and not claim.get("released")


def _is_dead(who: Mapping[str, Any]) -> bool:
    """Whether who claimed was a process of this machine that is no more, or this process itself, earlier."""
    owner, own = Owner.of(who), Owner.new()
    if owner is None:
        return False
    itself = replace(owner, token=own.token, since=own.since) == own
    return itself or bool(owner.is_dead())


def apart(call: Callable[..., T], *arguments: Any) -> T:
    """Calls in a thread, where no signal raises: see `Store.write`."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()
