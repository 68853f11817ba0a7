"""What a search took from an earlier one when it began: settings, never results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speaq.space import Values


@dataclass(frozen=True)
class Taken:
    """A setting of an earlier trial, as a point of the new space."""

    trial: str  # its number there
    values: Values


@dataclass(frozen=True)
class Source:
    """An earlier search, told for what it is: perhaps of other data, another space, another start.

    study.yaml holds all of it, so that a search goes on without the folder.
    """

    name: str  # of its folder
    data: str  # digest of its data set
    objective: tuple[str, ...]  # by which its trials were ranked
    trials: int  # that say something here
    left_out: Mapping[str, int]  # why → trials
    moved: Mapping[str, int]  # parameter → trials whose value was moved to the nearest in the space
    dropped: tuple[str, ...]  # what it searched and is not searched here
    points: tuple[Taken, ...]  # its best settings, the best first: tried before the sampler is asked
    centres: tuple[Values, ...]  # of its best trials: around them the prior lies

    def record(self) -> dict[str, Any]:
        """What study.yaml says of it."""
        return {
            **dataclasses.asdict(self),
            "objective": list(self.objective),
            "dropped": list(self.dropped),
            "points": [{"trial": point.trial, "values": dict(point.values)} for point in self.points],
            "centres": [dict(values) for values in self.centres],
        }

    def line(self, data: str, objective: Sequence[str]) -> str:
        """What was taken from it and what was not, in one line.

        Args:
            data: digest of the new search's data set.
            objective: of the new search.
        """
        by = " and ".join(self.objective) + ("" if self.objective == tuple(objective) else ", its own objective,")
        where = "the same data" if data == self.data else "other data"
        said = [f"{self.name}: {self.trials} trials by {by} on {where}, {len(self.points)} settings are tried first"]
        if self.left_out:
            said.append("left out: " + _counted(self.left_out))
        if self.moved:
            said.append("moved into the space: " + _counted(self.moved))
        if self.dropped:
            said.append("not searched here: " + ", ".join(self.dropped))
        return "; ".join(said)


def source_of(record: Mapping[str, Any]) -> Source:
    """`Source.record`, read again."""
    return Source(
        **{
            **record,
            "objective": tuple(record["objective"]),
            "dropped": tuple(record["dropped"]),
            "points": tuple(Taken(**point) for point in record["points"]),
            "centres": tuple(record["centres"]),
        }
    )


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{what} ({number})" for what, number in numbers.items())
