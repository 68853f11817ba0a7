"""`python tests/helpers/strange_place.py`, from anywhere: what Ray's workers import, who may write in its folders."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any


def look() -> dict[str, Any]:
    import h5py

    import launch
    import speaq

    return {"imported": [str(module.__path__[0]) for module in (h5py, launch, speaq)], "path": list(os.sys.path)}  # type: ignore[attr-defined]


def main() -> None:
    import ray  # noqa: TID251

    from launch.cluster.connection import connected
    from speaq.prediction.picture import draw  # noqa: F401  # with matplotlib

    with connected():
        found = ray.get(ray.remote(look).remote())
        sockets = [Path(node["ObjectStoreSocketName"]) for node in ray.nodes()]  # type: ignore[no-untyped-call]
        modes = {str(folder): folder.stat().st_mode & 0o777 for folder in sockets[0].parents}
    print(json.dumps({**found, "modes": modes, "home": str(Path.home()), "user": getpass.getuser()}))


if __name__ == "__main__":
    main()
