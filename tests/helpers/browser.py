"""Pages of `speaq explore` in headless Chromium.

with served(context) as address, Visit(chromium, address) as visit:
    visit.page.goto(address)

`chromium` is a fixture (tests/conftest.py). A visit fails at its end where the browser's console or network had an
error that the test did not take out of `visit.errors`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60.0  # seconds: the machine may be busy


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser, started once."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def served(context: Any) -> Iterator[str]:
    """The address of a server in a thread of this process, on a free port of the loopback device."""
    import uvicorn

    from speaq.explore.app import create_app
    from speaq.explore.server import address, bind

    with bind("127.0.0.1", 0) as listening:
        config = uvicorn.Config(create_app(context), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server takes too long"
            time.sleep(0.01)
        try:
            yield address(listening).rstrip("/")
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


class Visit:
    """A browser page; `requests` are the paths asked for since it was emptied, `errors` what went wrong."""

    def __init__(self, chromium: Any, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self._context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self._context.set_default_timeout(PATIENCE * 1000)
        self.address = address
        self.page = self._context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._note(message.type == "error", message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status} {answer.url}"))

    def _note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.errors.append(text)

    def _request(self, url: str) -> None:
        self._note(not url.startswith(self.address), f"request to {url}")
        self.requests.append(url.removeprefix(self.address))

    def open(self, path: str) -> Any:
        """Goes to a path of the server and waits until all is loaded."""
        self.requests.clear()
        self.page.goto(self.address + path, wait_until="networkidle")
        return self.page

    def overflow(self) -> int:
        """Pixels by which the page can be scrolled sideways."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()
        if error is None:
            assert self.errors == []
