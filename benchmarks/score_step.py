"""What an update of SCoRe costs, by part, against its floor; and what computing a prompt once for its samples pays.

    python -m benchmarks.score_step                        # SmolLM2-135M with LoRA, 16 samples of 4 prompts an update
    python -m benchmarks.score_step --prompt-words 120     # long prompts, where sharing pays more

Sides, in turn in one process: prompts shared and not shared. The floor counts a prompt, and y1 in turn 2, once: see
`selfimprove/steps/floor.py`; what the policy wrote decides it, so it is of the very samples that were timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import selfimprove
from benchmarks.machine import Neighbours, description
from selfimprove.methods.score import trainer as score_trainer
from selfimprove.methods.score.rollouts import Episode
from selfimprove.models.resolve import resolve_policy
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import load_recipe
from selfimprove.report.terminal import Progress
from selfimprove.steps.floor import Work, floor_seconds, machine_speed, model_size, sampling_work

PARTS = ("sampling", "scoring", "training", "rewards")


def update_work(prompts: Sequence[tuple[int, ...]], episodes: Sequence[Episode], lora: bool) -> dict[str, Work]:
    """The unavoidable work of an update, by part. Rewards run no model."""
    first = sampling_work([len(ids) for ids in prompts], [len(e.first.ids) for e in episodes])
    later = [e for e in episodes if e.second]
    second = sampling_work([len(e.between) + 1 for e in later], [len(e.second.ids) for e in later if e.second])
    behind = sum(sum(len(one.ids) for one in e.attempts) + len(e.between) - 1 for e in episodes)
    trained = sum(len(one.ids) for e in episodes for one in e.attempts)
    body = sum(len(ids) for ids in prompts) + behind
    return {
        "sampling": first + second,
        "scoring": Work(body=body, head=trained),
        "training": Work(body=body, head=trained, passes=2 if lora else 3),
    }


def measure(share: bool, words: int, updates: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of `updates` updates, after one that warms up: seconds and floor by part."""
    prompts = folder / "prompts.jsonl"
    filler = " ".join(["Read", "this", "with", "care."] * 100)
    rows = [
        {"prompt": f"{' '.join(filler.split()[:words])} Name a thing that is number {n}.", "answer": "one"}
        for n in range(64)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load_recipe(
        "smollm2-135m/score",
        [
            *("model=smollm2-135m-instruct", f"output={folder / f'share-{share}'}", f"data.prompts={prompts}"),
            *(
                "sampling.backend=transformers",
                "evaluate=[]",
                "score.probe_prompts=1",
                "score.reward.normalize=[lower]",
            ),
            *("score.stage_two.updates=0", f"score.stage_one.updates={updates + 1}", f"score.share_prompt={share}"),
            *("score.reward.kind=function", "score.reward.function=benchmarks.score_step:even"),
            *("gates.disabled=[first_attempt,kl,copy_rate,change_rate,no_leak]", "training.checkpoint_steps=1000"),
        ],
    )
    drawn: list[dict[str, Work]] = []
    roll_out = score_trainer.roll_out

    def watched(plan: Any, questions: Any, *rest: Any) -> list[Episode]:
        episodes = roll_out(plan, questions, *rest)
        drawn.append(update_work([q.ids for q in questions], episodes, lora=True))
        return episodes

    score_trainer.roll_out = watched
    try:
        result = selfimprove.run(recipe, Progress(Console(quiet=True)))
    finally:
        score_trainer.roll_out = roll_out
    (training,) = [event for event in result.events if event["event"] == "training"]
    size, speed = model_size(resolve_policy(recipe.model).base), machine_speed("float32", "cpu")
    return [
        {
            "seconds": {part: row[f"seconds/{part}"] for part in PARTS},
            "floor": {part: floor_seconds(work, size, speed) for part, work in works.items()},
            "tokens": [row["tokens/turn_1"], row["tokens/turn_2"]],
        }
        for row, works in list(zip(training["history"], drawn, strict=True))[1:]
    ]


def even(prompt: str, response: str, answer: str | None) -> float:
    """A reward that half of all texts get, so that there is always something to learn."""
    return float(len(response) % 2)


def table(sides: dict[str, list[dict[str, Any]]]) -> Table:
    """Medians of the updates, by part and side."""
    shown = Table("part", *(f"{side}: s, share of floor" for side in sides), box=None, pad_edge=False)
    for part in PARTS:
        cells = []
        for rows in sides.values():
            seconds = statistics.median(row["seconds"][part] for row in rows)
            floor = statistics.median(row["floor"].get(part, 0.0) for row in rows)
            cells.append(f"{seconds:.2f}" + (f"  {floor / seconds:.0%}" if floor else ""))
        shown.add_row(part, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-words", type=int, default=12)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "score-step.json")
    given = parser.parse_args()
    quiet_libraries()
    neighbours = Neighbours()
    sides: dict[str, list[dict[str, Any]]] = {"shared": [], "not shared": []}
    for _ in range(given.repeats):
        for side in sides:
            with tempfile.TemporaryDirectory() as folder:
                sides[side] += measure(side == "shared", given.prompt_words, given.updates, Path(folder))
    found = json.loads(given.out.read_text()) if given.out.is_file() else {}
    found[f"{given.prompt_words} words"] = {
        "machine": description(),
        "neighbours": neighbours.report(),
        "updates": sides,
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table(sides))


if __name__ == "__main__":
    main()
