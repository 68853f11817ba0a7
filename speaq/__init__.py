"""SpeaQ: groupwise query specialization and quality-aware multi-assignment for scene graph generation.

from speaq import Predictor, load_run, load_study, load_data, load_config, train, evaluate

Each is loaded when it is first used: `import speaq` alone brings neither PyTorch nor NumPy.
"""

import importlib as _importlib
import os as _os
import sys as _sys
import typing as _typing

if _typing.TYPE_CHECKING:
    from speaq.api.actions import evaluate as evaluate
    from speaq.api.actions import load_config as load_config
    from speaq.api.actions import load_data as load_data
    from speaq.api.actions import train as train
    from speaq.api.run import load_run as load_run
    from speaq.api.search import load_study as load_study
    from speaq.prediction.predictor import Predictor as Predictor

    __version__: str

if _sys.argv[:1] == ["-m"]:  # `python -m speaq.…` would import whatever lies in the current directory
    _code = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
    _sys.path[:] = [path for path in _sys.path if path == _code or (path and path != _os.getcwd())]

# Threads that spin while they wait stall each other on a busy machine: 7-33 images/s became 84-109 (two threads).
# PyTorch's library of threads reads this once, when it is loaded, so that nothing of ours may load it earlier.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Predictor": "speaq.prediction.predictor",
    "evaluate": "speaq.api.actions",
    "load_config": "speaq.api.actions",
    "load_data": "speaq.api.actions",
    "load_run": "speaq.api.run",
    "load_study": "speaq.api.search",
    "train": "speaq.api.actions",
}
__all__ = [  # noqa: PLE0604, RUF100 - each is found by __getattr__
    "Predictor",
    "__version__",
    "evaluate",
    "load_config",
    "load_data",
    "load_run",
    "load_study",
    "train",
]


def __getattr__(name: str) -> _typing.Any:
    if name in _HOMES:
        return getattr(_importlib.import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib import metadata

        return metadata.version("speaq")
    raise AttributeError(f"module 'speaq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__") or not name.startswith("_"))})
