"""The JSON files of a run folder, checked when they are read: a folder can come from elsewhere.

`result.json` says how the run ended, `data.json` on what it was trained, `predicates.json` the recalls by predicate of
its kept checkpoint as training counted them, `evaluation.json` what `speaq evaluate RUN --json` printed of it. Fields
that a later version adds are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from speaq.config import ConfigError, first_reason
from speaq.files import foreign

RESULT, DATA, PREDICATES, EVALUATION = "result.json", "data.json", "predicates.json", "evaluation.json"

Step = Annotated[int, Field(ge=0, lt=2**63)]
Metrics = dict[str, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Best(_Part):
    step: Step
    metrics: Metrics


class _Result(_Part):
    status: str = ""
    step: Step = 0
    protocol: str | None = None
    metrics: Metrics = {}
    best: _Best | None = None
    versions: dict[str, str | None] = {}


class _Data(_Part):
    directory: str = ""
    digest: str | None = None
    task: str = ""


class _Report(_Part):
    predicates: list[dict[str, str | int | float | None]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> _Report:
        for row in self.predicates:
            if not isinstance(row.get("predicate"), str) or not isinstance(row.get("images"), int):
                raise ValueError("a row has predicate, a text, and images, a whole number")
            recalls = _recalls(row)
            if not recalls or not all(foreign.whole_number(name[2:]) for name in recalls):
                raise ValueError("a row has recalls, R@K")
            if any(isinstance(row[name], str) for name in recalls) or recalls != _recalls(self.predicates[0]):
                raise ValueError("all rows have the same recalls, numbers")
        return self


def _recalls(row: dict[str, Any]) -> list[str]:
    return [name for name in row if name.startswith("R@")]


class _Evaluation(_Part):
    step: Step
    split: str
    images: int | None = None
    protocol: str | None
    report: _Report


_KINDS: dict[str, type[_Part]] = {RESULT: _Result, DATA: _Data, PREDICATES: _Evaluation, EVALUATION: _Evaluation}


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is no such file. Raises ConfigError where the file is something else."""
    try:
        content = foreign.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object is expected, not {type(content).__name__}")
    return content


def read(path: Path) -> dict[str, Any] | None:
    """The content of one of the three files, None where there is none.

    Raises ConfigError in one line, which names file, field and rule, where it is something else.
    """
    content = read_object(path)
    if content is None:
        return None
    try:
        _KINDS[path.name].model_validate(content)
    except ValidationError as error:
        what = first_reason(error)
        if path.name == EVALUATION:
            what = f"is not what `speaq evaluate {path.parent} --json` prints ({what})"
        raise ConfigError(f"{path}: {what}") from error
    return content
