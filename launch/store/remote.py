"""Object stores by URL (S3, Google Cloud Storage, Azure), through pyarrow, which comes with Ray.

Credentials come from each node's environment, as the store's own tools take them. What is read from a listing is
foreign: a name that would leave its folder is refused. An object is there whole or not at all: these stores show it
when its upload is complete. Requests that fail are made again for `patience` seconds, then `StorageLost` says why.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from speaq.config import ConfigError
from speaq.files.atomic import replaced
from speaq.study.errors import StorageLost

T = TypeVar("T")
Stamp = tuple[int, int]  # of an object: bytes, time of the last change in ns (stores may know whole seconds alone)

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
PATIENCE = 120.0  # seconds that a store may be away in the middle of a run
PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds between attempts, doubling


class StoreError(ConfigError):
    """A URL that cannot be used."""


def parse(url: str) -> tuple[str, tuple[str, ...], str]:
    """Scheme, parts of the path (the bucket first) and query. Raises StoreError, which shows no secret."""
    try:
        split = urlsplit(url)
        user, password = split.username, split.password
    except ValueError as error:
        raise StoreError("not a URL such as s3://bucket/folder") from error
    container = user if split.scheme.startswith("abfs") else None  # abfss://container@account…/folder
    if password is not None or (user is not None and container is None and (split.scheme, user) != ("gs", "anonymous")):
        raise StoreError(
            f"{split.scheme}://…@: a URL with credentials would be written into files and logs; give them by the "
            "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, …)"
        )
    if split.scheme not in SCHEMES:
        raise StoreError(f"{split.scheme}:// is none of {', '.join(f'{name}://' for name in SCHEMES)} (or file://)")
    for key, _ in parse_qsl(split.query):
        if re.search("secret|password|token", key, re.IGNORECASE):
            raise StoreError(f"{split.scheme}://…?{key}=…: a secret belongs into the environment, not into a URL")
    if not split.hostname:
        raise StoreError(f"{url}: names no bucket: {split.scheme}://bucket/folder")
    parts = tuple(part for part in split.path.split("/") if part)
    if not parts:
        raise StoreError(f"{url}: names a bucket alone; give a folder in it")
    if bad := [part for part in parts if part.startswith(".")]:
        raise StoreError(f"{url}: {bad[0]!r} is no name of a folder here: it begins with a dot")
    return split.scheme, (split.netloc, *parts), split.query


def joined(url: str, name: str) -> str:
    """The URL of what is called `name` (with slashes) below `url`."""
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}/{quote(name)}{mark}{query}"


def below(url: str | None, name: str) -> str | None:
    """The same, where there is a URL."""
    return None if url is None else joined(url, name)


def parent(url: str) -> tuple[str, str]:
    """The URL of the folder that something lies in, and its name there."""
    base, mark, query = url.partition("?")
    folder, _, name = base.rstrip("/").rpartition("/")
    return folder + mark + query, unquote(name)


def local_name(url: str) -> Path:
    """Where copies of a URL lie, seen from the folder of all copies: folders below a URL lie below its own."""
    scheme, parts, query = parse(url)
    store = hashlib.sha256(f"{scheme} {parts[0]} {query}".encode()).hexdigest()[:8]
    bucket = re.sub(r"[^\w.-]", "_", parts[0])
    return Path(f"{scheme}-{bucket}-{store}", *parts[1:])


class Store:
    """What lies below a URL; names are relative to it, with slashes. All methods raise StorageLost."""

    def __init__(self, url: str, patience: float | None = None) -> None:
        """Raises StoreError for a URL that cannot be one; whether the store answers is not asked."""
        parse(url)
        try:
            from pyarrow import fs
        except ModuleNotFoundError as error:
            raise StoreError(f'{url}: pyarrow is not installed: pip install -e ".[ray]"') from error
        self.url, self._fs = url, fs
        self._patience = patience  # None: PATIENCE
        query = "?" in url
        limit = ("&" if query else "?") + "retry_limit_seconds=20"  # its own would be 15 minutes
        google = url.startswith(("gs:", "gcs:")) and "retry_limit_seconds" not in url
        try:
            self._system, self._path = fs.FileSystem.from_uri(url + limit if google else url)
        except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise StoreError(f"{url}: {reason(error)}") from error

    def patient(self) -> Store:
        """The same store, waited for `PATIENCE` seconds where it is away: for the middle of a run."""
        return Store(self.url)

    def stamps(self, without: Iterable[str] = ()) -> dict[str, Stamp]:
        """Name → size and time of all objects but those whose first folder is in `without`, and hidden ones."""
        skipped = tuple(without)
        found: list[Any] = []
        if not skipped:
            found = self._listed(self._path, recursive=True)
        else:
            for info in self._listed(self._path, recursive=False):
                name = info.path[len(self._path) + 1 :]
                folder = info.type == self._fs.FileType.Directory
                if folder and name not in skipped and not name.startswith("."):
                    found += self._listed(info.path, recursive=True)
                elif not folder:
                    found.append(info)
        files = [info for info in found if info.type == self._fs.FileType.File]
        named = {info.path[len(self._path) + 1 :]: (info.size, info.mtime_ns) for info in files}
        return {name: stamp for name, stamp in named.items() if not self._hidden(name)}

    def _listed(self, path: str, *, recursive: bool) -> list[Any]:
        selector = self._fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return self._patiently(lambda: self._system.get_file_info(selector))

    def _hidden(self, name: str) -> bool:
        """Names that begin with a dot are a folder's own affair. Raises StoreError for one that would leave it."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise StoreError(f"{self.url}: holds an object with the name {name!r}, which is none of speaq's")
        return any(part.startswith(".") for part in parts)

    def stamp(self, *names: str) -> list[Stamp | None]:
        """Size and time of objects; None for one that is not there."""
        infos = self._patiently(lambda: self._system.get_file_info([self._at(name) for name in names]))
        return [(info.size, info.mtime_ns) if info.type == self._fs.FileType.File else None for info in infos]

    def is_object(self) -> bool:
        """Whether the URL itself names an object."""
        return self.stamp("") != [None]

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None where there is none."""

        def get() -> bytes | None:
            try:
                with self._system.open_input_stream(self._at(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._patiently(get)

    def write(self, name: str, content: Any) -> None:
        """Replaces an object by `content`, anything with a buffer.

        To be called where no signal's exception can come between opening and writing, so not in the main thread: a
        stream that is dropped half written becomes a whole object.
        """

        def put() -> None:
            stream = self._system.open_output_stream(self._at(name))
            stream.write(content)
            stream.close()

        self._patiently(put)

    def upload(self, file: Path, name: str) -> None:
        """As `write`, of a file as it is now."""
        import pyarrow

        with file.open("rb") as opened:  # a missing file is the caller's affair, no store's
            empty = not opened.read(1)
        if empty:
            self.write(name, b"")
            return
        with pyarrow.memory_map(str(file)) as mapped:
            self.write(name, mapped.read_buffer())

    def download(self, name: str, file: Path) -> None:
        """Fetches an object; `file` is there whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced(file) as temporary:

            def get() -> None:
                with self._system.open_input_stream(self._at(name)) as stream, temporary.open("wb") as output:
                    while chunk := stream.read(1 << 23):
                        output.write(chunk)

            self._patiently(get)

    def copy(self, source: str, target: str) -> None:
        """Inside the store: nothing is sent."""
        self._patiently(lambda: self._system.copy_file(self._at(source), self._at(target)))

    def remove(self, name: str) -> None:
        """Removes an object, where it is there."""

        def delete() -> None:
            try:
                self._system.delete_file(self._at(name))
            except FileNotFoundError:
                return

        self._patiently(delete)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else str(self._path)

    def _patiently(self, call: Callable[[], T]) -> T:
        patience = PATIENCE if self._patience is None else self._patience
        deadline, pause = time.monotonic() + patience, PAUSE
        while True:
            try:
                return call()
            except FileNotFoundError as error:  # somebody removed it
                raise StorageLost(f"{self.url}: {reason(error)}") from error
            except OSError as error:
                if error.errno is not None:
                    raise  # the local disk's: what stores say has no number
                if time.monotonic() + pause > deadline:
                    raise StorageLost(f"{self.url}: {reason(error)}") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: BaseException) -> str:
    """What the store said, in one line: without what it prints for its own support."""
    text = " ".join(str(error).split())
    told = re.search(r"AWS Error (.*)", text)
    text = told[1] if told else text
    return re.sub(r" \(Request ID: [^)]*\)|; Details: .*", "", text)[:250]
