"""Draws the figures of the method page from the library's own computations: .venv/bin/python docs/figures.py FOLDER

Letters as in speaq.matching.match: Q subject queries, m query multiple, R = Q m relation queries, K most repeats.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from speaq.config import MatchingConfig
from speaq.matching.cost import compare
from speaq.matching.groups import VISUAL_GENOME_COUNTS, PredicateGroups, make_groups
from speaq.matching.match import match
from speaq.matching.repeats import quality, relation_repeats
from speaq.matching.rows import relation_queries, relation_truth
from speaq.structures import LayerOutputs, Target
from speaq.targets import join

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind readers too
NUM_QUERIES, MULTIPLE = 12, 2
COUNTS = (60, 30, 14, 8, 4, 2)  # of six predicates


def scene() -> tuple[LayerOutputs, Target]:
    """Four relations and 24 relation queries, some of which have found one of the relations, more or less well."""
    random = torch.Generator().manual_seed(2)
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.7, 0.3, 0.3, 0.4], [0.3, 0.7, 0.4, 0.3], [0.7, 0.7, 0.2, 0.3]])
    relations = torch.tensor([[0, 1, 0], [1, 3, 0], [2, 3, 2], [0, 2, 4]])
    spans = torch.cat(
        (
            (boxes[relations[:, 0], :2] + boxes[relations[:, 1], :2]) / 2,
            (boxes[relations[:, 0], :2] - boxes[relations[:, 1], :2]).abs().clamp(min=0.05),
        ),
        dim=1,
    )
    target = Target(torch.arange(4), boxes, relations, spans)
    found = torch.arange(NUM_QUERIES * MULTIPLE) % 4  # the relation that a query is near
    noise = torch.rand(len(found), 1, generator=random) * 0.3
    logits = [torch.nn.functional.one_hot(relations[found, end], 5).float() * 3 for end in (0, 1)]
    logits.append(torch.nn.functional.one_hot(relations[found, 2], 7).float() * 2)
    near = [boxes[relations[found, 0]], boxes[relations[found, 1]], spans[found]]
    moved = [(box + noise * (torch.rand(box.shape, generator=random) - 0.5)).clamp(0.05, 0.95) for box in near]
    return LayerOutputs(*(part[None, None] for part in (*logits, *moved))), target


def draw_groups() -> plt.Figure:
    groups = make_groups(VISUAL_GENOME_COUNTS, 4, 300)
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    position, total = 0, sum(VISUAL_GENOME_COUNTS)
    for number, (members, queries, colour) in enumerate(zip(groups.predicates, groups.queries, COLOURS, strict=True)):
        counts = [VISUAL_GENOME_COUNTS[predicate] for predicate in members]
        label = (
            f"group {number + 1}: {len(members)} predicates, {sum(counts) / total:.0%} of relations, {queries} queries"
        )
        axes.bar(range(position, position + len(counts)), counts, color=colour, label=label)
        position += len(counts)
    axes.set(yscale="log", xlabel="predicates of Visual Genome, most frequent first", ylabel="relations", xticks=[])
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_repeats() -> plt.Figure:
    outputs, target = scene()
    truth = relation_truth(join([target]))
    comparison = compare(relation_queries(outputs), truth, MatchingConfig())
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    best = quality(comparison, MatchingConfig(predicate_weight=0.0), None)[0, 0].sort(descending=True).values.tolist()
    left.bar(range(len(best)), best, color=[COLOURS[0]] * 4 + ["#BBBBBB"] * (len(best) - 4))
    left.set(
        xlabel="queries, best first", ylabel="quality (larger IoU)", xticks=[], title="one relation; the best K = 4"
    )
    for weight, colour, line in ((0.0, COLOURS[0], "-"), (-0.5, COLOURS[1], "--")):
        ks = range(1, 13)
        repeats = [
            int(relation_repeats(comparison, MatchingConfig(max_repeats=k, predicate_weight=weight), None)[0, 0])
            for k in ks
        ]
        right.step(ks, repeats, line, where="mid", color=colour, label=f"predicate weight {weight:g}")
    right.set(xlabel="K", ylabel="k, repeats of the relation", title="k = int(sum of the K best), at least 1")
    right.legend(frameon=False)
    return figure


def draw_assignment() -> plt.Figure:
    outputs, target = scene()
    comparison = compare(relation_queries(outputs), relation_truth(join([target])), MatchingConfig())
    baseline = MatchingConfig(scheme="static", max_repeats=1, num_groups=1, predicate_weight=0.0, quality=None)
    cases: list[tuple[str, MatchingConfig, PredicateGroups | None]] = [
        ("baseline: one query for each relation", baseline, None),
        ("SpeaQ: groups, and k repeats", MatchingConfig(num_groups=3), make_groups(COUNTS, 3, NUM_QUERIES)),
    ]
    figure, axes = plt.subplots(2, 1, figsize=(8, 4), layout="constrained", sharex=True)
    for axis, (title, config, groups) in zip(axes, cases, strict=True):
        assignment = match(outputs, join([target]), config, groups, MULTIPLE)
        image = axis.imshow(comparison.cost[0].numpy(), cmap="Greys_r", aspect="auto")
        query, relation = assignment.query.numpy(), assignment.relation.numpy()
        axis.scatter(query, relation, color=COLOURS[1], s=45, edgecolor="black", label="matched")
        for bound in () if groups is None else groups.bounds[1:-1]:
            axis.axvline(bound * MULTIPLE - 0.5, color=COLOURS[0], linewidth=2)
        names = [f"predicate {predicate + 1}" for predicate in target.relations[:, 2].tolist()]
        axis.set_yticks(np.arange(4), names)
        axis.set(title=title, xticks=[])
    axes[1].set_xlabel("relation queries; lines are the borders of the groups")
    figure.colorbar(image, ax=axes, label="matching cost (dark is cheap)")
    return figure


def draw_all(folder: Path) -> None:
    """Writes groups.svg, repeats.svg and assignment.svg; equal versions of matplotlib give equal files."""
    style = {"svg.hashsalt": "speaq", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(style):
        for name, draw in (("groups", draw_groups), ("repeats", draw_repeats), ("assignment", draw_assignment)):
            figure = draw()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
            plt.close(figure)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
