"""Files from elsewhere: nothing in them is run, followed or inflated, and what is refused is refused in one line."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from speaq import config as configs
from speaq import space as spaces
from speaq.config import ConfigError
from speaq.data import DataError
from speaq.data.coco.form import read_document
from speaq.data.images import FORMATS, read_image
from speaq.data.visual_genome import open_data
from speaq.evaluation.predictions import PredictionFile
from speaq.files import foreign
from speaq.files.foreign import ForeignError
from speaq.model.backbone_weights import load_backbone
from speaq.model.reference_weights import WeightsError
from speaq.structures import Vocabulary
from speaq.study import seal
from speaq.training import checkpoint
from speaq.training.checkpoint import CheckpointError
from tests.helpers import data_sets
from tests.helpers.calls import SOURCES, calls
from tests.helpers.command import refusal
from tests.helpers.fuzz_inputs import odd_tensors
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

H5 = "VG-SGG-with-attri.h5"

IMPORTERS = ("launch/trials/code.py", "speaq/cli/launched.py", "speaq/table.py")
# Call → (files that may make it, what it must say). Every other call of these names is refused.
OPENERS: dict[str, tuple[tuple[str, ...], str]] = {
    "torch.load": (("speaq/files/foreign.py",), "weights_only=True"),
    "np.load": (("speaq/files/foreign.py", "speaq/evaluation/bootstrap.py"), "allow_pickle=False"),
    "Image.open": (("speaq/data/images.py",), "formats=FORMATS"),
    # Names from a file are code.py's alone, which says whose; the others' stand in our source.
    **dict.fromkeys(("importlib.import_module", "import_module"), (IMPORTERS, "")),
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.safe_load"), ((), "")),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler"), ((), "")),
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "os.system", "os.popen", "shelve.open"), ((), "")),
    **dict.fromkeys(("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "marshal.loads"), ((), "")),
}


def test_files_are_opened_in_one_place_and_never_unpickled() -> None:
    wrong, seen = [], set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for function, call in calls(path):
            places, needed = OPENERS.get(function, ((name,), ""))
            seen.add(function)
            if name not in places or needed not in call or "shell=True" in call:
                wrong.append((name, call))
            if function == "h5py.File" and name != "speaq/files/foreign.py" and "'w'" not in call:
                wrong.append((name, call))
    assert wrong == []
    assert {"torch.load", "np.load", "Image.open", "h5py.File"} <= seen


def test_modules_that_read_other_objects_are_not_imported() -> None:
    """`pickle` is there for the reader that admits arrays of numbers alone."""
    imported = {
        (path.relative_to(ROOT).as_posix(), alias.name)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "xml")
    }
    assert imported == {("speaq/model/backbone_weights.py", "pickle")}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(9), "more than 200,000 values once its aliases are written out"),
        ("a: &a [*a]", "more than 200,000 values once its aliases are written out"),
        ("a: &a {b: *a}", "more than 200,000 values once its aliases are written out"),
        ("[" * 100_000, "not valid YAML"),
        ("a: " + "x" * 2**22, "at most 4,194,304 are read"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!bool 7", "not valid YAML"),
        ("a: !!float x", "not valid YAML"),
        ("? [a]\n: b", "is not a plain value"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_more_than_it_seems_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as refused:
        configs.load(tmp_path / "config.yaml")
    assert "\n" not in str(refused.value)


def test_plain_aliases_may_be_used() -> None:
    assert configs.parse_yaml("a: &a [1, 2]\nb: *a", "text") == {"a": [1, 2], "b": [1, 2]}


LINKS: dict[str, Callable[[h5py.File, str, Path], None]] = {
    "soft link": lambda file, name, other: file.__setitem__(name, h5py.SoftLink("/split")),
    "external link": lambda file, name, other: file.__setitem__(name, h5py.ExternalLink(str(other), name)),
    "external storage": lambda file, name, other: file.create_dataset(
        name, (6,), "i4", external=[(str(other), 0, h5py.h5f.UNLIMITED)]
    ),
}


def virtual(file: h5py.File, name: str, other: Path) -> None:
    layout = h5py.VirtualLayout((6,), "i4")
    layout[:] = h5py.VirtualSource(str(other), name, (6,))
    file.create_virtual_dataset(name, layout)


def inflated(file: h5py.File, name: str, other: Path) -> None:
    file.create_dataset(name, (10**11,), "i4", chunks=(1024,), compression="gzip")


@pytest.mark.parametrize("change", [*LINKS.values(), virtual, inflated], ids=[*LINKS, "virtual", "inflated"])
def test_h5_files_show_their_own_values_alone(change: Callable[..., None], tmp_path: Path) -> None:
    other = data_sets.write(tmp_path / "other", photos=False) / H5
    folder = data_sets.write(tmp_path / "data", photos=False)
    with h5py.File(folder / H5, "r+") as file:
        del file["img_to_first_box"]
        change(file, "img_to_first_box", other)
    with pytest.raises(
        DataError, match=r"is a link to elsewhere|lie in another file|far more than the file holds"
    ) as e:
        open_data(folder, need_images=False)
    assert "\n" not in str(e.value)


def test_predictions_and_attributes_follow_no_link(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image_id"] = ["1"]
        file["attributes"] = np.zeros((1, 10), int)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        vocabulary = Vocabulary(("a",), ("b",))
        file.attrs.update({"format": "speaq predictions", "version": 1, "split": "test", "objects": ["a"]})
        file.attrs["predicates"] = ["b"]
        for name in ("image_id", "attributes"):
            file[name] = h5py.ExternalLink("other.h5", name)
    with pytest.raises(DataError, match="image_id is a link to elsewhere"):
        PredictionFile(tmp_path / "file.h5", vocabulary)
    from speaq.data.files import read_attributes

    with pytest.raises(DataError, match="attributes is a link to elsewhere"):
        read_attributes(tmp_path / "file.h5")


class Evil:
    """Unpickled it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_no_file_of_weights_is_run(tmp_path: Path) -> None:
    evil, ran = {"model": {"a": Evil(tmp_path / "ran")}, "config": {}}, tmp_path / "ran"
    torch.save(evil, tmp_path / "new.pt")
    torch.save(evil, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(evil))
    np.save(tmp_path / "array.npy", np.array([Evil(ran)], dtype=object), allow_pickle=True)
    for name in ("new.pt", "old.pt"):
        with pytest.raises(ForeignError):
            foreign.load_tensors(tmp_path / name)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / name)
    with pytest.raises(WeightsError, match=r"refers to (posix|nt)\.mkdir"):
        load_backbone(tmp_path / "weights.pkl", torch.nn.Module())
    with pytest.raises(ForeignError):
        foreign.load_npy(tmp_path / "array.npy")
    assert not ran.exists()
    pickle.loads(pickle.dumps(Evil(ran)))
    assert ran.exists()


