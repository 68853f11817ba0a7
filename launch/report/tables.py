"""The report's tables that need more than the ledger: predicate groups, and what `speaq confirm` found."""

from __future__ import annotations

from speaq import config as configs
from speaq.config import Config
from speaq.data import DataError
from speaq.data.statistics import predicate_count
from speaq.data.visual_genome import VisualGenome, open_data
from speaq.matching.groups import PredicateGroups, groups_for
from speaq.runs import files
from speaq.structures import IntArray
from speaq.study import results
from speaq.study.board import Board, as_trained
from speaq.study.ledger import Entry
from speaq.study.snapshot import Snapshot

from . import html

BEST = 3  # trials whose groups are shown, beside the published setting's


def groups(snapshot: Snapshot, board: Board) -> list[str]:
    """Which predicates share which queries in the best trials."""
    parts: dict[PredicateGroups | None, list[str]] = {}  # trials with the same groups are shown once
    try:
        vg = open_data(snapshot.study.data, need_images=False)
        for entry in board.top(BEST):
            config = configs.apply(board.plan.base, entry.overrides)
            counts = predicate_count(vg.split("train", config.data), vg.num_predicates)
            found = groups_for(config, counts, vg.vocabulary.predicates)
            if found not in parts:
                parts[found] = _groups(vg, entry, config, counts, found)
    except DataError as error:
        return [html.text(f"The data cannot be read any more, so predicates cannot be counted: {error}")]
    return [part for some in parts.values() for part in some]


def _groups(
    vg: VisualGenome, entry: Entry, config: Config, counts: IntArray, found: PredicateGroups | None
) -> list[str]:
    name = f"Trial {entry.id}{f' ({entry.label})' if entry.label else ''}"
    if found is None:
        return [html.text(f"{name}: one group, all predicates share all queries.")]
    queries = [number * config.model.query_multiple for number in found.queries]
    total = max(int(counts.sum()), 1)
    rows = [
        [g + 1, queries[g], f"{counts[list(members)].sum() / total:.0%}", _names(vg, members)]
        for g, members in enumerate(found.predicates)
    ]
    about = html.text(f"{name}: {len(queries)} groups of {sum(queries)} relation queries.")
    return [about, html.table(["group", "relation queries", "of the relations", "predicates"], rows)]


def _names(vg: VisualGenome, members: tuple[int, ...]) -> str:
    return ", ".join(vg.vocabulary.predicates[p] for p in members)


def decodings(board: Board) -> list[str]:
    """What training gave and what decoding gave of each finished trial, the best first, on the same images."""
    names, rows = board.plan.objective, []
    for entry in results.ranked(board.finished, names):
        if (found := entry.decoding) is None:
            continue
        values = [(found.trained.get(name) or 0.0, entry.metrics.get(name) or 0.0) for name in names]
        numbers = [number for trained, decoded in values for number in (trained, decoded, decoded - trained)]
        rows.append([entry.id, entry.remark, *numbers, found.text, found.tried, found.seconds])
    columns = [column for name in names for column in (as_trained(name), name, "gain")]
    header = ["trial", "", *columns, "best decoding", "decodings tried", "s"]
    about = "All numbers are of the images on which no decoding was chosen. A curve is a trial's front of decodings."
    return [html.text(about), html.table(header, rows)]


def confirmed(snapshot: Snapshot) -> list[str]:
    """The leader board of `speaq confirm`, with its intervals."""
    content = files.read_object(snapshot.folder / results.CONFIRMATION)
    if content is None or not content["images"]:
        return [
            html.text("Not done yet: intervals need runs that were not chosen by their own result (speaq confirm).")
        ]
    header = ["trial", "", "in the search", "seeds", "mean", "low", "high", "over the published setting", "ended"]
    rows, classes = [], []
    for one in content["settings"]:
        mean, over = one["mean"] or {}, one["over_published"]
        ended = one["failure"] or ("" if one["left_after_seed"] is None else f"behind, seed {one['left_after_seed']}")
        numbers = [mean.get(key) for key in ("value", "low", "high")]
        text = "" if over is None else results.points(over, results.metric_name(snapshot.plan.objective))
        rows.append([one["trial"], one["label"] or "", one["search"], len(one["seeds"]), *numbers, text, ended])
        classes.append(f"{one['label'] or ''} {'best' if one['trial'] == content['leader'] else ''}")
    parts = [html.table(header, rows, classes)]
    metric = results.metric_name(snapshot.plan.objective)
    about = f"{metric}, {content['images']} images of val, 95 % intervals over seeds and images."
    if optimism := content["optimism"]:
        about += (
            f" The best of {content['trials']} trials promised {optimism['value']:+.4f} over its mean with new seeds."
        )
    return [html.text(about), *parts]
