"""The command line inside the test's process, for tests that need not pay for an interpreter each time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from speaq.cli.main import app


def command(*arguments: str | Path) -> Result:
    """What `speaq ARGUMENTS` prints and its exit code."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


def refusal(*arguments: str | Path) -> str:
    """The one line of a usage error."""
    done = command(*arguments)
    assert done.exit_code == 2, (done.output, done.exception)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def speaq(*arguments: str | Path, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "speaq.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
