"""What study.yaml may hold: it can come from elsewhere, and decides what is read, run and shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speaq.config import ConfigError, first_reason
from speaq.space import MOST_TRIALS
from speaq.space.parameters import Plain


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Photos(_Part):
    times: str
    contents: str


class _Data(_Part):
    directory: str
    digest: str
    photos: _Photos | None = None  # studies from before they were looked at have none
    zero_shot: str | None = None


class _Storage(_Part):
    url: str
    study: str


class _Forced(_Part):
    at: str
    changes: list[str]


class _Taken(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")

    trial: str
    values: dict[str, Plain]


class _Source(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    data: str
    objective: list[str] = Field(min_length=1, max_length=2)
    trials: int = Field(ge=1)
    left_out: dict[str, int]
    moved: dict[str, int]
    dropped: list[str]
    points: list[_Taken]
    centres: list[dict[str, Plain]] = Field(min_length=1)


class _File(_Part):
    objective: list[str] = Field(min_length=1, max_length=2)
    trials: int = Field(ge=1, le=MOST_TRIALS)
    data: _Data
    start: str | None = None  # where the start has moved to
    start_digest: str | None
    versions: dict[str, str]
    train: str
    storage: _Storage | None = None  # studies from before there was one have none
    forced: list[_Forced] = []
    sources: list[_Source] = []  # studies from before there were any have none
    space: dict[str, Any]
    search: dict[str, Any]
    references: dict[str, dict[str, Any]]
    config: dict[str, Any]


def check(content: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError, in one line, where a field is missing or of another kind."""
    try:
        _File.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: not a study.yaml of speaq ({first_reason(error)})") from error
