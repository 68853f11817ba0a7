"""What the commands use of `launch`, imported when it is asked for: --help needs none of it.

`launch` is a folder of a checkout, beside `speaq`; an installed speaq holds it inside, as `speaq.launch`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

HOME = "speaq.launch" if find_spec("speaq.launch") else "launch"

if TYPE_CHECKING:
    from launch.cluster import checks as checks
    from launch.jobs import cache as cache
    from launch.jobs import calibrate as calibrate
    from launch.jobs import confirm as confirm
    from launch.jobs import demo as demo
    from launch.jobs import predictions as predictions
    from launch.jobs import proxy as proxy
    from launch.jobs import reproduce as reproduce
    from launch.jobs import rerun as rerun
    from launch.jobs import stages as stages
    from launch.jobs import tune as tune
    from launch.report import export as export
    from launch.report import page as page
    from launch.store import workspace as workspace
    from launch.store.workspace import Opened as Opened
    from launch.store.workspace import Workspace as Workspace
    from launch.trials import place as place
    from launch.trials import worker as worker
else:
    _JOBS = ("cache", "calibrate", "confirm", "demo", "predictions", "reproduce", "rerun", "stages", "tune")
    _PLACES = {
        **dict.fromkeys(_JOBS, "jobs"),
        "checks": "cluster",
        **dict.fromkeys(("export", "page"), "report"),
        "workspace": "store",
        **dict.fromkeys(("Opened", "Workspace"), "store.workspace"),
        **dict.fromkeys(("place", "worker"), "trials"),
    }

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(__import__(f"{HOME}.{_PLACES[name]}", fromlist=[name]), name)
