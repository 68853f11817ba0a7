"""What a user gives as a place: a path, or a URL."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote


def place(text: str) -> Path | str:
    """The path of a folder, given as such or as a file:// URL, or any other URL."""
    found = re.match(r"([A-Za-z][\w+.-]+):/+", text)
    if found is None:
        return Path(text)
    rest = text[found.end() :]  # a Path has lost one of two slashes
    return Path("/" + unquote(rest)) if found[1] == "file" else f"{found[1]}://{rest}"
