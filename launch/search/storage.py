"""Where a search is mirrored to: URLs of Optuna storages, what may be shown of them, and opening them.

A URL may hold a password. What is written, logged or raised has it masked.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import reprlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from speaq.config import ConfigError
from speaq.study.file import STORAGE, Address

log = logging.getLogger(__name__)

VARIABLE = "SPEAQ_STORAGE"  # a URL with a password belongs here: command lines are seen by others
DEFAULT = f"sqlite:///{STORAGE}"  # in the study's folder
NONE = "none"
MASK = "***"
MAX_NAME = 250  # characters of a study's name; Optuna's tables hold 512
PATIENCE = 5  # seconds for a database to answer, or for a lock to be given back

DAMAGED = ("disk image is malformed", "file is not a database")  # SQLite's words
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": None, "journal": None}
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "pymysql": "pymysql", "MySQLdb": "mysqlclient"}


class StorageError(ConfigError):
    """A storage that cannot be used."""


def choose(given: str | None, folder: Path) -> Address | None:
    """Where a new study in `folder` is mirrored to; None: nowhere. Raises StorageError."""
    _warn_of_password(given)
    url = given or os.environ.get(VARIABLE) or DEFAULT
    if url == NONE:
        return None
    where = folder if url == DEFAULT else Path.cwd()
    stamp = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"  # other studies may be called like the folder
    return Address(located(url, where), f"{_plain(folder.resolve().name)}-{stamp}")


def again(known: Address | None, given: str | None, folder: Path) -> Address | None:
    """Where a study in `folder` that is resumed is mirrored to.

    The study may come from elsewhere: of itself it names files in its folder alone. Raises StorageError where it names
    another storage, or one whose password is missing, and the user gives none now.
    """
    if given == NONE or (known is None and given is None):
        return None
    study = _older_name(folder) if known is None else known.study
    if study != _plain(study) or len(study) > MAX_NAME:
        rule = f"at most {MAX_NAME} letters, digits, spaces and . , + @ % {{ }} ( ) -"
        raise StorageError(f"{folder / 'study.yaml'}: storage: study: {reprlib.repr(study)} is no name ({rule})")
    if given is not None:
        _warn_of_password(given)
        return Address(located(given, Path.cwd()), study)
    assert known is not None
    if MASK not in known.url and _is_inside(known.url, folder):
        return Address(located(known.url, folder), study)
    now = os.environ.get(VARIABLE)
    if now is None:
        why = "its password is not kept" if MASK in known.url else "is not in the study's folder"
        raise StorageError(
            f"{masked(known.url)}: {why}; give the URL again in {VARIABLE} or by --storage, or --storage none"
        )
    return None if now == NONE else Address(located(now, Path.cwd()), study)


def _is_inside(text: str, folder: Path) -> bool:
    """Whether a URL is that of a file in the folder, by no link and without options, which can name another file."""
    url, folder = parse(text), folder.resolve()
    path = folder / str(url.database)
    return (
        DRIVERS[url.get_backend_name()] is None
        and not url.query
        and path.is_relative_to(folder)
        and path.resolve() == path
    )


def _plain(name: str) -> str:
    """A name of a study as storages, shells and terminals may meet it."""
    return re.sub(r"[^\w .,+@%{}()-]", "_", name)[:MAX_NAME]


def _warn_of_password(given: str | None) -> None:
    if given not in (None, NONE) and MASK in masked(given):
        log.warning(
            "--storage: a command line is seen by everybody on its machine, and on Ray's dashboard: a URL with a "
            "password belongs into %s",
            VARIABLE,
        )


def _older_name(folder: Path) -> str:
    """The name of a study that began without a storage: the same whenever it is asked for."""
    digest = hashlib.sha256((folder / "study.yaml").read_bytes()).hexdigest()
    return f"{_plain(folder.resolve().name)}-{digest[:6]}"


def parse(text: str) -> URL:
    """Raises StorageError, which does not show `text`: what cannot be parsed cannot be masked."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise StorageError(
            f"--storage: not a URL such as {DEFAULT}, postgresql://user@host/database, journal:///study.log, or none"
        ) from error
    scheme = url.drivername.partition("+")[0]
    if scheme not in DRIVERS:
        raise StorageError(f"--storage: {scheme}:// is none of {', '.join(f'{known}://' for known in DRIVERS)}")
    if "@" in (url.host or ""):
        raise StorageError("--storage: user name and password are percent-encoded in a URL: %40 for @, %2F for /")
    if DRIVERS[scheme] is None and url.database in (None, "", ":memory:"):
        raise StorageError(f"--storage: {scheme}:/// names a file: {scheme}:///relative or {scheme}:////absolute")
    return url


