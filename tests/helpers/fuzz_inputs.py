"""What `tests.fuzz` feeds to each reader: valid files, the ways in which they are changed, and made-up ones."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import random
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.data.formats import Source
from speaq.explore.tables import Order, in_order
from speaq.space import checks
from speaq.structures import Vocabulary
from speaq.study import creation, snapshot
from tests.helpers import data_sets, format_sets
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

Change = Callable[[bytes, random.Random], bytes]
NUMBERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**32, 2**53, 2**63 - 1, -(2**63), 2**64, 10**30)
ODD: tuple[Any, ...] = (*NUMBERS, 0.5, -0.0, 1e-320, 1e308, None, True, False, "", "x", "\x00", "\x1b[2J", "é", "../x")
ODD += ("/etc/passwd", "a" * 3000, [], {}, [[]], [0] * 50, {"a": 1}, {"": {}}, float("nan"), float("inf"), "1e5", "on")
ODD += ("0" * 5000, "\ud800", [1, "a", None], "<script>", "${HOME}", "__class__")
WORDS = ("&a ", "*a ", "<<: ", "!!python/object/apply:os.system ['true'] ", "!!binary ", "!!timestamp x", "!!int ")
WORDS += ("!!float x", "!!bool 7", "!!set {a}", "!!omap ", "? ", "- ", ": ", "{", "}", "[", "]", "|\n", "%YAML 9.9\n")
WORDS += ("---\n", "...\n", "\t", "\ufeff", "\x85", "2001-01-01", "0x1F", "1_0", ".inf", ".nan", "~", "9" * 5000, "'")
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(ODD)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=10), inner, max_size=5)),
    max_leaves=20,
)


@dataclass
class Target:
    """A reader, the file that it reads, and inputs for it."""

    path: Path
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    changes: Sequence[Change]
    made_up: Any = field(default_factory=st.none)  # a strategy of plain values
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode("utf-8", "surrogatepass")

    def valid(self) -> bytes:
        return self.seeds[0]

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)

    def changed(self, generator: random.Random) -> bytes:
        content = generator.choice(self.seeds)
        changes = generator.choices(self.changes, k=generator.choice((1, 1, 1, 2, 3)))
        for change in sorted(changes, key=lambda change: change is change_bytes):  # last: others parse, and may crash
            with contextlib.suppress(Exception):  # what cannot be changed so any more stays as it is
                content = change(content, generator)
        return content


@dataclass(frozen=True)
class Kind:
    """A target that is not there yet."""

    file: str
    build: Callable[[Path], Target]

    def __call__(self, folder: Path) -> Target:
        return self.build(folder)

    def current(self, folder: Path) -> bytes:
        path = folder / self.file
        return path.read_bytes() if path.exists() else b""


TARGETS: dict[str, Kind] = {}


def target(name: str, file: str) -> Callable[[Callable[[Path], Target]], Callable[[Path], Target]]:
    def register(build: Callable[[Path], Target]) -> Callable[[Path], Target]:
        TARGETS[name] = Kind(file, build)
        return build

    return register


# How files are changed.


def change_bytes(content: bytes, generator: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        place = generator.randrange(len(data) + 1) if data else 0
        length = min(generator.choice((1, 2, 4, 8, 64, 1000)), len(data) - place)
        match generator.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << generator.randrange(8)
            case 1:
                data[place : place + length] = generator.randbytes(length)
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                del data[place:]
            case 5:
                number = generator.choice(NUMBERS) % 2**64
                data[place : place + 8] = number.to_bytes(8, generator.choice(("little", "big")))
            case _:
                data[place : place + 1] = bytes([generator.choice((0, 1, 0x7F, 0x80, 0xFF))])
    return bytes(data)


def change_words(content: bytes, generator: random.Random) -> bytes:
    """Of a text: words replaced, put in, taken out; lines moved."""
    text = content.decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)
    if lines and generator.random() < 0.3:
        one, other = generator.randrange(len(lines)), generator.randrange(len(lines))
        lines[one], lines[other] = lines[other], generator.choice((lines[one], "", lines[one] * 2))
        return "".join(lines).encode()
    place = generator.randrange(len(text) + 1)
    word = generator.choice((*WORDS, *(str(odd) for odd in ODD)))
    return (text[:place] + word + text[place + generator.choice((0, 1, 5)) :]).encode("utf-8", "surrogatepass")


def _changed_entry(
    node: dict[Any, Any],
    generator: random.Random,
    more: Sequence[Any],
    odd: Sequence[Any],
    change: Callable[[Any], Any],
) -> dict[Any, Any]:
    """A mapping with one entry removed, added (under a name of `more`, or its own) or changed."""
    key = generator.choice(list(node))
    match generator.randrange(8):
        case 0:
            return {k: v for k, v in node.items() if k != key}
        case 1:
            return {**node, generator.choice((*more, key)): generator.choice(odd)}
        case _:
            return {**node, key: change(node[key])}


def change_tree(value: Any, generator: random.Random) -> Any:
    """A plain value with one node, at any depth, replaced, removed or doubled."""
    if isinstance(value, dict) and value and generator.random() < 0.85:
        return _changed_entry(value, generator, ("x", "", "../x"), ODD, lambda node: change_tree(node, generator))
    if isinstance(value, list) and value and generator.random() < 0.85:
        place = generator.randrange(len(value))
        match generator.randrange(8):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case _:
                return [*value[:place], change_tree(value[place], generator), *value[place + 1 :]]
    return generator.choice(ODD)


def change_json(content: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.02:
        return b"[" * 200_000
    return json.dumps(change_tree(json.loads(content), generator)).encode()


def change_json_lines(content: bytes, generator: random.Random) -> bytes:
    lines = content.splitlines()
    place = generator.randrange(len(lines))
    match generator.randrange(5):
        case 0:
            lines.insert(place, lines[generator.randrange(len(lines))])
        case 1:
            del lines[place]
        case _:
            lines[place] = change_json(lines[place], generator)
    return b"\n".join(lines) + b"\n"


def change_h5(content: bytes, generator: random.Random) -> bytes:
    """One dataset or attribute replaced by what no writer of ours makes."""
    with tempfile.TemporaryDirectory(prefix="speaq-fuzz-") as place:  # h5py's files in memory can break the interpreter
        path = Path(place) / "changed.h5"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            _change_h5(file, generator)
        return path.read_bytes()


def _change_h5(file: h5py.File, generator: random.Random) -> None:
    if file.attrs and generator.random() < 0.2:
        name = generator.choice(list(file.attrs))
        odd: Any = generator.choice(
            (0, 1.5, "x", np.zeros((2, 2)), np.bytes_(b"\xff\x00"), "[" * 100_000, h5py.Empty("f"))
        )
        del file.attrs[name]
        file.attrs[name] = odd
        return
    name = generator.choice(list(file))
    old = file[name]
    kind, shape = old.dtype, old.shape
    array = np.array(old[()]) if shape and old.nbytes < 2**24 else np.zeros(3)
    del file[name]
    match generator.randrange(14):
        case 0:
            file[name] = h5py.SoftLink("/" + generator.choice((name, "nowhere", *file)))
        case 1:
            file[name] = h5py.ExternalLink("../outside/secret.h5", name)
        case 2:
            layout = h5py.VirtualLayout(shape, kind)
            layout[:] = h5py.VirtualSource("../outside/secret.h5", name, shape)
            file.create_virtual_dataset(name, layout)
        case 3:
            outside = [("../outside/secret.bin", 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(name, shape, kind, external=outside)
        case 4:
            chunks = (1024, *shape[1:])
            file.create_dataset(name, (10**10, *shape[1:]), kind, chunks=chunks, compression="gzip")
        case 5:
            file.create_group(name)
        case 6:
            file[name] = generator.choice((np.zeros(0), np.float64(1), "text", np.zeros((2, 2, 2)), np.array([True])))
        case 7:
            file[name] = array.astype(generator.choice(("f2", "f8", "i1", "u8", "c8", "S4", "i8", ">i4")))
        case 8:
            file.create_dataset(name, (3,), np.dtype([("a", "i4"), ("b", "f4")]))
        case 9:
            file.create_dataset(name, (3,), h5py.vlen_dtype("i4"))
        case 10:
            file[name] = array[: len(array) // 2] if array.ndim else array
        case 11:
            file[name] = h5py.Empty("i4")
        case _:
            if array.size and array.dtype.kind in "iuf":
                flat = array.reshape(-1)
                with np.errstate(all="ignore"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    odd = generator.choice((*NUMBERS[:-2], np.nan, np.inf) if kind.kind == "f" else NUMBERS[:-2])
                    flat[generator.randrange(flat.size)] = np.array([odd]).astype(kind)[0]
            file[name] = array


class _Run:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def odd_tensors() -> list[Any]:
    indices = torch.tensor([[0, 10**9]])
    return [
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(0),
        torch.full((3,), torch.nan),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.complex64),
        torch.sparse_coo_tensor(indices, torch.ones(2), (10**9 + 1,), check_invariants=False),
        torch.zeros(3, device="meta"),
        np.zeros(3),
        _Run(),
        {"a": torch.zeros(1)},
    ]


def change_tensors(content: bytes, generator: random.Random) -> bytes:
    """A node of what `torch.load` gives replaced by another value or tensor."""
    value = torch.load(io.BytesIO(content), weights_only=True)
    odd = [*odd_tensors(), *ODD]

    def change(node: Any) -> Any:
        if isinstance(node, dict) and node and generator.random() < 0.9:
            return _changed_entry(node, generator, ("x", 7, "model"), odd, change)
        if isinstance(node, torch.Tensor) and node.numel() and generator.random() < 0.5:
            return generator.choice(
                (node[:1], node.double(), node.t() if node.ndim == 2 else node[None], node * torch.nan)
            )
        return generator.choice(odd)

    buffer = io.BytesIO()
    torch.save(change(value), buffer, _use_new_zipfile_serialization=generator.random() < 0.9)
    return buffer.getvalue()


def change_archive(content: bytes, generator: random.Random) -> bytes:
    """A member of a zip archive changed, with check sums that fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        chosen = generator.choice([*names, *[name for name in names if name.endswith("data.pkl")] * len(names)])
        kind = generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(buffer, "w", kind) as made:
            for name in names:
                data = archive.read(name)
                if name == chosen:
                    data = change_bytes(data, generator) if generator.random() < 0.9 else b"\0" * 10**7
                made.writestr(name, data)
    return buffer.getvalue()


