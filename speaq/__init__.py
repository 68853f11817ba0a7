"""SpeaQ: groupwise query specialization and quality-aware multi-assignment for scene graph generation."""

import os as _os
import sys as _sys

if _sys.argv[:1] == ["-m"]:  # `python -m speaq.…` would import whatever lies in the current directory
    _code = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
    _sys.path[:] = [path for path in _sys.path if path == _code or (path and path != _os.getcwd())]