def masked(text: str) -> str:
    """The URL without its password."""
    url = parse(text)
    secret = {key: MASK for key in url.query if "pass" in key.lower()}
    return url.update_query_dict(secret).render_as_string().replace(quote(MASK), MASK)


def located(text: str, folder: Path) -> str:
    """The URL with the path of a file absolute, seen from `folder`. Raises StorageError where its name is no UTF-8."""
    url = parse(text)
    if DRIVERS[url.get_backend_name()] is None:
        url = url.set(database=str(folder.resolve() / str(url.database)))
    try:
        return url.render_as_string(hide_password=False)
    except UnicodeEncodeError as error:
        raise StorageError(f"{url.database}: a name in this path is no UTF-8; a search needs another folder") from error


def seen_from(text: str, folder: Path) -> str:
    """What study.yaml keeps: no password, and a file in the study's own folder by its name, so that both can move."""
    url = parse(text)
    file = Path(url.database or "")
    if DRIVERS[url.get_backend_name()] is None and file.is_relative_to(folder.resolve()):
        url = url.set(database=str(file.relative_to(folder.resolve())))
    return masked(url.render_as_string(hide_password=False))


def connect(address: Address) -> BaseStorage:
    """Opens the storage, made where it is not there yet. Raises StorageError, in one line."""
    url = parse(address.url)
    try:
        if url.drivername == "journal":
            return _journal(Path(str(url.database)))
        return RDBStorage(_template(url), {"pool_pre_ping": True, "connect_args": _arguments(url)})
    except Exception as error:  # drivers have exceptions of their own
        raise refusal(address, error) from error


def _template(url: URL) -> str:
    """The URL with its driver. Optuna fills in what is in braces, but a rendered URL has none: they are encoded."""
    driver = DRIVERS[url.get_backend_name()]
    if driver is not None and "+" not in url.drivername:
        url = url.set(drivername=f"{url.drivername}+{driver}")
    return url.render_as_string(hide_password=False)


def _arguments(url: URL) -> dict[str, Any]:
    """What the driver is told."""
    match url.get_backend_name():
        case "sqlite":
            return {"timeout": PATIENCE}
        case "postgresql":  # of a database in SQL_ASCII, psycopg hands out bytes unless an encoding is named
            return {"connect_timeout": PATIENCE, "client_encoding": "utf8"}
        case _:
            return {"connect_timeout": PATIENCE}


def _journal(path: Path) -> JournalStorage:
    """Raises ValueError for a file that is no journal, OSError."""
    if path.exists():
        _mend(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _mend(path: Path) -> None:
    """Drops a torn last row, which a full disk leaves: Optuna would write on behind it and never read it again."""
    with path.open("rb+") as file:
        if file.readline(1 << 20)[:12] not in (b"", b'{"op_code":0'):  # the first row makes a study
            raise ValueError("is no journal of Optuna")
        lock = JournalFileSymlinkLock(str(path))
        lock.acquire()
        try:
            content = path.read_bytes()
            file.truncate(content.rfind(b"\n") + 1)
        finally:
            lock.release()


def refusal(address: Address, error: Exception) -> StorageError:
    """What went wrong, in one line without the password."""
    if isinstance(error, StorageError):
        return error
    cause: BaseException = error
    while isinstance(cause, StorageInternalError | ImportError) and cause.__cause__ is not None:
        cause = cause.__cause__
    return StorageError(f"storage {masked(address.url)}: {_without_password(_reason(cause), address)}")


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        name = error.name or ""
        return f'{name} is not installed: pip install "{PACKAGES.get(name, name)}"'
    if isinstance(error, NoSuchModuleError):
        return "no such driver; leave it out"
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror or error})"
    text = str(getattr(error, "orig", None) or error) if isinstance(error, SQLAlchemyError) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return f"{text}; move it away, a resume writes it anew" if text.endswith(DAMAGED) else text


def _without_password(text: str, address: Address) -> str:
    url = parse(address.url)
    hidden = [url.password, *(value for key, value in url.query.items() if "pass" in key.lower())]
    for secret in hidden:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, MASK)
    return text
