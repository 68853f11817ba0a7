"""Where things lie: the checkout, and beside it the shared test material, without which tests that need it skip."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EARLIER = ROOT / "tests" / "earlier"  # a detector, a run and a study that older code has written
SHARED = ROOT.parent / "shared"
GOLDEN = ROOT / "tests" / "golden" / "cases"  # most of the reference's numbers; shared/golden has all
# Environment in which Ray's workers wait for no other process of the machine; its own niceness is 15.
AS_IMPORTANT = {"RAY_worker_niceness": "0"}


def needs(*parts: str) -> pytest.MarkDecorator:
    """A marker that skips the test where `shared/<parts>` does not exist."""
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"shared material {'/'.join(parts)} is absent")
