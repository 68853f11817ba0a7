"""Where the data set and the start of a run or search are now: known by their digests, not by the paths they had.

A path that is gone is looked for where it is if the folder that holds all of it was moved or renamed: the ends of the
old path, from every folder above the run. What is found there is believed only where its digest is the one noted.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

from speaq.config import Config, ConfigError, apply, defaults, flatten, to_dict
from speaq.files.foreign import read_json
from speaq.files.regular import sha256
from speaq.training import folder as run_folder

STARTS = ("training.init_from", "training.backbone_from")
_OF_START = ("training.init_", "training.backbone_from")  # how keys begin that decide what a run begins from


def find(known: Path, home: Path, is_it: Callable[[Path], bool]) -> Path | None:
    """`known` where it exists, else what lies there now that `home`, the folder of a run or search, has moved too.

    Args:
        is_it: whether a path that exists holds what is looked for.
    """
    if known.exists():
        return known
    return next((path for path in _moved(known, home) if is_it(path)), None)


def _moved(known: Path, home: Path) -> Iterator[Path]:
    """Paths that exist, from the folder nearest to `home` on and the longest end of the old path first."""
    parts = [part for part in known.parts if part not in (known.anchor, "..")]
    for above in home.resolve().parents:
        for first in range(len(parts)):
            path = above.joinpath(*parts[first:])
            if path.exists():
                yield path


def data_directory(run: Path, data: Path | None) -> Path:
    """The data folder given, or the one that the run's data.json names, wherever it has moved with the run.

    Raises ConfigError where there is neither.
    """
    if data is not None:
        return data
    record = run / "data.json"
    try:
        content = read_json(record)
        directory, digest = Path(content["directory"]), content.get("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{record}: does not say where the data is; give --data") from error
    return find_data(directory, digest, run)


def run_data(output: Path, data: Path | None, *, resume: bool) -> Path:
    """The data folder to train on: given, or of a run that goes on, found again. Raises ConfigError."""
    if data is None and not resume:
        raise ConfigError("missing --data, the folder with the four files of the data set")
    return data_directory(output, data)


def check_resumable(output: Path) -> None:
    """Raises ConfigError unless a run was begun in `output`: a name that was mistyped must not begin another one."""
    if not (output / "config.yaml").exists() and not run_folder.has_checkpoint(output):
        near = near_names(output, "config.yaml")
        raise ConfigError(f"--resume: {output} holds no run{near}; to begin one, leave --resume out")


def near_names(folder: Path, mark: str) -> str:
    """` (nearest: a, b)`: folders of like names beside one that is not there, which hold `mark`; empty without one."""
    beside = {path.parent.name: path.parent for path in folder.resolve().parent.glob(f"*/{mark}")}
    close = difflib.get_close_matches(folder.resolve().name, list(beside))
    return f" (nearest: {', '.join(str(folder.parent / name) for name in close)})" if close else ""


def find_data(known: Path, digest: object, home: Path) -> Path:
    """The data set of this digest. Raises ConfigError where it is neither at its old path nor beside `home`."""
    found = find(known, home, lambda path: _is_data(path, digest))
    if found is None:
        raise ConfigError(f"{home}: its data are no longer at {known}; give --data")
    return found


def _is_data(path: Path, digest: object) -> bool:
    from speaq.data import DataError
    from speaq.data.visual_genome import open_data

    try:
        return open_data(path, need_images=False, log=lambda line: None).digest == digest
    except DataError:
        return False


def find_features(known: Path, home: Path, data_digest: object) -> Path:
    """Where stored features are now; as known where they are gone: who needs them says so."""
    return find(known, home, lambda path: _are_features(path, data_digest)) or known


def _are_features(path: Path, data_digest: object) -> bool:
    from speaq.data import DataError
    from speaq.data.features import read_header  # with torch

    try:
        return read_header(path).data == data_digest
    except DataError:
        return False


def with_features_at(config: Config, path: Path) -> Config:
    """The config with its stored features at a path."""
    return apply(config, {"training.features": str(path)}, "training.features")


def start(config: Config) -> tuple[str, Path] | None:
    """The key of the config that names the weights to start from, and their path; None for random weights."""
    values = flatten(to_dict(config))
    return next(((key, Path(values[key])) for key in STARTS if values[key] is not None), None)


def check_frozen(config: Config) -> None:
    """Raises ConfigError where a part that is never trained would keep random weights."""
    key = (start(config) or ("", None))[0]
    lacking = config.model.frozen if not key else config.model.frozen[1:] if key == STARTS[1] else ()
    if lacking:
        raise ConfigError(
            f"model.frozen: {lacking[0]} would stay at random weights; give it some by training.init_from, or leave it "
            "out"
        )


def start_digest(config: Config) -> str | None:
    """SHA-256 of the file whose weights a run starts from, None for random weights. Raises ConfigError."""
    named = start(config)
    if named is None:
        return None
    key, path = named
    try:
        return sha256(run_folder.find(path))
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); give --init-from") from error


def with_start(config: Config, path: Path) -> Config:
    """The config with its start at another path; one that has none starts from this run or checkpoint of ours."""
    key, _ = start(config) or (STARTS[0], None)
    return apply(config, {key: str(path)}, "--init-from")


def without_start(config: Config) -> Config:
    """The config of a run that begins from random weights."""
    return apply(config, {key: value for key, value in defaults().items() if key.startswith(_OF_START)})


def is_of_start(key: str) -> bool:
    """Whether a key of a config matters only to a run that has no checkpoint of its own yet."""
    return key.startswith(_OF_START)


def with_found_start(config: Config, home: Path, digest: str | None) -> Config | None:
    """The config with its start where that is now; None where it is gone.

    Args:
        home: folder of the run or search.
        digest: of the start, as it was noted when the run or search began; None: not noted.
    """
    named = start(config)
    if named is None:
        return config
    found = find(named[1], home, lambda path: has_digest(path, digest))
    if found is None:
        return None
    return config if found == named[1] else with_start(config, found)


def has_digest(path: Path, digest: str | None) -> bool:
    """Whether a file, or the best checkpoint of a run folder, is that of a digest (of which the begin may be known)."""
    try:
        return digest is not None and sha256(run_folder.find(path)).startswith(digest)
    except (OSError, ConfigError):
        return False


def missing_start(config: Config, home: Path) -> ConfigError:
    """What to say where the start is gone and cannot be done without."""
    key, path = start(config) or STARTS
    return ConfigError(f"{home}: {key}: {path} is not there; give --init-from with the place where it is now")


def noted_start(run: Path) -> str | None:
    """The digest of a run's start as its data.json notes it; None where it notes none."""
    return _noted(run, "start_digest")


def _noted(run: Path, name: str) -> str | None:
    try:
        digest = read_json(run / "data.json").get(name)
    except (OSError, ValueError, AttributeError):
        return None
    return digest if isinstance(digest, str) else None


def with_found_features(config: Config, run: Path) -> Config:
    """The config of a run with its stored features where they are now, see `find_features`."""
    if (known := config.training.features) is None:
        return config
    found = find_features(Path(known), run, _noted(run, "digest"))
    return config if found == Path(known) else with_features_at(config, found)


def placed(config: Config, output: Path) -> Config:
    """For a run that begins or goes on in `output`: the config with its start and its features where they are now.

    A run that has a checkpoint does not need it: there the config keeps a path that leads nowhere.

    Raises ConfigError where a run that has not come to its first checkpoint is started again, and its start is gone.
    """
    digest, config = noted_start(output), with_found_features(config, output)
    found = with_found_start(config, output, digest)
    if found is None and digest is not None and not run_folder.has_checkpoint(output):
        raise missing_start(config, output)
    return found or config
