"""What is known so far, on disk as soon as it is known, and as a table."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.gpu.plan import shown

GOOD = ("ok", "skipped")


class Record:
    """`gpu.json` of a folder, written anew, in one step, with everything that happens."""

    def __init__(self, folder: Path, **header: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "gpu.json"
        begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.content: dict[str, Any] = {"schema": "speaq-gpu/1", "begun": begun, **header, "stages": []}
        self.write()

    @property
    def stages(self) -> list[dict[str, Any]]:
        """All stages so far: name, status, seconds, error, rows."""
        stages: list[dict[str, Any]] = self.content["stages"]
        return stages

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return all(stage["status"] in GOOD for stage in self.stages)

    def begin(self, name: str) -> None:
        """A stage begins; it stays `unfinished` until it has ended."""
        self.stages.append({"name": name, "status": "unfinished", "seconds": None, "error": "", "rows": []})
        self.write()

    def row(self, row: dict[str, Any]) -> None:
        """A result of the present stage."""
        self.stages[-1]["rows"].append(row)
        self.write()

    def end(self, status: str, error: str, seconds: float) -> None:
        """The present stage has ended."""
        self.stages[-1] |= {"status": status, "error": error, "seconds": round(seconds, 1)}
        self.write()

    def write(self) -> None:
        """Replaces the file."""
        unfinished = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.content, indent=1, default=str) + "\n", encoding="utf-8")
        unfinished.replace(self.file)

    def table(self) -> str:
        """One line a stage, and one a result."""
        lines = []
        for stage in self.stages:
            seconds = "" if stage["seconds"] is None else f"{stage['seconds']:.0f} s"
            lines.append(f"{stage['name']:20s} {stage['status']:10s} {seconds:>6s}  {stage['error']}".rstrip())
            for row in stage["rows"]:
                values = ", ".join(f"{key} {shown(value)}" for key, value in row.items() if key != "row")
                lines.append(f"    {row['row']}: {values}")
        return "\n".join(lines)
