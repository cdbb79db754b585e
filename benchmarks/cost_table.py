"""The table of what a round costs in docs/scaling.md, from `benchmarks/results/`: `python benchmarks/cost_table.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROWS = ("sample", "score", "train", "score after", "round")


def table(transformers: dict[str, Any], vllm: dict[str, Any]) -> str:
    """Markdown. Median seconds with minimum and maximum over the repeats, and the share of the floor."""
    sides = (transformers["ours"], vllm["ours"], transformers["plain"])
    lines = ["| seconds (share of the floor) | transformers | vLLM | plain script |", "|---|---|---|---|"]
    for name in ROWS:
        lines.append(f"| {name} | {' | '.join(_cell(side, name) for side in sides)} |")
    ratios = [f"{found['ratio']['round']:.1f} times" for found in (transformers, vllm)]
    lines.append(f"| faster than the plain script of the same run | {ratios[0]} | {ratios[1]} | |")
    return "\n".join(lines)


def _cell(side: dict[str, Any], name: str) -> str:
    stage = side["stages"].get(name) or {"seconds": side["round_seconds"], "share_of_floor": side["share_of_floor"]}
    if name != "round" and name not in side["stages"]:
        return "not done"
    seconds = stage["seconds"]
    return f"{seconds['median']:.0f} [{seconds['min']:.0f}-{seconds['max']:.0f}] ({stage['share_of_floor']:.0%})"


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(table(read("cpu-transformers"), read("cpu-vllm")))
