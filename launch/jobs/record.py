"""reproduction.json: what was asked for, what it was made from, what every stage took. Written anew at every change."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import ConfigError, DataConfig
from speaq.data import photo_digest
from speaq.data.records import VisualGenome
from speaq.files import atomic
from speaq.files.atomic import check_links
from speaq.files.foreign import read_json
from speaq.files.regular import sha256


class Record:
    """The file, read where it exists. One request to a file: raises ConfigError where it holds another one."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        asked = json.loads(json.dumps(request))
        if not path.exists():
            self._content: dict[str, Any] = {"request": asked, "stages": {}}
            return
        check_links(path.parent)  # its stages write there
        try:
            self._content = read_json(path)
            before, _ = self._content["request"], self._content["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: is not a record of a reproduction") from error
        for key, value in asked.items():
            if before.get(key) != value:
                raise ConfigError(
                    f"{path}: holds another reproduction ({key}: {before.get(key)!r} then, {value!r} now); "
                    "give another --output"
                )

    def stage(self, name: str) -> dict[str, Any] | None:
        """What a finished stage noted, None for one that has not finished."""
        stage: dict[str, Any] | None = self._content["stages"].get(name)
        return stage

    def finish(self, name: str, content: Mapping[str, Any]) -> None:
        """Notes a finished stage, and the sums over all of them."""
        stages = self._content["stages"]
        stages[name] = dict(content)
        self._content["seconds"] = round(sum(stage.get("seconds", 0) for stage in stages.values()), 3)
        self._content["gpu_hours"] = round(sum(stage.get("gpu_hours", 0) for stage in stages.values()), 3)
        self._write()

    def note(self, key: str, value: Any) -> None:
        """Notes something that belongs to no stage."""
        self._content[key] = value
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.path, json.dumps(self._content, indent=1, allow_nan=False) + "\n")


def describe_data(vg: VisualGenome) -> dict[str, Any]:
    """Digests of the annotation files, number and bytes of the photos, images with relations, classes."""
    everything = DataConfig(num_val=0)
    files = (vg.files.annotations, vg.files.dictionaries, vg.files.image_data, vg.files.zero_shot)
    assert vg.photos is not None, "opened with them"
    entries = [entry for folder in vg.photos.folders for entry in os.scandir(folder)]
    photos = [entry.stat().st_size for entry in entries if entry.name.endswith(".jpg") and entry.is_file()]
    return {
        "directory": str(vg.directory),
        "digest": vg.digest,
        "sha256": {path.name: sha256(path) for path in files if path is not None},
        "photos": {"files": len(photos), "bytes": sum(photos)},
        "seen": photo_digest.look(vg),
        "images": {"train and val": len(vg.split("train", everything)), "test": len(vg.split("test", everything))},
        "object_classes": vg.num_classes,
        "predicates": vg.num_predicates,
    }
