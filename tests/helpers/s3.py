"""A real HTTP server that speaks S3 (moto), behind a port that can be closed: its data are in its memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.helpers.listening import free_port

# As every node's environment has them; no key is asked for on the way.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "speaq",
    "AWS_SECRET_ACCESS_KEY": "geheim-0815",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "runs"


class Way:
    """Forwards a port to another one, until it is cut."""

    def __init__(self, target: int) -> None:
        self.port, self._target = 0, target
        self.heal()

    def heal(self) -> None:
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):  # closed already by its other end
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while True:
                near = listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)


class Server:
    """What lies at `url(…)`."""

    def __init__(self) -> None:
        self._behind = free_port()
        line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._behind)]
        self._process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()
        self.way = Way(self._behind)
        self.port = self.way.port
        self.system.create_dir(BUCKET)

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._behind), 1).close()
                return
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    @property
    def system(self) -> Any:
        from pyarrow.fs import FileSystem

        return FileSystem.from_uri(f"{self.url('any')}&allow_bucket_creation=true")[0]

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def names(self, name: str) -> set[str]:
        """Objects below a folder."""
        from pyarrow.fs import FileSelector, FileType

        found = self.system.get_file_info(FileSelector(f"{BUCKET}/{name}", recursive=True, allow_not_found=True))
        return {i.path.removeprefix(f"{BUCKET}/{name}/") for i in found if i.type == FileType.File}

    def read(self, name: str) -> bytes:
        with self.system.open_input_stream(f"{BUCKET}/{name}") as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        with self.system.open_output_stream(f"{BUCKET}/{name}") as stream:
            stream.write(content)

    def write_as_is(self, name: str, content: bytes) -> None:
        """Under any name, which other clients would tidy up."""
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")
        client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def stop(self) -> None:
        self.way.cut()
        self._process.kill()
        self._process.wait()


@contextmanager
def server() -> Iterator[Server]:
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    running = Server()
    try:
        yield running
    finally:
        running.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
