"""Files are replaced in one step and never written through a link; one process at a time has a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from speaq.files import locks
from speaq.files.atomic import MARK, append_text, append_to, replaced, tidy, whole, write_text
from speaq.files.locks import NAME, Busy, Gone, Lock, Taken, held, holder

HOLDS = """
import sys, time
from pathlib import Path
from speaq.files.locks import Lock
lock = Lock(Path(sys.argv[1]))
print("has it", flush=True)
time.sleep(600)
"""


# Files


def test_a_file_has_the_old_or_the_whole_new_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="broken"):
        _write_half(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def _write_half(path: Path) -> None:
    with replaced(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise ValueError("broken")


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "file.txt"
    outside.write_text("stays")
    path.symlink_to(outside)
    write_text(path, "new")
    assert (path.read_text(), path.is_symlink(), outside.read_text()) == ("new", False, "stays")


def test_nothing_is_added_through_a_link_and_no_fifo_is_waited_for(tmp_path: Path) -> None:
    outside, link, fifo = tmp_path / "outside", tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(outside)
    os.mkfifo(fifo)
    for path in (link, fifo):
        for opened in (append_to, append_text):
            with pytest.raises(OSError, match=path.name):
                opened(path)
    assert not outside.exists()


def test_who_works_in_a_folder_does_not_work_in_its_copy(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with Lock(tmp_path / "study"):
        shutil.copytree(tmp_path / "study", tmp_path / "copy")
        assert holder(tmp_path / "study") is not None
        assert holder(tmp_path / "copy") is None
        with Lock(tmp_path / "copy"):
            assert holder(tmp_path / "copy") is not None


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    left, other = tmp_path / f".1{MARK}a [1]", tmp_path / f".2{MARK}a 1"
    left.mkdir()
    other.mkdir()
    with whole(tmp_path / "a [1]"):
        assert not left.exists()
    assert other.exists()


def test_lines_are_added(tmp_path: Path) -> None:
    for line in ("ä\n", "b\n"):
        with append_text(tmp_path / "file") as file:
            file.write(line)
            assert (tmp_path / "file").read_text(encoding="utf-8").endswith(line)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ä\nb\n"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = "import sys, os; from pathlib import Path; from speaq.files.atomic import replaced\n"
    code += "with replaced(Path(sys.argv[1])) as path: os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert len(os.listdir(tmp_path)) == 1
    tidy(tmp_path)
    assert os.listdir(tmp_path) == []


# Locks


@pytest.fixture(params=["flock", "none", "nothing"])
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system whose locks work, are not there, or do nothing."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if request.param != "flock":
        monkeypatch.setattr(fcntl, "flock", refuse if request.param == "none" else lambda file, operation: None)
        monkeypatch.setattr(locks, "SETTLE", 0.05)
    return str(request.param)


def test_a_second_one_is_refused_and_told_who_works_there(tmp_path: Path, guard: str) -> None:
    with Lock(tmp_path) as first:
        with pytest.raises(Busy, match=rf"process {os.getpid()} on .*, since \d"):
            Lock(tmp_path, patience=0.0)
        first.check()
        owner = holder(tmp_path)
        assert owner is not None
        assert owner.token == first.token
    assert holder(tmp_path) is None
    Lock(tmp_path).close()


def test_another_process_has_it_until_it_is_killed(tmp_path: Path, guard: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        with pytest.raises(Busy, match=f"process {process.pid} "):
            Lock(tmp_path, patience=0.0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert holder(tmp_path) is None
    Lock(tmp_path, patience=0.0).close()


def test_a_number_of_a_process_that_is_used_again_is_no_owner(tmp_path: Path, guard: str) -> None:
    record(tmp_path, born="1")
    Lock(tmp_path, patience=0.0).close()


def test_an_owner_on_another_machine_has_it_while_it_shows_that_it_lives(
    tmp_path: Path, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENT", 0.5)
    record(tmp_path, machine="another")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(tmp_path / NAME)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(Busy, match="process 1 on there"):
            Lock(tmp_path)
    finally:
        ended.set()
        thread.join()
    with Lock(tmp_path) as lock:  # silent now
        lock.check()


def test_who_was_taken_for_dead_is_told(tmp_path: Path, guard: str) -> None:
    with Lock(tmp_path) as lock:
        record(tmp_path, machine="another")
        with pytest.raises(Taken, match="process 1 on there"):
            lock.check()
    assert json.loads((tmp_path / NAME).read_text())["machine"] == "another"  # the other one's, still


def test_a_folder_that_is_gone_or_another_one_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Lock(folder) as lock:
        folder.rename(tmp_path / "moved")
        with pytest.raises(Gone, match="is not there any more"):
            lock.check()
        folder.mkdir()  # as an empty mount point
        with pytest.raises(Gone, match="is not there any more"):
            lock.check()
        folder.rmdir()
        (tmp_path / "moved").rename(folder)
        lock.check()


def test_a_thread_has_a_folder_once_and_another_one_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            held(tmp_path, 0.0).__enter__()
        except Busy as error:
            refused.append(error)

    with held(tmp_path) as outer, held(tmp_path) as inner:
        assert inner is outer
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1


@pytest.mark.parametrize("content", [b"", b"123-abc", b"[]", b"{}", b'{"token": 1}', b"[" * 1000, b"\xff" * 2000])
def test_any_content_of_the_lock_file_is_no_owner(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert holder(tmp_path) is None
    with Lock(tmp_path) as lock:
        lock.check()


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    outside.write_text("stays")
    (folder / NAME).symlink_to(outside)
    with pytest.raises(OSError, match=NAME):
        Lock(folder)
    assert outside.read_text() == "stays"


def record(folder: Path, **fields: object) -> None:
    """An owner's record that this process did not write."""
    owner = vars(locks.Owner.new()) | {"process": 1, "host": "there", "token": "other", **fields}
    (folder / NAME).write_text(json.dumps(owner).ljust(locks.RECORD))