# The readers.


@target("yaml-config", "config.yaml")
def yaml_config(folder: Path) -> Target:
    def read(folder: Path) -> None:
        config = configs.load(folder / "config.yaml")
        assert configs.from_dict(configs.to_dict(config)) == config

    seeds = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))]
    seeds.append(configs.dump(Config()).encode())
    return Target(folder / "config.yaml", seeds, read, (change_bytes, change_words, change_words, _change_yaml), values)


@target("yaml-space", "space.yaml")
def yaml_space(folder: Path) -> Target:
    def read(folder: Path) -> None:
        checks.check(spaces.load(folder / "space.yaml").resolved(tiny()), tiny())

    parameters = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    parameters["matching.num_groups"] = {"type": "int", "low": 1, "high": 4}
    small = configs.dump_yaml({"search": {"trials": 5}, "parameters": parameters}).encode()
    seeds = [small, small, *(path.read_bytes() for path in sorted((ROOT / "search_spaces").glob("*.yaml")))]
    return Target(folder / "space.yaml", seeds, read, (change_bytes, change_words, change_words, _change_yaml), values)


def _change_yaml(content: bytes, generator: random.Random) -> bytes:
    value = configs.parse_yaml(content.decode(), "seed")
    return yaml.safe_dump(change_tree(value, generator), allow_unicode=True).encode("utf-8", "surrogatepass")


