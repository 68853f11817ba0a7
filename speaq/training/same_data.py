"""Whether a run that is resumed goes on with the data that it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speaq.config import ConfigError
from speaq.data import photo_digest
from speaq.data.visual_genome import VisualGenome
from speaq.files import foreign

log = logging.getLogger(__name__)


def check_annotations(output: Path, vg: VisualGenome, previous: Mapping[str, Any], force: bool) -> None:
    """Raises ConfigError where the annotations are others than a checkpoint's; forced, where their names are."""
    if previous["data_digest"] == vg.digest:
        return
    what = f"digest {vg.digest[:12]} now, {previous['data_digest'][:12]} then"
    names = vg.vocabulary
    if (list(previous["objects"]), list(previous["predicates"])) != (list(names.objects), list(names.predicates)):
        raise ConfigError(f"{output}: cannot resume on data of other classes or predicates ({what})")
    if not force:
        raise ConfigError(f"{output}: cannot resume on other data ({what}); --force goes on")
    log.warning("goes on with other data: %s", what)


def look_at_photos(output: Path, vg: VisualGenome, *, resumed: bool, force: bool, main: bool) -> Mapping[str, Any]:
    """What data.json is to note of photos and zero-shot list; empty on other workers than the first of a new run.

    Raises:
        ConfigError: they have changed since the run in `output` noted them, unless forced; or its note is damaged.
    """
    if not resumed:
        return photo_digest.look(vg) if main else {}
    file = output / "data.json"
    try:
        before = foreign.read_json(file) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); take it away to go on without it") from error
    seen, changes = photo_digest.look_again(vg, before if isinstance(before, dict) else {})
    if changes and not force:
        raise ConfigError(f"{output}: {vg.directory} has changed since ({'; '.join(changes)}); --force goes on")
    for change in changes:
        log.warning("goes on with other %s", change)
    return seen
