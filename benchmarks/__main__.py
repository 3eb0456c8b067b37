"""`make bench`: prints a table, or with --json the same as data. Only ratios within one run say something."""

import argparse
import json
import sys
from collections.abc import Callable

from benchmarks.desk import pairs_per_second

BENCHMARKS: dict[str, tuple[Callable[[], float], str]] = {
    "desk": (
        pairs_per_second,
        "reserve + settle pairs a second, 4 accounts with 5 caps and rate limits (at least 50,000)",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="which ones (default: all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = {name: BENCHMARKS[name][0]() for name in options.names or BENCHMARKS}
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        for name, figure in figures.items():
            sys.stdout.write(f"{name:<12} {figure:>12,.0f}   {BENCHMARKS[name][1]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