def _data(folder: Path, file: str, changes: Sequence[Change], made_up: Any = None, **files: Any) -> Target:
    from speaq.data.files import read_attributes
    from speaq.data.statistics import stats_report
    from speaq.data.visual_genome import check, open_data

    data_sets.write(folder, zero_shot=np.array([[1, 2, 1]]), **files)

    def read(folder: Path) -> None:
        data = open_data(folder, log=lambda line: None)
        read_attributes(data.files.annotations)
        stats_report(data)
        check(folder)

    path = folder / file
    if not path.exists():
        torch.save(torch.tensor([[1, 2, 1]]), path)
        (folder / "zeroshot_triplets.npy").unlink()
    return Target(path, [path.read_bytes()], read, changes, made_up if made_up is not None else st.none())


@target("json-images", "image_data.json")
def json_images(folder: Path) -> Target:
    return _data(folder, "image_data.json", (change_bytes, change_json, change_json), values)


@target("json-dicts", "VG-SGG-dicts-with-attri.json")
def json_dicts(folder: Path) -> Target:
    return _data(folder, "VG-SGG-dicts-with-attri.json", (change_bytes, change_json, change_json), values)


@target("h5", "VG-SGG-with-attri.h5")
def h5(folder: Path) -> Target:
    attributes = np.zeros((11, 10), np.int64)
    made = _data(folder, "VG-SGG-with-attri.h5", (change_bytes, change_h5, change_h5), attributes=attributes)
    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        for name, value in data_sets.arrays().items():
            file.create_dataset(name, data=value, compression="gzip", shuffle=True, fletcher32=True)
    return dataclasses.replace(made, seeds=[*made.seeds, packed.getvalue()])