def test_a_pickle_cannot_ask_for_more_than_it_has(tmp_path: Path) -> None:
    long_memo = b"\x80\x02}r\xff\xff\xff\x7f."  # an empty dictionary as memo 2**31 - 1
    long_text = b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x."
    for content in (long_memo, long_text):
        (tmp_path / "weights.pkl").write_bytes(content)
        with pytest.raises(WeightsError):
            load_backbone(tmp_path / "weights.pkl", torch.nn.Module())


def test_a_pickle_takes_no_more_memory_than_it_is_long(tmp_path: Path) -> None:
    (tmp_path / "R.pkl").write_bytes(b"\x80\x05" + pickle.BYTEARRAY8 + (2**28).to_bytes(8, "little") + b"short")
    tracemalloc.start()
    with pytest.raises(WeightsError, match="not a pickle of arrays alone"):
        load_backbone(tmp_path / "R.pkl", torch.nn.Module())
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def save(path: Path, **changes: Any) -> Path:
    content = {"task": "speaq", "step": 1, "objects": None, "predicates": None, "data_digest": None}
    content |= {"model": {"a": torch.zeros(3)}, "config": configs.to_dict(tiny())}
    checkpoint.save(path, content | changes)
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"a": torch.zeros(1).expand(10**6, 10**6)}}, "show more numbers than it holds"),
        ({"model": {"a": torch.zeros(3, device="meta")}}, "tensor on meta"),
        ({"model": {"a": torch.eye(2).to_sparse()}}, "sparse"),
        ({"model": {"a": 3}}, "model is not what speaq writes"),
        ({"config": [1]}, "config is not what speaq writes"),
        ({"format": torch.zeros(3, 3)}, "format tensor.*, this version reads"),
        ({"task": 1}, "task is not what speaq writes"),
        ({"step": -1}, "step is not what speaq writes"),
        ({"objects": [1]}, "objects is not what speaq writes"),
        ({"objects": torch.zeros(3, 3)}, "objects is not what speaq writes"),
        ({"data_digest": 1}, "data_digest is not what speaq writes"),
    ],
)
def test_checkpoints_hold_what_speaq_writes(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert checkpoint.load(save(tmp_path / "sound.pt"))["step"] == 1
    with pytest.raises(CheckpointError, match=reason) as refused:
        checkpoint.load(save(tmp_path / "odd.pt", **changes))
    assert "\n" not in str(refused.value)


def test_an_archive_of_several_disks_is_no_checkpoint(tmp_path: Path) -> None:
    content = save(tmp_path / "sound.pt").read_bytes()
    end = content.rfind(b"PK\x05\x06")
    disks = b"PK\x06\x07" + bytes(12) + (5).to_bytes(4, "little")
    (tmp_path / "odd.pt").write_bytes(content[:end] + disks + content[end:])
    with pytest.raises(CheckpointError, match="not a zip archive"):
        checkpoint.load(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", ["objects", "predicates", "data_digest"])
def test_a_checkpoint_without_names_is_one_that_was_converted_without_data(name: str, tmp_path: Path) -> None:
    content = checkpoint.load(save(tmp_path / "sound.pt"))
    checkpoint.save(tmp_path / "less.pt", {key: value for key, value in content.items() if key != name})
    assert checkpoint.load(tmp_path / "less.pt")[name] is None


def test_many_views_of_few_numbers_are_refused(tmp_path: Path) -> None:
    numbers = torch.zeros(2**20)
    torch.save({str(n): numbers[n:] for n in range(200)}, tmp_path / "views.pt")
    assert len(foreign.load_tensors(tmp_path / "views.pt")) == 200
    torch.save({str(n): numbers[n:] for n in range(300)}, tmp_path / "views.pt")
    with pytest.raises(ForeignError, match="show more numbers than it holds"):
        foreign.load_tensors(tmp_path / "views.pt")


def test_archives_that_grow_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, buffer)
    with (
        zipfile.ZipFile(buffer) as archive,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in archive.namelist():
            small.writestr(name, archive.read(name))
    with pytest.raises(ForeignError, match="it holds more than its size"):
        foreign.load_tensors(tmp_path / "small.pt")


def test_odd_tensors_of_the_fuzzer_are_no_zero_shot_list(tmp_path: Path) -> None:
    folder = data_sets.write(tmp_path / "data", photos=False)
    for odd in odd_tensors():
        torch.save(odd, folder / "zeroshot_triplet.pytorch")
        with pytest.raises(DataError, match=r"zeroshot_triplet\.pytorch"):
            open_data(folder, need_images=False)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", ".hidden", "C:x", "a\x00b", "a\nb", "x" * 101]
)
def test_an_image_id_stays_in_the_folder_of_the_photos(name: str, tmp_path: Path) -> None:
    folder = data_sets.write(tmp_path / "data", photos=False)
    entries = json.loads((folder / "image_data.json").read_text())
    entries[0]["image_id"] = name
    (folder / "image_data.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"image_id · names a file in the image folder"):
        open_data(folder, need_images=False)


@pytest.mark.parametrize("name", ["\x1b[2Jcat", "a\nb", "\ud800", "", "x" * 201])
def test_class_names_are_printable(name: str, tmp_path: Path) -> None:
    folder = data_sets.write(tmp_path / "data", photos=False)
    path = folder / "VG-SGG-dicts-with-attri.json"
    content = json.loads(path.read_text())
    content["label_to_idx"] = {name if key == "cat" else key: index for key, index in content["label_to_idx"].items()}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="names are printable text") as refused:
        open_data(folder, need_images=False)
    assert str(refused.value).isprintable()


def test_deep_json_is_refused(tmp_path: Path) -> None:
    folder = data_sets.write(tmp_path / "data", photos=False)
    for text in ("[" * 200_000, '[{"image_id": ' + "[" * 900 + "]" * 900 + "}]"):
        (folder / "image_data.json").write_text(text)
        with pytest.raises(DataError, match="image_data"):
            open_data(folder, need_images=False)


def test_photos_of_formats_that_start_programs_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", "EPS")  # Pillow asks Ghostscript to draw it
    assert "EPS" not in FORMATS
    with pytest.raises(DataError, match="not an image"):
        read_image(tmp_path / "photo.jpg")


def test_the_list_of_looks_is_checked(tmp_path: Path) -> None:
    for text in ("[]", '{"event": "unsealed"}', '{"event": "unsealed", "reason": 1}', "[" * 100_000, "{}"):
        (tmp_path / seal.FILE).write_text(text + "\n")
        with pytest.raises(ConfigError, match="not a list of looks"):
            seal.rows(tmp_path)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_only_files_are_opened(tmp_path: Path) -> None:
    """A pipe would be waited for without end, a device read without end; a link to a file is one."""
    fifo, null = pipe(tmp_path / "a.yaml"), Path("/dev/zero")
    regular = tmp_path / "file.json"
    regular.write_text("{}")
    (tmp_path / "link.json").symlink_to(regular)
    assert foreign.read_json(tmp_path / "link.json") == {}
    readers: tuple[Callable[[Path], Any], ...] = (
        configs.load,
        spaces.load,
        checkpoint.load,
        foreign.open_h5,
        foreign.read_json,
        foreign.load_npy,
        foreign.load_tensors,
        lambda path: load_backbone(path, torch.nn.Module()),
        lambda path: read_document(path, None),
        read_image,
    )
    for read in readers:
        for path, kind in ((fifo, "a named pipe, not a file"), (null, "a device, not a file")):
            with pytest.raises((ValueError, OSError), match=kind):
                read(path)


@pytest.mark.parametrize("name", ["study.yaml", "ledger.jsonl"])
def test_a_study_with_a_pipe_in_it_is_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from tests.helpers.fuzz_inputs import TARGETS

    TARGETS["ledger"](tmp_path)
    (tmp_path / name).unlink()
    pipe(tmp_path / name)
    for arguments in (("status", tmp_path), ("tune", "--resume", tmp_path)):
        assert f"{tmp_path / name}: " in refusal(*arguments)


@pytest.mark.parametrize("chunk", [1, 2, 7, 2**20])
def test_entries_of_a_list_come_one_by_one_however_it_is_read(chunk: int, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    for entries in ([], [1], [12, 345, -6.5e3], [{"a": [1, {"b": "],["}]}, "x", None, [[]], True]):
        for indent in (None, 2):
            path.write_text(" " + json.dumps(entries, indent=indent) + "\n", encoding="utf-8")
            assert list(foreign.json_entries(path, chunk)) == entries


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{}", "not a JSON list"),
        ("", "not a JSON list"),
        ('[{"a": 1}, {"a": }]', "entry 1 of its list is no JSON"),
        ('[{"a": 1}', "a comma or ] is expected after an entry, not ''"),
        ("[1 2]", "a comma or ] is expected after an entry, not '2'"),
        ("[1,", "entry 1 of its list is no JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_list_of_entries_is_refused(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ForeignError, match=re.escape(line)):
        list(foreign.json_entries(path, 5))
