"""`python -m tests.golden DIR [--group G2] [--device cuda] [--verbose]`: compares with the reference's numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden.runner import GoldenError, run_all

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 all passed, 1 a case failed, 2 no golden set there."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder with index.json and the cases' files")
    parser.add_argument("--group", help="run one group only, such as G2")
    parser.add_argument("--device", default="cpu", help="where networks and losses compute (default: cpu)")
    parser.add_argument("--verbose", action="store_true", help="print every comparison")
    options = parser.parse_args(arguments)
    try:
        return run_all(options.directory, options.group, options.verbose, device=options.device)
    except GoldenError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