@target("zero-shot-npy", "zeroshot_triplets.npy")
def zero_shot_npy(folder: Path) -> Target:
    return _data(folder, "zeroshot_triplets.npy", (change_bytes, change_words))


@target("zero-shot-torch", "zeroshot_triplet.pytorch")
def zero_shot_torch(folder: Path) -> Target:
    return _data(folder, "zeroshot_triplet.pytorch", (change_bytes, change_archive, change_tensors))


@target("photo", "photo")
def photo(folder: Path) -> Target:
    from speaq.data.images import read_image, read_size

    def read(folder: Path) -> None:
        read_size(folder / "photo")
        read_image(folder / "photo")

    seeds = []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "PCX", "ICO"):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        seeds.append(buffer.getvalue())
    return Target(folder / "photo", seeds, read, (change_bytes,))


@target("checkpoint", "best.pt")
def checkpoint_(folder: Path) -> Target:
    from speaq.prediction.predictor import Predictor
    from speaq.training import checkpoint
    from speaq.training.tasks import initialise, make_model

    config, vocabulary = tiny(), Vocabulary(data_sets.OBJECTS, data_sets.PREDICATES)

    def read(folder: Path) -> None:
        Predictor.load(folder / "best.pt")
        initialise(make_model("speaq", config, 3, 2), folder / "best.pt", "speaq", vocabulary)

    content = {"task": "speaq", "step": 3, "config": configs.to_dict(config), "data_digest": "0" * 64}
    content |= {"objects": list(vocabulary.objects), "predicates": list(vocabulary.predicates)}
    checkpoint.save(folder / "best.pt", content | {"model": make_model("speaq", config, 3, 2).state_dict()})
    seeds = [(folder / "best.pt").read_bytes()]
    return Target(folder / "best.pt", seeds, read, (change_bytes, change_archive, change_tensors, change_tensors))


@target("convert", "reference.pth")
def convert_(folder: Path) -> Target:
    import shutil

    from speaq.model.speaq import SpeaQ
    from speaq.runs.convert import convert
    from tests.helpers.reference_files import to_reference

    shape = {"backbone": "resnet18", "hidden_dim": 8, "num_heads": 8, "feedforward_dim": 8, "num_queries": 2}
    model = configs.ModelConfig(**shape, num_encoder_layers=1, num_decoder_layers=2)  # type: ignore[arg-type]
    with torch.device("meta"):
        state = to_reference(SpeaQ(model, 3, 2).state_dict())
    whole = {name: torch.zeros(value.shape) for name, value in state.items() if "backbone" not in name}

    def read(folder: Path) -> None:
        shutil.rmtree(folder / "run", ignore_errors=True)
        convert(folder / "reference.pth", folder / "run")

    buffer = io.BytesIO()  # every parameter in full would be 45 MiB: most of the backbone is missing
    stem = {name: torch.zeros(value.shape) for name, value in state.items() if ".stem." in name or ".res2." in name}
    torch.save({"model": {**whole, **stem}}, buffer)
    seeds = [buffer.getvalue()]
    return Target(folder / "reference.pth", seeds, read, (change_bytes, change_archive, change_tensors, change_tensors))


