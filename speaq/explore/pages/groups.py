"""The group lab: groups, queries and their load for settings in the address, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from starlette.requests import Request
from starlette.responses import Response

from speaq.config import Config, ConfigError, apply, load, short
from speaq.config.sections import Counts, DataConfig
from speaq.data.records import Split
from speaq.data.statistics import predicate_count
from speaq.explore.context import Context, Page, Routes
from speaq.explore.view import View
from speaq.files.foreign import whole_number
from speaq.matching.groups import Rule
from speaq.structures import IntArray

if TYPE_CHECKING:
    from speaq.analysis.group_lab import Group  # with PyTorch, which takes seconds

CHOICES = {"rule": ("Rule", get_args(Rule)), "counts": ("Frequencies", get_args(Counts))}  # field → label, its values
NUMBERS = {"g": "matching.num_groups", "q": "model.num_queries", "m": "model.query_multiple"}  # field → config key


def routes(context: Context) -> Routes:
    """The form with its groups."""

    @lru_cache(maxsize=8)
    def counted(images: DataConfig) -> tuple[Split, IntArray]:
        split = context.data.split("train", images)
        return split, predicate_count(split, context.data.num_predicates)

    def lab(request: Request) -> Response:
        from speaq.analysis.group_lab import group_lab

        base = _base(context.view(request))
        fields = {**_fields(base), **{name: request.query_params[name] for name in request.query_params}}
        made: list[Group] = []
        error = ""
        try:
            config = _config(base, fields)
            split, counts = counted(config.data)
            made = group_lab(split, counts, context.data.vocabulary.predicates, config)
        except ConfigError as wrong:
            error = str(wrong)
        values = {"groups": made, "error": error, "fields": fields, "choices": CHOICES, "bars": _bars(made)}
        return context.render(request, "groups.html", values)

    return {"/groups": lab}


def _base(view: View) -> Config:
    """The run's setting; of a data set alone the published one over all its train rows."""
    from speaq.analysis.group_lab import usual

    return usual() if view.run is None else load(view.run / "config.yaml")


def _fields(base: Config) -> dict[str, str]:
    matching, model = base.matching, base.model
    return {
        "g": str(matching.num_groups),
        "q": str(model.num_queries),
        "m": str(model.query_multiple),
        "rule": matching.group_rule,
        "counts": matching.group_counts,
        "own": matching.groups or "",
    }


def _config(base: Config, fields: Mapping[str, str]) -> Config:
    """Raises ConfigError where the fields are no setting. Groups of one's own need no number and no rule."""
    changes: dict[str, Any] = {
        "matching.max_repeats": 1,
        "matching.group_counts": fields["counts"],
        "model.multiply_queries": "relation",
    }
    for name, key in NUMBERS.items():
        changes[key] = whole_number(fields[name].strip())
        if changes[key] is None:
            raise ConfigError(f"{key}: is a whole number, not {short(repr(fields[name]))}")
    own = fields["own"].strip()
    if own.endswith((".yaml", ".yml")):  # a page opens no files
        raise ConfigError("matching.groups: write the groups themselves here, not the name of a file")
    if "*" in own:  # aliases can make a short text huge
        raise ConfigError("matching.groups: YAML's aliases (*) are not read here")
    if own:
        usual = Config().matching
        groups = {"groups": own, "num_groups": usual.num_groups, "group_rule": usual.group_rule}
        return apply(base, {**changes, **{f"matching.{name}": value for name, value in groups.items()}}, "groups")
    return apply(base, {**changes, "matching.groups": None, "matching.group_rule": fields["rule"]}, "groups")


def _bars(made: Sequence[Group]) -> list[tuple[float, float, float]]:
    """Lengths in [0, 100] for every group: share of the relations, of the queries, and targets per query."""
    queries = max(sum(group.relation_queries for group in made), 1)
    busiest = max((group.load.targets_per_query for group in made), default=0.0) or 1.0
    return [
        (
            100 * group.share,
            100 * group.relation_queries / queries,
            100 * group.load.targets_per_query / busiest,
        )
        for group in made
    ]


PAGE = Page("Groups", "/groups", routes)
