"""`python -m tests.bench.table make FOLDER | simulate [--seeds N] | tau`: searches are judged without trainings.

`make` trains the settings that the table lacks, in FOLDER, and can be interrupted; `simulate` replays searches on
them; `tau` says how trainings from stored features, and shorter ones, rank them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.bench.table import table
from tests.bench.table.make import OtherTable, make
from tests.bench.table.simulate import RULES, Row, simulate
from tests.bench.table.tau import taus
from tests.bench.table.world import TABLE


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=table.FILE, help="the table's file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="train the settings of the table")
    making.add_argument("folder", type=Path, help="keeps data, detector and studies")
    making.add_argument("--settings", type=int, default=150, help="besides the references (default: %(default)s)")
    making.add_argument("--seeds", type=int, default=2, help="trainings of each (default: %(default)s)")
    playing = commands.add_parser("simulate", help="play searches on the table")
    playing.add_argument("--seeds", type=int, default=200, help="of each search (default: %(default)s)")
    playing.add_argument("--workers", type=int, default=1, help="trials at once (default: %(default)s)")
    playing.add_argument(
        "--features-cost",
        type=float,
        help="of a training from features, where a full one costs 1 (default: as the table measured)",
    )
    playing.add_argument("--only", default="", help="searches whose name holds this")
    ranking = commands.add_parser("tau", help="how cheaper trainings rank the settings")
    for command in (playing, ranking):
        command.add_argument("--json", type=Path, help="write the rows there too")
    return parser


def main() -> None:
    """Makes the table, or plays searches on it."""
    given = parser().parse_args()
    if given.command == "make":
        try:
            make(given.folder, TABLE, given.settings, given.seeds, given.table)
        except OtherTable as error:
            parser().error(str(error))
        return
    if not given.table.is_file():
        parser().error(f"{given.table}: there is no table; python -m tests.bench.table make FOLDER trains one")
    if given.command == "tau":
        ranks = list(taus(table.load(given.table)))
        for row in ranks:
            print("{name:36} {share:5} {what:20} {value:7.3f} [{low:.3f}, {high:.3f}]".format(**row))
        if given.json:
            given.json.write_text(json.dumps(ranks, indent=1))
        return
    rules = [rule for rule in RULES if given.only in rule.name]
    rows: list[Row] = []
    for row in simulate(rules, given.seeds, given.workers, given.table, features_cost=given.features_cost):
        rows.append(row)
        print(
            "{name:44} {what:22} {cost:5} {value:8.4f} [{low:.4f}, {high:.4f}]".format(**row),
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