@target("weights-pkl", "resnet.pkl")
def weights_pkl(folder: Path) -> Target:
    from torch import nn

    from speaq.model.backbone_weights import load_backbone

    module = nn.Module()
    module.conv1 = nn.Conv2d(3, 4, 3, bias=False)
    array = module.conv1.weight.detach().numpy()

    def read(folder: Path) -> None:
        load_backbone(folder / "resnet.pkl", module)

    def change_pickle(content: bytes, generator: random.Random) -> bytes:
        name, number = (
            generator.choice(("conv1.weight", "x")),
            generator.choice((array[:1], _Run(), array.astype("f8"), *ODD)),
        )
        return pickle.dumps({"model": {name: number}}, protocol=generator.randrange(5))

    seeds = [pickle.dumps({"model": {"conv1.weight": array}}, protocol=number) for number in (2, 4, 5)]
    return Target(folder / "resnet.pkl", seeds, read, (change_bytes, change_bytes, change_pickle))


@target("predictions", "predictions.h5")
def predictions(folder: Path) -> Target:
    from speaq.config import EvaluationConfig
    from speaq.data.visual_genome import open_data
    from speaq.evaluation.predictions import PredictionWriter, Source
    from speaq.evaluation.protocols import evaluate_file
    from speaq.structures import ScenePrediction

    vg = open_data(data_sets.write(folder / "data"))
    config = configs.DataConfig(num_val=1)
    split = vg.split("test", config)
    with PredictionWriter(folder / "predictions.h5", Source(vg.vocabulary, "test", vg.digest, config, {})) as writer:
        for graph in (split.scene_graph(index) for index in range(len(split))):
            scores = np.full((1, 3), 1 / 3, np.float32)
            ones = np.ones(1, np.float32)
            parts = (graph.relations[:1, :2], graph.relations[:1, 2], ones, scores, np.zeros(1, np.int64))
            confidence = np.ones(len(graph.classes), np.float32)
            writer.add(
                graph.image_id, graph.size_hw, ScenePrediction(graph.boxes_xyxy, graph.classes, confidence, *parts)
            )

    def read(folder: Path) -> None:
        evaluate_file(folder / "predictions.h5", vg, "test", "sgdet", EvaluationConfig(), lambda done, all_, text: None)

    seeds = [(folder / "predictions.h5").read_bytes()]
    return Target(folder / "predictions.h5", seeds, read, (change_bytes, change_h5, change_h5))


@target("raw-outputs", "raw.h5")
def raw_outputs(folder: Path) -> Target:
    from speaq.inference import QueryOutputs
    from speaq.runs.stored import RawOutputs, writer

    scores, classes = torch.ones(3, 8), torch.ones(3, 8, dtype=torch.int64)
    some = QueryOutputs(scores, classes, torch.rand(3, 8, 4), torch.rand(3, 4, 5))
    with writer(folder / "raw.h5", {"split": "val"}) as append:
        append(np.arange(3), np.full((3, 2), 50), some)

    def read(folder: Path) -> None:
        raw = RawOutputs(folder / "raw.h5")
        try:
            for _ in raw.batches():
                pass
        finally:
            raw.close()

    return Target(folder / "raw.h5", [(folder / "raw.h5").read_bytes()], read, (change_bytes, change_h5, change_h5))


FOREIGN: dict[str, tuple[Source, str]] = {  # target → format, and which of its files is changed
    "coco": ("coco", "instances_train.json"),
    "reltr": ("reltr", "train.json"),
    "reltr-relations": ("reltr", "rel.json"),
    "psg": ("psg", "psg.json"),
    "gqa": ("gqa", "train_sceneGraphs.json"),
    "open-images": ("open-images", "oidv6-train-annotations-vrd.csv"),
    "open-images-names": ("open-images", "class-descriptions-boxable.csv"),
    "vg-objects": ("visual-genome", "objects.json"),
    "vg-relationships": ("visual-genome", "relationships.json"),
    "vg-aliases": ("visual-genome", "relationship_alias.txt"),
}


