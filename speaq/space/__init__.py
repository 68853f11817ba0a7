"""A search space: dotted config keys, their ranges and conditions."""

from speaq.space.checks import LOSSES
from speaq.space.settings import MOST_TRIALS, WITHOUT_PRIOR, SearchConfig, check_trials
from speaq.space.space import GROUPS, Point, Space, Values, from_dict, load, to_dict

__all__ = [
    "GROUPS",
    "LOSSES",
    "MOST_TRIALS",
    "WITHOUT_PRIOR",
    "Point",
    "SearchConfig",
    "Space",
    "Values",
    "check_trials",
    "from_dict",
    "load",
    "to_dict",
]
