"""What the search of a finished trial's decoding came to (`search.decoding`), as ledgers and trials keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from speaq.config import first_reason
from speaq.space.checks import INFERENCE
from speaq.space.parameters import Plain

MOST_POINTS = 64  # of a curve
AS_TRAINED = "as trained"
Number = Annotated[float, Field(ge=0, le=1)] | None
Values = dict[str, Number]  # metric → value in [0, 1], None where it is not defined


class Decoding(BaseModel):
    """The best decoding of a trial's kept checkpoint: found on some images of val, judged on the others."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    found: dict[str, Plain] = Field(description="inference.* keys in which it differs from the trial's config")
    trained: Values = Field(description="metrics of the same checkpoint decoded as it was trained, on the same images")
    curve: list[Values] = Field([], max_length=MOST_POINTS, description="its front of decodings, on the same images")
    tried: int = Field(ge=1, le=10**6, description="decodings that were tried, the trained one included")
    searched: int = Field(ge=1, lt=2**53, description="images on which it was found")
    judged: int = Field(ge=1, lt=2**53, description="images on which it was judged")
    seconds: float = Field(ge=0, le=1e10, description="that finding it took")

    @field_validator("found")
    @classmethod
    def _check_found(cls, found: dict[str, Plain]) -> dict[str, Plain]:
        for key in found:
            if not key.startswith(INFERENCE):
                raise ValueError(f"{key!r} is no key of the inference section")
        return found

    @property
    def text(self) -> str:
        """`nms_threshold=0.7 logit_adjustment=0.35`; `as trained` where nothing better was found."""
        return " ".join(f"{k.removeprefix(INFERENCE)}={_plain(v)}" for k, v in self.found.items()) or AS_TRAINED


def _plain(value: Plain) -> str:
    return "null" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def decoding_of(content: Mapping[str, Any] | None) -> Decoding | None:
    """What a row of a ledger says; None without. Raises ValueError, in one line, where it is something else."""
    if content is None:
        return None
    try:
        return Decoding.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"decoding: {first_reason(error)}") from error
