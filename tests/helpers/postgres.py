"""A real PostgreSQL server in a folder of its own, reached by a socket: no port, no network, a password."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

PASSWORD = "gehe/im@1"
_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def program(name: str) -> str | None:
    """The newest one that a distribution has installed, else the one of the PATH."""
    return shutil.which(name, path=str(_INSTALLED[-1])) if _INSTALLED else shutil.which(name)


class Server:
    """Started and stopped at will; its data stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql://speaq:{quote(PASSWORD, safe='')}@/postgres?host={folder}"
        self._user = "nobody" if os.geteuid() == 0 else None  # the server refuses to be run by root
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        (folder / "password").write_text(PASSWORD)
        os.chmod(folder / "password", 0o644)
        self._call("initdb", "-U", "speaq", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")

    def start(self) -> None:
        self._call("pg_ctl", "start", "-w", "-l", "log", "-o", f"-c listen_addresses='' -c fsync=off -k {self.folder}")

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def _call(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None
        subprocess.run(
            [path, *arguments, "-D", str(self.folder / "data")],
            cwd=self.folder,
            user=self._user,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


@contextmanager
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="speaq-pg-"))  # pytest's own folders are closed to other users
    try:
        running = Server(folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder)
