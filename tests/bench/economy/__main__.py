"""What searching costs: `python -m tests.bench.economy FOLDER [--only steps|searches] [--seeds 5] [--json FILE]`.

`steps`: CPU seconds of a training step and of an evaluated picture in the narrow world: in full, with backbone and
encoder frozen, and from stored features. They take turns, so that each round gives ratios of its own; intervals are
over the rounds. `searches`: whole searches, what they cost and find; intervals are over seeds and test pictures.
FOLDER keeps world, detector, features and searches; what is found there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.economy import searches, steps
from tests.bench.economy.searches import Bench
from tests.bench.economy.steps import Row

KINDS = ("steps", "searches")


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps world, detector, features and searches")
    parser.add_argument("--only", choices=KINDS, help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="in which kinds of steps take turns (default: 5)")
    parser.add_argument("--seeds", type=int, default=5, help="of the searches (default: 5)")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    return parser


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    if given.only != "searches":
        yield from steps.rows(given.folder, given.rounds)
    if given.only != "steps":
        bench, seeds = Bench(given.folder.resolve()), range(given.seeds)
        for said in searches.run(bench, seeds):
            print(said, flush=True)
        yield from searches.rows(bench, seeds)


def main() -> None:
    """Measures and prints."""
    given = parser().parse_args()
    torch.set_num_threads(1)
    found = []
    for row in _rows(given):
        found.append(row)
        value = "not measured" if row["value"] is None else "{value:8.4f} [{low:.4f}, {high:.4f}]".format(**row)
        print(f"{row['what']:42} {row['kind']:30} {value}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
