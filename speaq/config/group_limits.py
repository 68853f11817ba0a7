"""How many predicate groups a data set can carry: asked before a search, without PyTorch."""

from __future__ import annotations

from speaq.files.plain_yaml import ConfigError


def check_number(num_groups: int, num_predicates: int) -> None:
    """Raises ConfigError unless every group can have a predicate."""
    if not 1 <= num_groups <= num_predicates:
        raise ConfigError(
            f"matching.num_groups {num_groups} is not in 1 … {num_predicates}: a group has at least one of the data's "
            f"predicates; set it to at most {num_predicates}, or to 1 for no groups"
        )
