"""Files that others may have written: opened here alone, without running, following or inflating what is in them.

All functions raise `ForeignError` (a ValueError) with the reason; the caller knows what the file was wanted for.
"""

from __future__ import annotations

import codecs
import errno
import functools
import json
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from speaq.files.regular import check_regular

if TYPE_CHECKING:  # imported where a file needs them: who reads JSON alone starts sooner
    import h5py
    from numpy.typing import NDArray

MAX_TEXT = 512 * 2**20  # bytes of a JSON file; Visual Genome's largest has 17 MiB
FREE = 64 * 2**20  # bytes that an array may take, whatever its file takes
SHOWN, MAX_SHARED = 2**30, 16  # bytes that tensors may show, whatever their file holds; times what it holds
MAX_RATIO = 1100  # bytes from one of a file: deflate reaches 1,032


_MARKS = (  # the longest first: one begins with another
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class ForeignError(ValueError):
    """A file that is not taken in."""


def whole_number(text: str) -> int | None:
    """What a text of at most 18 ASCII digits says; None for any other. `int` fails for very long ones."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


class Skipped:
    """What stands in a checkpoint for a value of one of `HARMLESS`: a class of that name, without the value."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Mapping(Skipped):
    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Sequence(Skipped):
    def __new__(cls, *_: object) -> Any:
        return []


# Classes that training scripts save beside tensors: settings, paths, dates and numbers. None of them is ever looked up,
# let alone called: each is read as one of the three above.
HARMLESS: Mapping[type[Skipped], tuple[str, ...]] = {
    Skipped: (
        "argparse.Namespace",
        "types.SimpleNamespace",
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object")),
        *(f"builtins.{name}" for name in ("range", "slice", "str", "tuple")),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *("decimal.Decimal", "fractions.Fraction", "typing.Any", "uuid.UUID"),
        *(
            f"{module}.{pure}{kind}Path"
            for module in ("pathlib", "pathlib._local")
            for pure in ("", "Pure")
            for kind in ("", "Posix", "Windows")
        ),
        *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "float32", "float64", "int32", "int64")),
        *(
            f"numpy.{core}.{name}"
            for core in ("core", "_core")  # before and since NumPy 2
            for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
        ),
        *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
        *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "Path", "String")),
        "torch.torch_version.TorchVersion",
    ),
    _Mapping: (
        "addict.addict.Dict",
        "collections.defaultdict",
        "detectron2.config.config.CfgNode",
        "easydict.EasyDict",
        "fvcore.common.config.CfgNode",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        "yacs.config.CfgNode",
    ),
    _Sequence: ("collections.deque",),
}
_loading = threading.Lock()  # PyTorch keeps what it admits for the whole process


@functools.cache
def _stand_ins() -> list[tuple[Callable[..., Any], str]]:
    return [(type(name, (kind,), {}), name) for kind, names in HARMLESS.items() for name in names]


