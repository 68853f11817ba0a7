"""The commands of the README and of the page that walks through all of them."""

from __future__ import annotations

import re
import shlex

from tests.helpers.shared import ROOT

PAGES = ("docs/walk.md", "README.md")  # the walk makes what the README's commands need


def commands() -> list[str]:
    """Each command of these pages once, in their order."""
    return list(dict.fromkeys(line for page in PAGES for line in commands_of(page)))


def commands_of(page: str) -> list[str]:
    """The lines of a page's bash blocks, continued lines joined, comments dropped."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]
