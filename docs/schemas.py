"""Writes the JSON schemas that the first lines of configs and search spaces name: .venv/bin/python docs/schemas.py"""

from __future__ import annotations

import json
from pathlib import Path

from speaq.config.schema import config_schema
from speaq.space.schema import space_schema

FOLDER = Path(__file__).parent / "schemas"


def schemas() -> dict[Path, str]:
    """The text of every file."""
    made = {"config.json": config_schema(), "space.json": space_schema()}
    return {FOLDER / name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in made.items()}


if __name__ == "__main__":
    for path, text in schemas().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
