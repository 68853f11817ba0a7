"""`speaq cache`: what backbone and encoder of a start make of every picture, computed once (`speaq.data.features`).

A folder that holds unfinished features of the same kind is gone on with: whole files are not made again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from speaq.config import Config, ConfigError, apply, from_dict
from speaq.config.before_encoder import made_with
from speaq.data import photo_digest
from speaq.data.dataset import SceneGraphDataset
from speaq.data.features import BYTES, FILE, OF_SCALE, PICTURES, Header, Picture, Precision, read_header, write_pictures
from speaq.data.features import unfinished as unfinished_files
from speaq.data.records import Split, VisualGenome
from speaq.data.stored import VIEW
from speaq.data.transforms import augment, resize_shape
from speaq.data.visual_genome import open_data
from speaq.files import atomic
from speaq.files.locks import NAME
from speaq.model.speaq import Network
from speaq.training import checkpoint, origins
from speaq.training.callbacks import Progress
from speaq.training.device import pick_device
from speaq.training.folder import own_folder
from speaq.training.stored_features import frozen_digest
from speaq.training.tasks import make_task

Part = tuple[str, int]  # split, number of the file
Tell = Callable[[int], None]  # pictures that are done
Work = Callable[["Maker", Sequence[Part], Tell], None]  # writes these files


@dataclass(frozen=True)
class Caching:
    """What is asked for."""

    config: Config  # with its start
    data: Path
    output: Path
    views: int = 1
    precision: Precision = "float32"


@dataclass(frozen=True)
class Size:
    """How large features are, about: pictures are as large as without a crop."""

    pictures: int  # views counted
    bytes: int
    left: int  # bytes that have not been written yet


def asked(
    start: Path, config: Config, data: Path, output: Path, *, views: int = 1, precision: Precision = "float32"
) -> Caching:
    """What to make of a start, to train with `config` later. Raises ConfigError."""
    if not 1 <= views <= 1000:
        raise ConfigError(f"--views {views}: between 1 and 1000")
    changes = {
        "training.init_from": str(start.resolve()),
        "training.backbone_from": None,
        "training.features": None,
        "model.frozen": ["backbone", "encoder"],
    }
    config = apply(config, changes, "speaq cache")
    if views > 1 and _is_fixed(config):
        raise ConfigError(f"--views {views}: nothing is augmented (no flip, no crop, one size): all would be the same")
    return Caching(config, data.resolve(), output.resolve(), views, precision)


def config_of(start: Path) -> Config:
    """The config that a run or checkpoint was trained with. Raises ConfigError, CheckpointError."""
    file = checkpoint.find(start)
    return from_dict(checkpoint.load(file)["config"], str(file))


def _is_fixed(config: Config) -> bool:
    """Whether a picture looks the same each time that it is drawn."""
    data = config.data
    sides = set(data.train_sides)
    return data.flip_probability in (0, 1) and data.crop_probability == 0 and len(sides) == 1


def make_here(maker: Maker, parts: Sequence[Part], tell: Tell) -> None:
    """Writes files in this process, one after the other."""
    for part in parts:
        maker.make(part, tell)


def cache(
    wanted: Caching,
    progress: Callable[[str], AbstractContextManager[Progress]],
    work: Work = make_here,
    *,
    said: Callable[[Size], None] = lambda size: None,
) -> Header:
    """Makes what is missing of the features.

    Args:
        work: writes files, by default here one after the other.
        said: hears the size before anything is written.

    Raises:
        ConfigError: the folder holds others, or the disk is too small.
        DataError: the data, or a photo, cannot be used.
    """
    maker = Maker(wanted)
    header = maker.header
    with own_folder(wanted.output), contextlib.ExitStack() as stack:
        if (wanted.output / FILE).exists():
            _check_same(read_header(wanted.output), header, wanted.output)
        elif any(path.name != NAME and atomic.MARK not in path.name for path in wanted.output.iterdir()):
            raise ConfigError(f"{wanted.output}: is not empty, and holds no features; give another --output")
        parts = list(unfinished_files(wanted.output, header))
        size = maker.size(parts)
        said(size)
        _check_room(wanted.output, size)
        tell = stack.enter_context(progress("features"))
        header.write(wanted.output)
        total = sum(header.entries.values())
        done = total - sum(maker.pictures_of(part) for part in parts)
        tell(done, total, "")

        def more(number: int) -> None:
            nonlocal done
            done += number
            tell(done, total, "")

        work(maker, parts, more)
        atomic.tidy(wanted.output)
        whole = replace(header, complete=True)
        whole.write(wanted.output)
    return whole


class Maker:
    """Data, network and device, ready to make features."""

    def __init__(self, wanted: Caching, header: Header | None = None) -> None:
        """`header`: that of another one of the same, which has looked at all photos. Raises ConfigError, DataError."""
        config = wanted.config
        self.wanted, self._device = wanted, pick_device(config)
        if config.training.num_threads is not None:
            torch.set_num_threads(config.training.num_threads)
        vg = open_data(wanted.data)
        self._splits = {name: vg.split(name, config.data) for name in ("train", "val")}
        model = make_task("speaq", config, vg, self._splits["train"]).model
        assert isinstance(model, Network)
        self._model = model.eval().to(self._device).to(memory_format=torch.channels_last)
        self.header = header or self._header(vg)
        self._datasets = {
            name: SceneGraphDataset(split, config.data, train=name == "train") for name, split in self._splits.items()
        }

    def _header(self, vg: VisualGenome) -> Header:
        wanted = self.wanted
        start = origins.start(wanted.config)
        return Header(
            weights=frozen_digest(self._model),
            start="" if start is None else str(start[1]),
            data=vg.digest,
            seen=photo_digest.look(vg),
            keys=made_with(wanted.config),
            seed=wanted.config.seed,
            views=wanted.views,
            precision=wanted.precision,
            stride=self._model.backbone.stride,
            channels=wanted.config.model.hidden_dim,
            entries={"train": len(self._splits["train"]) * wanted.views, "val": len(self._splits["val"])},
        )

    def pictures_of(self, part: Part) -> int:
        """Pictures of a file, views counted."""
        return len(self._range(part))

    def _range(self, part: Part) -> range:
        split, number = part
        return range(number * PICTURES, min((number + 1) * PICTURES, self.header.entries[split]))

    def make(self, part: Part, tell: Tell) -> None:
        """Writes one file. Raises DataError where a photo cannot be read, OSError."""
        pictures = []
        for entry in self._range(part):
            pictures.append(self._picture(part[0], entry))
            tell(1)
        write_pictures(self._path(part), pictures, self.wanted.precision)

    def is_written(self, part: Part) -> bool:
        """Whether a file is there: it is written in one step."""
        return self._path(part).exists()

    def _path(self, part: Part) -> Path:
        return self.wanted.output / self.header.files(part[0])[part[1]]

    def _picture(self, name: str, entry: int) -> Picture:
        row, view = divmod(entry, self.header.views if name == "train" else 1)
        split, config = self._splits[name], self.wanted.config
        picture = self._datasets[name].picture(row)
        if name == "train":
            rng = np.random.default_rng((self.header.seed, VIEW, row, view))
            picture = augment(picture, config.data, rng)
        image = torch.from_numpy(picture.image).permute(2, 0, 1).to(self._device)
        half = config.training.precision
        dtype = torch.bfloat16 if half == "bfloat16" else torch.float16
        with torch.inference_mode(), torch.autocast(self._device.type, dtype, enabled=half != "float32"):
            cells = self._model.cells(image).float()
        return Picture(split.image_id(row), split.size_hw(row), picture.size_hw, picture.boxes_xyxy, cells.cpu())

    def size(self, parts: Iterable[Part]) -> Size:
        """How large all features are, and those of `parts`."""
        wanted = self.wanted
        of_cell = wanted.config.model.hidden_dim * BYTES[wanted.precision]
        of_cell += OF_SCALE if wanted.precision == "int8" else 0
        sides = {"train": wanted.config.data.train_sides, "val": (wanted.config.data.eval_side,)}
        longest = {"train": wanted.config.data.train_max_side, "val": wanted.config.data.eval_max_side}
        cells = {name: self._mean_cells(split, sides[name], longest[name]) for name, split in self._splits.items()}
        entries = self.header.entries
        left = sum(cells[part[0]] * self.pictures_of(part) for part in parts)
        return Size(
            pictures=sum(entries.values()),
            bytes=int(sum(cells[name] * number for name, number in entries.items()) * of_cell),
            left=int(left * of_cell),
        )

    def _mean_cells(self, split: Split, sides: tuple[int, ...], longest: int) -> float:
        """Cells of a picture of a split, over its pictures and the sides that they may get."""
        stride = self.header.stride
        shapes, counts = np.unique(split.listed_hw, axis=0, return_counts=True)
        cells = [
            [-(-h // stride) * -(-w // stride) for h, w in (resize_shape(shape, side, longest) for side in sides)]
            for shape in map(tuple, shapes.tolist())
        ]
        return float(np.average(np.mean(cells, axis=1), weights=counts)) if len(cells) else 0.0


def _check_same(there: Header, wanted: Header, folder: Path) -> None:
    """Raises ConfigError where a folder holds features of another kind; says in what."""
    names = {"weights": "weights", "data": "data", "seed": "seed", "views": "--views", "precision": "--precision"}
    for name, word in names.items():
        if (then := getattr(there, name)) != (now := getattr(wanted, name)):
            then, now = (value[:12] if name in ("weights", "data") else value for value in (then, now))
            raise ConfigError(f"{folder}: holds features with {word} {then}, {now} asked for; give another --output")
    for key, value in wanted.keys.items():
        if there.keys.get(key) != value:
            then = there.keys.get(key)
            raise ConfigError(
                f"{folder}: holds features with {key} {then!r}, {value!r} asked for; give another --output"
            )
    if there.entries != wanted.entries or there.seen.get("photos") != wanted.seen.get("photos"):
        raise ConfigError(f"{folder}: holds features of other pictures; give another --output")


def _check_room(output: Path, size: Size) -> None:
    """Raises ConfigError where the disk cannot hold what is left."""
    free = shutil.disk_usage(output).free
    if size.left > free:
        raise ConfigError(
            f"{output}: features take about {size.left / 2**30:.2f} GiB more, {free / 2**30:.2f} GiB are free; "
            "give another --output, --precision bfloat16 or int8, or fewer --views"
        )
