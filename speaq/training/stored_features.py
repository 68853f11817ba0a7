"""Training from stored features: whether they are those that the run's own frozen parts would make, and reading them.

How they are made: `speaq.runs.cache`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from speaq.config import Config, ConfigError
from speaq.config.before_encoder import OtherFeatures, made_with
from speaq.data import photo_digest
from speaq.data.features import FILE, Header, StoredSplit, read_header
from speaq.data.records import Split, VisualGenome
from speaq.data.visual_genome import open_data
from speaq.model.speaq import Network
from speaq.training.step import Run
from speaq.training.tasks import make_task


def frozen_digest(model: Network) -> str:
    """SHA-256 of names, shapes and values of backbone and encoder."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        if name.startswith(("backbone.", "transformer.encoder.")):
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def with_features(run: Run) -> tuple[Split, Split]:
    """The splits of a run, train and val, with the features that `training.features` names.

    They are kept on its device where they fit. The run's weights are those that it begins from, or goes on from.

    Raises:
        OtherFeatures: they were made of other weights, data, photos or transforms, or are not finished.
        ConfigError: they lack images of the splits.
        BadFeatures: they are damaged.
    """
    assert run.config.training.features is not None
    assert isinstance(run.task.model, Network)
    folder = Path(run.config.training.features)
    header = read_header(folder)
    check(folder, header, run.config, run.vg, frozen_digest(run.task.model))
    found = []
    for name, split in (("train", run.train_split), ("val", run.val_split)):
        stored = StoredSplit(folder, header, name)
        missing = [image for image in split.image_ids.tolist() if image not in stored]
        if missing:
            raise ConfigError(
                f"training.features: {folder} lacks {len(missing)} of the {len(split)} {name} images (first: "
                f"{missing[0]}): it was made with other splits; run speaq cache with this config"
            )
        stored.to(run.device)
        found.append(replace(split, features=stored))
    return found[0], found[1]


def check_folder(config: Config, data: Path) -> None:
    """Looks at the features of a config as a run would that begins now. Raises OtherFeatures, BadFeatures."""
    assert config.training.features is not None
    folder, vg = Path(config.training.features), open_data(data, log=lambda line: None)
    header = read_header(folder)
    model = make_task("speaq", config, vg, vg.split("train", config.data)).model
    assert isinstance(model, Network)
    check(folder, header, config, vg, frozen_digest(model))


def check(folder: Path, header: Header, config: Config, vg: VisualGenome, weights: str) -> None:
    """Raises OtherFeatures, which says what differs, where features are not those that a run would make itself."""
    where = f"training.features: {folder}"
    if not header.complete:
        raise OtherFeatures(f"{where} is not finished; the same speaq cache goes on")
    if header.weights != weights:
        raise OtherFeatures(
            f"{where} was made with other weights (backbone and encoder of {header.start}, digest "
            f"{header.weights[:12]}; this run's have {weights[:12]}); start from those, or run speaq cache again"
        )
    if header.data != vg.digest:
        now = f"{vg.directory} has {vg.digest[:12]}"
        raise OtherFeatures(f"{where} was made of other data (digest {header.data[:12]}, {now})")
    if changes := photo_digest.look_again(vg, {"photos": header.seen.get("photos")})[1]:
        raise OtherFeatures(f"{where}: {vg.directory} has changed since ({'; '.join(changes)})")
    for key, value in made_with(config).items():
        if header.keys.get(key) != value:
            raise OtherFeatures(
                f"{key}: {value!r}, but {folder / FILE} was made with {header.keys.get(key)!r}: it acts before the "
                "encoder, whose outputs are stored; leave it as it was, or run speaq cache again"
            )