def change_csv(content: bytes, generator: random.Random) -> bytes:
    """A cell of a table, or its line of column names, replaced, removed or doubled."""
    lines = [line.split(",") for line in content.decode().splitlines()]
    line = generator.choice(lines[: generator.choice((1, len(lines)))])
    place = generator.randrange(len(line))
    match generator.randrange(5):
        case 0:
            del line[place]
        case 1:
            line.insert(place, line[place])
        case 2:
            line[place] = '"' + line[place]
        case _:
            line[place] = str(generator.choice((*ODD, *WORDS)))
    return "\n".join(map(",".join, lines)).encode("utf-8", "surrogatepass")


def _foreign(folder: Path, source: Source, file: str) -> Target:
    """Annotations of a format in `folder`, made a data set; what is refused names them."""
    from speaq.data import DataError
    from speaq.data.coco.convert import convert as make
    from speaq.data.visual_genome import check

    given, photos = format_sets.WRITERS[source](folder), folder / "photos"
    photos.mkdir(exist_ok=True)
    for name in format_sets.SPLITS:
        Image.new("RGB", (format_sets.WIDTH, format_sets.HEIGHT), "olive").save(photos / f"{name}.jpg")

    def read(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="speaq-fuzz-") as made:
            try:
                make(given, photos, Path(made) / "data", source=source)
            except DataError as error:
                if str(folder) not in str(error):
                    raise RuntimeError(f"the refusal names no file: {error}") from error
                raise
            check(Path(made) / "data")

    changes: Sequence[Change] = (change_bytes, change_json, change_json, change_json)
    if not file.endswith(".json"):
        changes = (change_bytes, change_words, change_csv, change_csv)
    return Target(folder / file, [(folder / file).read_bytes()], read, changes, values)


def _register_foreign(name: str, source: Source, file: str) -> None:
    target(f"from-{name}", file)(lambda folder: _foreign(folder, source, file))


for _name, _of in FOREIGN.items():
    _register_foreign(_name, *_of)


