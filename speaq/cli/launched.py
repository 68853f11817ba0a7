"""What the commands use of `launch`, imported when it is asked for: --help needs none of it.

`launch` is a folder of a checkout, beside `speaq`; an installed speaq holds it inside, as `speaq.launch`.
"""

from __future__ import annotations

from importlib import import_module
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
    from launch.report import series as series
    from launch.store import workspace as workspace
    from launch.store.workspace import Opened as Opened
    from launch.store.workspace import Workspace as Workspace
    from launch.trials import place as place
    from launch.trials import worker as worker
else:
    _MODULES = (
        "cluster.checks",
        "jobs.cache",
        "jobs.calibrate",
        "jobs.confirm",
        "jobs.demo",
        "jobs.predictions",
        "jobs.proxy",
        "jobs.reproduce",
        "jobs.rerun",
        "jobs.stages",
        "jobs.tune",
        "report.export",
        "report.page",
        "report.series",
        "store.workspace",
        "trials.place",
        "trials.worker",
    )
    _MODULE_OF = {module.partition(".")[2]: module for module in _MODULES}
    _CLASSES = ("Opened", "Workspace")  # of store.workspace

    def __getattr__(name: str) -> Any:
        if name in _CLASSES:
            return getattr(import_module(f"{HOME}.store.workspace"), name)
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{HOME}.{_MODULE_OF[name]}")
