"""The evidence for SCoRe on small models: docs/evidence/score.md.

    python tools/evidence_score.py collect NAME=RUN_FOLDER ...  # of SmolLM2: benchmarks/results/smollm2-score.json
    python tools/evidence_score.py page                         # the page and its plot, from the results alone

The lab model's results are made by `python -m benchmarks.lab.run --family score --seeds 0-4`. `collect` keeps what the
file has under other names.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from score_evidence.page import RESULTS, SMOLLM2_FILE, load, write_page
from score_evidence.smollm2 import collect, named_folders, write_results

from selfimprove.errors import SelfImproveError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results are (benchmarks/results)")
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help=f"write {SMOLLM2_FILE} from runs on SmolLM2")
    collecting.add_argument("runs", nargs="+", metavar="NAME=RUN_FOLDER")
    paging = commands.add_parser("page", help="write score.md and its plot from the results")
    paging.add_argument("--docs", type=Path, default=DOCS, help="where score.md and score/ are (docs/evidence)")
    given = parser.parse_args(arguments)
    try:
        if given.command == "collect":
            file = given.results / SMOLLM2_FILE
            before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            results = collect(named_folders(given.runs), before)
            write_results(file, results)
            print(f"{file}: {', '.join(results['runs'])}")
        else:
            print(write_page(given.docs, load(given.results)))
    except SelfImproveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
