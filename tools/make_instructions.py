"""Writes the instructions of `recipes/data/instructions/` and `eval/instructions/` from `lists.yaml`.

    python tools/make_instructions.py

Seeded, so that the same lists give the same files; `tests/test_constraints.py` holds them to it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
LISTS = ROOT / "recipes/data/instructions/lists.yaml"


def instruction(lists: Mapping[str, Any], part: str, kind: str, topic: str, dice: random.Random) -> dict[str, Any]:
    """One row: the prompt, its constraints (the sentence itself among them) and its kind as the group."""
    made = lists["kinds"][kind]
    drawn = {
        "topic": topic,
        "opener": dice.choice(lists["openers"][part]),
        "word": dice.choice([word for word in lists["words"][part] if word not in topic]),
        "n": dice.choice(made.get("n", [0])),
    }
    constraints = [
        {key: drawn["n"] if value == "{n}" else str(value).format(**drawn) for key, value in one.items()}
        for one in made["constraints"]
    ]
    text = made["whole"] if "whole" in made else f"Write one sentence about {{topic}}. {made['text']}"
    if "whole" not in made:
        constraints.insert(0, {"kind": "sentences", "n": 1})
    return {"prompt": text.format(**drawn), "constraints": constraints, "group": kind}


def instructions(
    lists: Mapping[str, Any], part: str, kinds: Sequence[str], each: int, seed: int = 0
) -> list[dict[str, Any]]:
    """`each` different instructions of every kind. The topics of a kind come again only when all were there; the kinds
    take turns, so that every prefix is balanced."""
    by_kind: list[list[dict[str, Any]]] = []
    for kind in kinds:
        dice = random.Random(f"{part}|{kind}|{seed}")
        rows: dict[str, dict[str, Any]] = {}
        topics: list[str] = []
        while len(rows) < each:
            topics = topics or dice.sample(lists["topics"][part], len(lists["topics"][part]))
            row = instruction(lists, part, kind, topics.pop(), dice)
            rows.setdefault(row["prompt"], row)
        by_kind.append(list(rows.values()))
    return list(chain.from_iterable(zip(*by_kind, strict=True)))


def files() -> dict[str, list[dict[str, Any]]]:
    """Every file's rows."""
    lists = yaml.safe_load(LISTS.read_text(encoding="utf-8"))
    trained, unseen = lists["trained"], lists["unseen"]
    return {
        "recipes/data/instructions/train.jsonl": instructions(lists, "train", trained, 60),
        "recipes/data/instructions/development.jsonl": instructions(lists, "development", trained, 10),
        "eval/instructions/test.jsonl": instructions(lists, "test", trained, 20),
        "eval/instructions/unseen.jsonl": instructions(lists, "test", unseen, 20),
    }


def main() -> None:
    for name, rows in files().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
