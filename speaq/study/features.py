"""The stored features that a search with a ladder begins on: from the config into the search, and judged before it."""

from __future__ import annotations

from pathlib import Path

from speaq.config import Config, ConfigError
from speaq.config.before_encoder import from_features, in_full
from speaq.space import Space
from speaq.study.plan import with_settings
from speaq.training import origins


def with_features(space: Space, config: Config) -> tuple[Space, Config]:
    """With a ladder, the features are the search's, and the config is that of its top rung: training in full.

    Raises ConfigError where a ladder lacks features, or has no use for them.
    """
    given, search = space.base(config).training.features, space.search
    if not search.ladder:
        return space, config
    if not search.uses_features:
        if given is not None:
            raise ConfigError(f"training.features: {given}: no rung of search.ladder is of features; leave it out")
        return space, config
    if given is not None and search.features is not None and Path(given).resolve() != Path(search.features).resolve():
        raise ConfigError(f"search.features: {search.features}, but training.features: {given}; give one of them")
    named = given or search.features
    if named is None:
        raise ConfigError(
            "search.ladder: has rungs from features, and no features are given: speaq cache makes them, --set "
            "training.features=FOLDER names them"
        )
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise ConfigError(f"training.features: {folder} does not exist")
    fixed = {key: value for key, value in space.fixed.items() if key not in ("training.features", "model.frozen")}
    space = with_settings(space, features=str(folder)).model_copy(update={"fixed": fixed})
    return space, in_full(config)


def check_features(base: Config, folder: str | None, data: Path) -> None:
    """Before any trial: features, where there are any, are what the start of a study would make of its data.

    Raises ConfigError, DataError.
    """
    if folder is None:
        return
    from speaq.training.stored_features import check_folder  # with torch

    config = from_features(base, folder)
    origins.check_frozen(config)
    check_folder(config, data)
