"""A process that does stages one after the other and says at once what comes out. Its parent ends it when it hangs."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import Any

from tests.gpu.plan import STAGES, Settings, Skipped

BROKEN = 3  # exit code: the device cannot be used by this process any more


def work(names: list[str], settings: Settings, send: Connection) -> None:
    """Sends ("row", {…}) for every result and ("end", status, error) after each of the stages."""
    os.setsid()  # so that all of its children end with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    by_name = {stage.name: stage for stage in STAGES}

    def tell(row: str, **values: Any) -> None:
        send.send(("row", {"row": row, **values}))

    for name in names:
        status, error = "ok", ""
        try:
            by_name[name].load()(settings, tell)
        except Skipped as reason:
            status, error = "skipped", str(reason)
        except BaseException as failure:
            status, error = "failed", said(failure)
        send.send(("end", status, error))
        if "CUDA error" in error or "device-side assert" in error:
            os._exit(BROKEN)
        tidy()


def said(failure: BaseException) -> str:
    """What went wrong, and where in our code."""
    ours = [frame for frame in traceback.extract_tb(failure.__traceback__) if "/site-packages/" not in frame.filename]
    where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in ours[-4:][::-1])
    return f"{type(failure).__name__}: {' '.join(str(failure).split())[:600]} ({where})"


def tidy() -> None:
    """Memory and switches as they were; a stage that failed may have left them."""
    import torch

    gc.collect()
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)
