"""A home directory where there is none: a container's user without HOME and without an entry in passwd."""

from __future__ import annotations

import atexit
import getpass
import logging
import os
import shutil
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)


def make_up_home() -> None:
    """Gives this process and its children a home that goes with it, and a user's name, where they have none.

    Libraries ask for both: Ray, matplotlib, PyTorch's caches. Raises OSError where no temporary folder can be written.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = folder = tempfile.mkdtemp(prefix="speaq-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        log.warning("no home directory: HOME is not set and user %d has no entry; it is %s now", os.getuid(), folder)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # which of them depends on the version of Python
        os.environ["USER"] = f"user-{os.getuid()}"


def keep_out_of_home() -> None:
    """matplotlib writes a font cache: into a folder that goes with the process."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="speaq-matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