def parse_json(text: str | bytes, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """One JSON value. Raises ForeignError, also where it is nested too deeply."""
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError as error:
        raise ForeignError("nested too deeply") from error
    except ValueError as error:
        raise ForeignError(str(error)) from error


def read_text(path: Path) -> str:
    """A text file of a bearable size: UTF-8, or what its byte-order mark says. Raises ForeignError, OSError."""
    if check_regular(path).stat().st_size > MAX_TEXT:
        raise ForeignError(f"{path.stat().st_size:,} bytes, at most {MAX_TEXT:,} are read")
    try:
        return decode(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ForeignError(f"not UTF-8 text ({error})") from error


def decode(content: bytes) -> str:
    """Text without the byte-order mark that some editors put first. Raises UnicodeDecodeError."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    return content.decode("utf-8")


def read_json(path: Path, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON file. Raises ForeignError, OSError."""
    return parse_json(read_text(path), hook)


def json_entries(path: Path, chunk: int = 2**20) -> Iterator[Any]:
    """The entries of a file that is one JSON list, one by one: the file may be larger than the memory.

    Args:
        chunk: characters that are read at once.
    Raises:
        ForeignError: something else than such a list, or an entry of more than `FREE` characters.
        OSError: the file cannot be read.
    """
    with check_regular(path).open(encoding="utf-8-sig") as file:
        try:
            yield from _Entries(file, chunk)
        except UnicodeDecodeError as error:
            raise ForeignError(f"not UTF-8 text ({error})") from error
        except RecursionError as error:
            raise ForeignError("nested too deeply") from error


_BEHIND = frozenset(" \t\r\n,]")  # characters, of which one follows an entry


class _Entries:
    """Iterates over the entries of a JSON list in a file."""

    def __init__(self, file: IO[str], chunk: int) -> None:
        self._file, self._chunk, self._decode = file, chunk, json.JSONDecoder().raw_decode
        self._text, self._at, self._number = "", 0, 0

    def __iter__(self) -> Iterator[Any]:
        if self._sign() != "[":
            raise ForeignError("not a JSON list")
        self._at += 1
        if self._sign() == "]":
            return
        while True:
            self._sign()
            yield self._entry()
            sign = self._sign()
            self._at += 1
            if sign == "]":
                return
            if sign != ",":
                raise ForeignError(f"a comma or ] is expected after an entry, not {sign!r}")

    def _more(self) -> bool:
        """Reads on, as much as is there already, so that long entries are not looked at too often."""
        self._text, self._at = self._text[self._at :], 0
        read = self._file.read(max(self._chunk, len(self._text)))
        self._text += read
        return bool(read)

    def _sign(self) -> str:
        """The next character that is no white space, an empty text at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _entry(self) -> Any:
        while True:
            try:
                entry, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > FREE or not self._more():
                    raise ForeignError(f"entry {self._number} of its list is no JSON ({error.msg})") from error
                continue
            whole = self._text[end : end + 1] in _BEHIND or len(self._text) - self._at > FREE
            if whole or not self._more():  # else a number may go on: `-6500.` is read as -6500
                self._at, self._number = end, self._number + 1
                return entry


def open_h5(path: Path) -> h5py.File:
    """An HDF5 file to read. Raises ForeignError."""
    import h5py

    try:
        return h5py.File(check_regular(path), "r")
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # h5py passes on what the C library finds
        raise ForeignError(f"not a readable HDF5 file ({error})") from error


def h5_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset of the file itself, None where there is none of this name.

    Raises:
        ForeignError: the name is a link, the values lie in another file, or are far more than the file holds.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ForeignError(f"{name} is a link to elsewhere")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        return None
    if dataset.is_virtual or dataset.external:
        raise ForeignError(f"the values of {name} lie in another file")
    if dataset.shape is not None and dataset.nbytes > max(FREE, MAX_RATIO * dataset.id.get_storage_size()):
        raise ForeignError(f"{name} would take {dataset.nbytes:,} bytes, far more than the file holds of it")
    return dataset


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file; nothing is unpickled. Raises ForeignError, OSError."""
    import numpy as np

    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that NumPy 1 wrote
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses what the file is too short for
            if not isinstance(mapped, np.ndarray):
                raise ForeignError("an archive, not an array")
            return np.array(mapped)
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python
        raise ForeignError(f"not an array of numbers ({first_line(error)})") from error


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, tensors and plain values on the CPU; nothing of it is executed.

    Values of the classes in `HARMLESS` come as `Skipped`; of those that are mappings or lists as plain ones.

    Raises:
        ForeignError: torn or damaged, or it holds a value of another class; names that.
        OSError: it cannot be opened.
    """
    import torch  # not for every command

    with check_regular(path).open("rb"):
        pass
    try:
        _check_archive(path)
        with warnings.catch_warnings(), _loading, torch.serialization.safe_globals([*_stand_ins()]):
            warnings.simplefilter("ignore")  # of pickle protocols: what matters is whether it loads
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(content, max(SHOWN, MAX_SHARED * path.stat().st_size))
        return content
    except ForeignError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which is how a torn file fails while seeking
            raise
        raise ForeignError(f"not a checkpoint that holds tensors alone: {first_line(error)}") from error
    except Exception as error:  # foreign bytes can fail anywhere in the unpickler
        if (named := re.search(r"GLOBAL (\S+)", str(error))) is not None:
            raise ForeignError(
                f"not a checkpoint that holds tensors and plain values alone: it holds {named[1]}, which is not read "
                "as it could run code; save the model's state_dict() alone"
            ) from error
        raise ForeignError(f"not a checkpoint that holds tensors alone: {first_line(error)}") from error


def skipped(content: Any) -> str | None:
    """The class of a value that was not read, None where all was."""
    found = (type(value).__name__ for value in _values(content) if isinstance(value, Skipped))
    return next(found, None)


def _values(content: Any) -> Iterator[Any]:
    """Every value of nested containers, the containers too, each once."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value


def _check_sizes(content: Any, limit: int) -> None:
    """A tensor can show a few stored numbers any number of times; whoever copies it would need memory for them all."""
    import torch

    total = 0
    for value in _values(content):
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu":
                raise ForeignError(f"it holds a {value.layout} tensor on {value.device.type}")
            total += value.nbytes
            if total > limit:
                raise ForeignError("its tensors show more numbers than it holds")


def is_zip(file: Path | IO[bytes]) -> bool:
    """Whether it is a zip archive that can be opened; Python's own question raises for one of several disks."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _check_archive(path: Path) -> None:
    """Zip archives alone have check sums, and `torch.load` does not look at them. It writes them uncompressed."""
    if not is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("data.pkl") for name in archive.namelist()):
            raise ForeignError("not a checkpoint but a zip archive of other files")
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ForeignError("not a checkpoint as it was written: it holds more than its size")
        if (damaged := archive.testzip()) is not None:
            raise ForeignError(f"not a checkpoint as it was written: damaged (check sum of {damaged})")


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