def _study(folder: Path, file: str, changes: Sequence[Change], made_up: Any = None) -> Target:
    from launch.report.tables import confirmed
    from speaq.cli import trials
    from speaq.explore.study import open_study
    from speaq.study import export
    from speaq.study.ledger import Ledger, digest

    space = spaces.from_dict({"parameters": {"matching.num_groups": {"type": "int", "low": 1, "high": 4}}})
    made = creation.create(
        tiny(),
        space,
        data_sets.write(folder / "data"),
        trials=4,
        objective="R@50",
        train="tests.helpers.cheap_training:train",
    )
    (folder / "study.yaml").write_text(made.dump())
    ledger = Ledger(folder / "ledger.jsonl")
    metrics = dict.fromkeys(("R@50", "mR@50", "F@50", "head@50", "body@50", "tail@50"), 0.5)
    for trial, label in (("0000", "published"), ("0001", "baseline"), ("0002", None)):
        asked = {"digest": digest(made.plan.base), "label": label, "values": None, "overrides": {}, "seed": 0}
        ledger.append("asked", trial, protocol="sgdet published", **asked)
        ledger.append("running", trial, attempt=1)
        ledger.append("reported", trial, step=3, metrics=metrics, seconds=1.0)
    end = {"metrics": metrics, "best_step": 3, "step": 6, "seconds": 2.0, "cost": {"peak_memory_mib": 1.0}}
    ledger.append("finished", "0000", reason=None, **end)
    ledger.append("failed", "0001", reason="why")
    ledger.close()
    last = folder / "trials" / "0002"
    last.mkdir(parents=True)
    (last / "metrics.jsonl").write_text(
        '{"step": 2, "train/loss": 1.0, "train/seconds": 1.0}\n{"step": 4, "val/R@50": 0.5, "val/seconds": 2.0}\n'
    )
    (folder / "test_looks.jsonl").write_text('{"time": "now", "event": "unsealed", "reason": "because"}\n')

    def read(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            found = snapshot.read(folder)
            trials.print_status(found, str(folder))
            trials.print_status(found, str(folder), as_json=True)
        (folder / "trials.csv").unlink(missing_ok=True)
        export.write(found, folder / "trials.csv", {})
        confirmed(found)
        study = open_study(folder)
        rows = study.trials(study.read(), "val")
        for column in study.columns(rows):
            in_order(rows, Order(column, True))
        Ledger(folder / "ledger.jsonl").close()

    path = folder / file
    return Target(path, [path.read_bytes()], read, changes, made_up if made_up is not None else st.none())


@target("ledger", "ledger.jsonl")
def ledger_(folder: Path) -> Target:
    return _study(folder, "ledger.jsonl", (change_bytes, change_json_lines, change_json_lines))


@target("study-yaml", "study.yaml")
def study_yaml(folder: Path) -> Target:
    return _study(folder, "study.yaml", (change_bytes, change_words, _change_yaml, _change_yaml), values)


@target("metrics-lines", "trials/0002/metrics.jsonl")
def metrics_lines(folder: Path) -> Target:
    return _study(folder, "trials/0002/metrics.jsonl", (change_bytes, change_json_lines))


@target("test-looks", "test_looks.jsonl")
def test_looks(folder: Path) -> Target:
    return _study(folder, "test_looks.jsonl", (change_bytes, change_json_lines))


@target("report", "ledger.jsonl")
def report_(folder: Path) -> Target:
    """The page of a study, with all that others wrote into its ledger."""
    from launch.report import page

    def read(folder: Path) -> None:
        page.write_report(snapshot.read(folder), folder / "page.html")

    return dataclasses.replace(ledger_(folder), read=read)


def _run_folder(folder: Path, file: str) -> Target:
    from speaq.cli import after

    metrics = {"R@20": 0.5, "mR@20": None}
    best = {"metric": "R@20", "value": 0.5, "step": 6, "metrics": metrics}
    result = {"status": "finished", "step": 6, "protocol": "sgdet published", "metrics": metrics, "best": best}
    result |= {"seconds": 1.0, "cost": {"steps": 6}, "versions": {"torch": "2"}, "hardware": {"device": "cpu"}}
    row = {"predicate": "on", "images": 3, "R@20": 0.5, "R@50": None}
    evaluation = {"step": 6, "split": "val", "protocol": "sgdet published", "report": {"predicates": [row]}}
    data = {"directory": str(folder), "digest": "0" * 64, "task": "speaq"}
    run = folder / "trials" / "0000"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(configs.dump(tiny()))
    for name, content in (("result", result), ("evaluation", evaluation), ("data", data)):
        (run / f"{name}.json").write_text(json.dumps(content))

    def read(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            after.diff(run, run)
            after.diff(run, run, as_json=True)

    path = run / file
    return Target(path, [path.read_bytes()], read, (change_bytes, change_json, change_json), values)


@target("result-json", "trials/0000/result.json")
def result_json(folder: Path) -> Target:
    return _run_folder(folder, "result.json")


@target("evaluation-json", "trials/0000/evaluation.json")
def evaluation_json(folder: Path) -> Target:
    return _run_folder(folder, "evaluation.json")


@target("data-json", "trials/0000/data.json")
def data_json(folder: Path) -> Target:
    return _run_folder(folder, "data.json")


@target("onnx-metadata", "metadata.json")
def onnx_metadata(folder: Path) -> Target:
    """The JSON that an exported network carries; the network itself is whole."""
    import onnx
    from onnx import TensorProto, helper

    from speaq.prediction.exported import INPUTS, KEY, OUTPUTS, SCHEMA
    from speaq.prediction.predictor import Predictor

    given = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in INPUTS]
    classes = {"subject_logits": len(data_sets.OBJECTS) + 1, "predicate_logits": len(data_sets.PREDICATES) + 1}
    made = [helper.make_tensor_value_info(name, TensorProto.INT64, [classes.get(name, 4)]) for name in OUTPUTS]
    nodes = [helper.make_node("Identity", [INPUTS[0]], [name]) for name in OUTPUTS]
    graph = helper.make_graph(nodes, "network", given, made)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)

    def read(folder: Path) -> None:
        text = (folder / "metadata.json").read_text("utf-8", "replace")
        del model.metadata_props[:]
        helper.set_model_props(model, {KEY: text})
        onnx.save(model, folder / "network.onnx")
        Predictor.load(folder / "network.onnx")

    names = {"objects": list(data_sets.OBJECTS), "predicates": list(data_sets.PREDICATES)}
    content = {"schema": SCHEMA, "config": configs.to_dict(tiny()), "step": 6, **names}
    seeds = [json.dumps(content).encode()]
    return Target(folder / "metadata.json", seeds, read, (change_bytes, change_json, change_json), values)
