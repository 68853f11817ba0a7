"""The commands of the README."""

from __future__ import annotations

import re
import shlex

from tests.helpers.shared import ROOT


def commands() -> list[str]:
    """The lines of the README's bash blocks, continued lines joined, comments dropped."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]
