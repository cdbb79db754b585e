"""Runs methods on the lab, many seeds in one process, and collects their figures.

    python -m benchmarks.lab.run                                      # every method of family `cream`, seeds 0 to 9
    python -m benchmarks.lab.run --methods cream,srlm --seeds 0-3     # some
    python -m benchmarks.lab.run --bases-only --seeds 0-4             # bases and data alone

Each seed's base and data are made where they are missing; a finished run is not made again. Ends with
`benchmarks/results/lab-<family>.json`: raw values per method and seed.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from benchmarks.lab.collect import run_figures
from benchmarks.lab.methods import FAMILIES, lab_recipe
from benchmarks.lab.model import make_bases
from selfimprove.artefacts import digest_of
from selfimprove.errors import SelfImproveError
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe
from selfimprove.runs import execute

RESULTS = Path(__file__).resolve().parent.parent / "results"


def seeds_of(text: str) -> list[int]:
    """`0-3,7` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def make_quick() -> None:
    """A lab run takes seconds, so what protects or describes long ones is left out: files are not forced to disk, no
    report is drawn, and the libraries' million objects are not searched for garbage after every step."""
    quiet_libraries()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    os.fsync = lambda fd: None
    execute.write_report = lambda run_dir: run_dir / "report.html"


def run_one(recipe: Recipe) -> dict[str, Any]:
    """The figures of one run, read where it is finished, else made."""
    note = Path(recipe.output) / "figures.json"
    known = digest_of({**recipe.model_dump(mode="json"), "output": "", "store": "", "model": ""})
    if note.is_file() and (kept := json.loads(note.read_text(encoding="utf-8")))["recipe"] == known:
        return dict(kept["figures"])
    with redirect_stderr(io.StringIO()):  # the steps' own progress
        result = execute.run(recipe)
    rows = (Path(recipe.folder) / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {row["id"]: row["answer"] for row in map(json.loads, rows)}
    figures = run_figures(result.events, Path(recipe.store or ""), answers)
    note.write_text(json.dumps({"recipe": known, "figures": figures}), encoding="utf-8")
    return figures


def write_results(file: Path, family: str, found: dict[str, dict[str, Any]]) -> None:
    """Adds runs (by method, then seed) to a file of results; what is there of others stays."""
    before = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else {}
    methods = {name: {**before.get(name, {}), **found.get(name, {})} for name in FAMILIES[family].methods}
    runs = {name: dict(sorted(seeds.items(), key=lambda one: int(one[0]))) for name, seeds in methods.items() if seeds}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"family": family, "runs": runs}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="cream", choices=FAMILIES)
    parser.add_argument("--methods", help="names, with commas (default: all of the family)")
    parser.add_argument("--seeds", default="0-9", help="such as 0-9 or 0,3 (100 and 101 chose the settings)")
    parser.add_argument("--out", type=Path, default=Path("runs/lab"))
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/lab-<family>.json")
    parser.add_argument("--bases-only", action="store_true")
    given = parser.parse_args()
    methods = given.methods.split(",") if given.methods else list(FAMILIES[given.family].methods)
    if unknown := sorted({*methods} - {*FAMILIES[given.family].methods}):
        parser.error(f"no method {unknown[0]!r} in family {given.family}: {', '.join(FAMILIES[given.family].methods)}")
    file = given.results or RESULTS / f"lab-{given.family}.json"
    seeds = seeds_of(given.seeds)
    make_quick()
    started, made = time.monotonic(), 0
    for place, seed in enumerate(seeds):
        make_bases(given.out, [seed])
        for number, method in enumerate([] if given.bases_only else methods):
            began = time.monotonic()
            try:
                figures = run_one(lab_recipe(given.out, given.family, method, seed))
            except SelfImproveError as error:
                figures = {"stopped": str(error)}
            write_results(file, given.family, {method: {str(seed): figures}})
            made += 1
            left = (len(seeds) - place) * len(methods) - number - 1
            print(
                f"{method} {seed}: {_shown(figures)}; {time.monotonic() - began:.0f} s, "
                f"{left} runs left, about {(time.monotonic() - started) / made * left / 60:.0f} min",
                flush=True,
            )


def _shown(figures: dict[str, Any]) -> str:
    if "stopped" in figures:
        return f"stopped: {figures['stopped']}"
    first = next(iter(figures["evaluations"].values()))
    return ", ".join(f"{policy} {one['value']:.3f}" for policy, one in first.items())


if __name__ == "__main__":
    main()
