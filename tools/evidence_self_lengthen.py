"""The evidence for Self-Lengthen on SmolLM2-135M: docs/evidence/self_lengthen.md.

    python tools/evidence_self_lengthen.py runs                      # trains and measures all seeds, resumable
    python tools/evidence_self_lengthen.py collect SEED=FOLDER ...   # benchmarks/results/self-lengthen.json: raw values
    python tools/evidence_self_lengthen.py page                      # the page and its plots, from the results alone

`collect` keeps what the file has of other seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from score_evidence.smollm2 import write_results
from self_lengthen_evidence.collect import collect, named_runs, run_all
from self_lengthen_evidence.page import RESULTS, load, write_page

from selfimprove.errors import SelfImproveError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"the file of results (default: {RESULTS.name})")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("runs", help="run all seeds, or go on with them")
    running.add_argument("--folder", type=Path, default=Path("runs/self-lengthen"), help="default: runs/self-lengthen")
    collecting = commands.add_parser("collect", help="write the results from finished runs")
    collecting.add_argument("runs", nargs="+", metavar="SEED=FOLDER")
    paging = commands.add_parser("page", help="write self_lengthen.md and its plots from the results")
    paging.add_argument("--docs", type=Path, default=DOCS, help="where self_lengthen.md and self_lengthen/ are")
    given = parser.parse_args(arguments)
    try:
        if given.command == "runs":
            return 1 if run_all(given.folder) else 0
        if given.command == "collect":
            results = collect(named_runs(given.runs), load(given.results))
            write_results(given.results, results)
            print(f"{given.results}: seeds {', '.join(results['runs'])}")
        else:
            print(write_page(given.docs, load(given.results)))
    except SelfImproveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
