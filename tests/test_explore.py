"""`speaq explore` in a browser: it starts, and its pages load without an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("jinja2")

from speaq.explore.opening import Request, explore
from tests.browser import Visit, served


def test_the_first_page_loads(toy: Path, chromium: Any) -> None:
    with served(explore(Request(toy))) as address, Visit(chromium, address) as visit:
        page = visit.open("/")
        assert page.title().startswith("Images")
        assert page.locator("main li").count() > 0
        assert visit.overflow() == 0
