"""Build the `words` task: python tools/make_words.py DATA_FOLDER

DATA_FOLDER holds `function_vectors/` and `instruction_induction/` as their authors publish them (JSON lines
with `input` and `output`). Writes recipes/data/words/*.jsonl and eval/words/test.jsonl of this repository;
running it again writes the same bytes.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import chain
from pathlib import Path

Item = tuple[str, str]  # input, answer

ROOT = Path(__file__).resolve().parent.parent
SEED = 20260801
SIZES = {  # items of each task; six tasks
    "recipes/data/words/seed.jsonl": 16,
    "recipes/data/words/prompts.jsonl": 100,
    "recipes/data/words/development.jsonl": 33,
    "eval/words/test.jsonl": 50,
}
INSTRUCTIONS = {
    "plural": "Write the plural form of the following English noun. Answer with the plural only.",
    "past": "Write the simple past tense of the following English verb. Answer with the past tense only.",
    "larger": "Which of these two animals is larger? Answer with the name of the larger animal only.",
    "number": "Write the following number in words, as in British English. Answer with the words only.",
    "animal": "Which of these three words is the name of an animal? Answer with that word only.",
    "last": "Which of these three words is the last one in the list? Answer with that word only.",
}
# Verbs with two accepted past tenses: a right answer would count as wrong.
TWO_PAST_TENSES = {"hang", "learn", "model", "signal", "strive", "travel"}


def main(data: Path) -> None:
    tasks = items_by_task(data)
    rng = random.Random(SEED)
    for items in tasks.values():
        rng.shuffle(items)
    start = 0
    for path, size in SIZES.items():
        columns = []
        for group, items in tasks.items():
            chosen = items[start : start + size]
            if len(chosen) < size:
                raise SystemExit(f"{group}: {len(items)} items are too few")
            columns.append([row(group, start + i, item, path) for i, item in enumerate(chosen, 1)])
        start += size
        interleaved = list(chain.from_iterable(zip(*columns, strict=True)))  # every prefix is balanced
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in interleaved), "utf-8")
        print(f"{path}: {len(interleaved)} rows")


def items_by_task(data: Path) -> dict[str, list[Item]]:
    """Every task's usable items, distinct up to case, spaces and the order of listed words."""
    vectors, induction = data / "function_vectors", data / "instruction_induction"
    past = [
        item
        for item in read(vectors / "abstractive/present-past.jsonl")
        if item[0] != item[1] and item[0] not in TWO_PAST_TENSES
    ]
    verbs = {verb for verb, _ in past}
    plural = [
        item
        for item in (
            read(vectors / "abstractive/singular-plural.jsonl")
            + read(induction / "singular_to_plural.train.jsonl")
            + read(induction / "singular_to_plural.test.jsonl")
        )
        # Input = answer (aircraft, but also "shoes") would reward copying. Words of the past task stay in
        # that task, or one split would hold "record -> records" and another one "record -> recorded".
        if item[0] != item[1] and item[0] not in verbs
    ]
    larger, number = (
        read(induction / f"{name}.train.jsonl") + read(induction / f"{name}.test.jsonl")
        for name in ("larger_animal", "num_to_verbal")
    )
    pick = read(vectors / "extractive/animal_v_object_3.jsonl")
    animals = {answer for _, answer in pick}
    pick = [item for item in pick if len(animals & set(item[0].split(", "))) == 1]
    last = read(vectors / "extractive/choose_last_of_3.jsonl")
    tasks = {"plural": plural, "past": past, "larger": larger, "number": number, "animal": pick, "last": last}
    return {group: distinct(items) for group, items in tasks.items()}


def read(path: Path) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(" ".join(r["input"].lower().split()), " ".join(r["output"].lower().split())) for r in rows]


def distinct(items: list[Item]) -> list[Item]:
    """The first item of each word set, in order."""
    found: dict[frozenset[str], Item] = {}
    for text, answer in items:
        found.setdefault(frozenset(text.split(", ")), (text, answer))
    return list(found.values())


def row(group: str, number: int, item: Item, path: str) -> dict[str, str]:
    text, answer = item
    made = {
        "id": f"{group}-{number:04d}",
        "group": group,
        "prompt": f"{INSTRUCTIONS[group]}\n\n{text}",
        "answer": answer,
    }
    if path.endswith("/seed.jsonl"):
        made["response"] = answer
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
