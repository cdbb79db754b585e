"""The evidence for CREAM at small scale: from runs to docs/evidence/cream.md.

    python tools/evidence_cream.py run FOLDER      # the whole matrix of 21 runs, resumable (hours on two cores)
    python tools/evidence_cream.py compare FOLDER  # how far M3 agrees with M2, for CREAM and SRLM (minutes a run)
    python tools/evidence_cream.py collect FOLDER  # docs/evidence/cream/results.json: raw values per seed
    python tools/evidence_cream.py page            # docs/evidence/cream.md and its plots, from the results alone

The lab model's results are made by `python -m benchmarks.lab.run` and `--family cream-small-step`.

`collect` takes the runs that are finished, keeps those that results.json has from other folders, and names the others.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from pathlib import Path

from cream_evidence.collect import collect, write_results
from cream_evidence.lab import load_lab
from cream_evidence.matrix import compare_last, matrix, run_matrix
from cream_evidence.page import write_page

from selfimprove.errors import SelfImproveError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "evidence"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the matrix into a folder, or go on with it")
    comparing = commands.add_parser("compare", help="compare the last two models of the finished runs in a folder")
    for command in (running, comparing):
        command.add_argument("folder", type=Path)
        command.add_argument("--only", default="*", help="names of runs, such as 'paper-beta-cream-*' (default: all)")
    collecting = commands.add_parser("collect", help="write results.json from the finished runs in a folder")
    collecting.add_argument("folder", type=Path)
    paging = commands.add_parser("page", help="write cream.md and its plots from results.json")
    for command in (collecting, paging):
        command.add_argument("--docs", type=Path, default=DOCS, help="where cream.md and cream/ are (docs/evidence)")
    given = parser.parse_args(arguments)
    try:
        if given.command in ("run", "compare"):
            cells = [cell for cell in matrix() if fnmatch.fnmatch(cell.name, given.only)]
            return 1 if (run_matrix if given.command == "run" else compare_last)(given.folder, cells) else 0
        file = given.docs / "cream" / "results.json"
        if given.command == "collect":
            before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            results = collect(given.folder, matrix(), before)
            write_results(file, results)
            print(f"{file}: {len(results['runs'])} finished runs, {len(results['missing'])} missing")
        else:
            print(write_page(given.docs, json.loads(file.read_text(encoding="utf-8")), load_lab()))
    except SelfImproveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
