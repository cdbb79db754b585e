"""The evidence for Self-J on SmolLM2-135M: docs/evidence/self_judge.md.

    python tools/evidence_self_judge.py runs                           # trains and measures all judges, resumable
    python tools/evidence_self_judge.py collect KIND-SEED=FOLDER ...   # benchmarks/results/self-judge.json: raw values
    python tools/evidence_self_judge.py page                           # the page and its plots, from the results alone

`runs` needs the judged model first: `selfimprove run smollm2-135m/sft-lora`. `collect` keeps what the file has of other
runs, and its list `used` of {"title", "text"}, which is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from score_evidence.smollm2 import write_results
from self_judge_evidence.collect import collect, named_runs
from self_judge_evidence.page import RESULTS, load, write_page
from self_judge_evidence.runs import run_all

from selfimprove.errors import SelfImproveError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"the file of results (default: {RESULTS.name})")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("runs", help="run all judges, or go on with them")
    running.add_argument("--folder", type=Path, default=Path("runs/self-judge"), help="default: runs/self-judge")
    running.add_argument("--only", default="*", help="names of runs, such as 'self-j-*' (default: all)")
    collecting = commands.add_parser("collect", help="write the results from finished runs")
    collecting.add_argument("runs", nargs="+", metavar="KIND-SEED=FOLDER")
    paging = commands.add_parser("page", help="write self_judge.md and its plots from the results")
    paging.add_argument("--docs", type=Path, default=DOCS, help="where self_judge.md and self_judge/ are")
    given = parser.parse_args(arguments)
    try:
        if given.command == "runs":
            return 1 if run_all(given.folder, given.only) else 0
        if given.command == "collect":
            before = json.loads(given.results.read_text(encoding="utf-8")) if given.results.is_file() else None
            results = collect(named_runs(given.runs), before)
            write_results(given.results, results)
            print(f"{given.results}: " + ", ".join(f"{kind} {len(seeds)}" for kind, seeds in results["runs"].items()))
        else:
            print(write_page(given.docs, load(given.results)))
    except SelfImproveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
