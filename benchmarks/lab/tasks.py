"""The lab's tasks: short items whose truth is known, split so that no item is in two splits. Pure functions.

An item's split follows from a hash of its prompt, so splits are disjoint for every seed, and for all seeds together.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTRUCTION = "check"  # the second turn's instruction: one token, and no word on whether the first answer was right
LETTERS = "abcdefghijklmnop"
MAX_NEW_TOKENS = 9  # the longest answer is eight letters and the end of turn
TASKS = ("add", "sort", "reverse")
WEIGHTS = (14, 3, 3)  # of the tasks in the base's corpus: adding is learnt last

# split -> share of all items, in percent. `base` trains the base, `sft` is the labelled seed set of a method.
SPLITS = {"base": 50, "sft": 10, "prompts": 20, "development": 10, "evaluation": 10}
# split -> rows written for one seed; the base's corpus is drawn while it is trained.
ROWS = {"sft": 1000, "prompts": 4000, "development": 400, "evaluation": 800}


@dataclass(frozen=True)
class Item:
    """A question and its one right answer."""

    task: str
    prompt: str
    answer: str


def make_item(task: str, rng: random.Random) -> Item:
    """One item of a task, from any split."""
    if task == "add":
        a, b = (rng.randrange(*rng.choice(((1, 10), (10, 100)))) for _ in range(2))
        return Item(task, f"{a}+{b}", str(a + b))
    letters = "".join(rng.choices(LETTERS, k=rng.randrange(4, 9)))
    return Item(task, f"{task} {letters}", "".join(sorted(letters)) if task == "sort" else letters[::-1])


def split_of(prompt: str) -> str:
    """The split an item belongs to, from its prompt alone."""
    place = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % 100
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares of the splits sum to 100")


def draw(split: str, rng: random.Random, task: str | None = None) -> Item:
    """A random item of a split; the tasks are drawn with `WEIGHTS`, unless one is given."""
    task = task or rng.choices(TASKS, WEIGHTS)[0]
    while True:
        item = make_item(task, rng)
        if split_of(item.prompt) == split:
            return item


def distinct_items(split: str, count: int, seed: int) -> list[Item]:
    """`count` different items of a split, the tasks taking turns."""
    rng = random.Random(f"{split}|{seed}")
    found: dict[str, Item] = {}
    while len(found) < count:
        item = draw(split, rng, TASKS[len(found) % len(TASKS)])
        found.setdefault(item.prompt, item)
    return list(found.values())


def wrong_answer(item: Item, rng: random.Random) -> str:
    """A near miss: a lost carry, a digit off by one, or two neighbours in the wrong order."""
    answer = item.answer
    if item.task == "add":
        place = rng.randrange(len(answer))
        step = 10 ** (len(answer) - 1 - place)
        wrong = str(abs(int(answer) + rng.choice((-step, step))))
    else:
        place = rng.randrange(len(answer) - 1)
        wrong = answer[:place] + answer[place + 1] + answer[place] + answer[place + 2 :]
        if wrong == answer:  # equal neighbours
            wrong = answer[:place] + rng.choice(LETTERS.replace(answer[place], "")) + answer[place + 1 :]
    return wrong


def grade(answer: str, text: str) -> float:
    """Share of places with the right character, 0 to 1; 1 only for the answer itself. A graded truth ranks five
    responses where right or wrong would tie most of them."""
    return sum(a == b for a, b in zip(answer, text, strict=False)) / max(len(answer), len(text))


def row_of(item: Item, labelled: bool = False) -> dict[str, Any]:
    """A row in the project's data format; `labelled` adds the response to imitate."""
    row = {"id": item.prompt, "group": item.task, "prompt": item.prompt, "answer": item.answer}
    return row | {"response": item.answer} if labelled else row


def write_splits(folder: Path, seed: int) -> None:
    """`sft.jsonl`, `prompts.jsonl`, `development.jsonl`, `evaluation.jsonl` and the suites over the last two, below
    `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        rows = [row_of(item, split == "sft") for item in distinct_items(split, count, seed)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split in ("development", "evaluation"):
        common = f"data: {split}.jsonl\nmax_new_tokens: {MAX_NEW_TOKENS}\n"
        (folder / f"{split}.yaml").write_text(f"name: lab-{split}\nkind: exact_match\n{common}", encoding="utf-8")
        two = f"name: lab-{split}-turns\nkind: self_correction\ninstruction: {INSTRUCTION}\n{common}"
        (folder / f"{split}-turns.yaml").write_text(two, encoding="utf-8")
