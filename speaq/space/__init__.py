"""A search space: dotted config keys, their ranges and conditions."""

from speaq.space.space import (
    GROUPS,
    LOSSES,
    MOST_TRIALS,
    SearchConfig,
    Space,
    Values,
    check_trials,
    from_dict,
    load,
    to_dict,
)

__all__ = [
    "GROUPS",
    "LOSSES",
    "MOST_TRIALS",
    "SearchConfig",
    "Space",
    "Values",
    "check_trials",
    "from_dict",
    "load",
    "to_dict",
]
