"""What the error that ended a trial means to the search."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from speaq.data import LoaderDied
from speaq.files import atomic
from speaq.files.locks import Busy, Gone, Taken
from speaq.study.errors import Halted, is_of_storage, one_line
from speaq.training.endings import OutOfMemory

from ..search.messages import Died, Displaced, Ended, Failed, Halt, TooLarge


def outcome_of(error: BaseException, folder: Path) -> Ended:
    """What `error` means to the search. A failure of the trial's own leaves its traceback in error.txt in `folder`."""
    reason = one_line(error)
    if isinstance(error, Taken | Busy):
        return Displaced(reason)
    if isinstance(error, LoaderDied):
        return Died(reason)
    if isinstance(error, Gone | Halted):  # their messages are whole sentences, which need no name of an error before
        return Halt(str(error))
    if is_of_storage(error):
        return Halt(reason)
    try:
        told = "".join(traceback.format_exception(error))  # names in it may be no UTF-8
        atomic.write_text(folder / "error.txt", told.encode(errors="backslashreplace").decode())
    except OSError as second:  # libraries wrap errors of the disk beyond recognition; writing meets it again
        if is_of_storage(second):
            return Halt(f"{one_line(second)} ({reason})")
    return TooLarge(reason) if is_of_memory(error) else Failed(reason)


def is_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device was too small."""
    torch = sys.modules.get("torch")  # where nothing has loaded it, the error is not its
    return isinstance(error, OutOfMemory) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
