"""Pairs of answers with a known better one (LLMBar), or with people's votes (AlpacaFarm), to measure judges with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfimprove.data.sources import DataSource, Ids, Messages, source_rows


@dataclass
class LabelledPair:
    """Two answers to one question. `votes`: for each label or person, 1.0 if the second answer is the better one,
    0.0 if the first, between them for a doubt."""

    id: str
    messages: Messages
    output_1: str
    output_2: str
    group: str | None = None
    votes: list[float] = field(default_factory=list)


def load_labelled_pairs(source: DataSource, search: Sequence[Path]) -> list[LabelledPair]:
    """Pairs in file order; rows with the same question and the same two answers are votes on one pair.

    Columns: the question as for prompts; `output_1`, `output_2`; `label` or `preference`, from 1 (the first is better)
    to 2. Raises InputError for anything wrong in the source, an empty answer included.
    """
    pairs: dict[tuple[str, ...], LabelledPair] = {}
    ids = Ids()
    for row in source_rows(source, search):
        asked = row.asked()
        outputs = [row.text(row.value(role), role) for role in ("output_1", "output_2")]
        label = row.value("label")
        if isinstance(label, bool) or not isinstance(label, int | float) or not 1 <= label <= 2:
            raise row.wrong(f"label must be a number from 1 (the first is better) to 2, found {label!r}")
        if not all(text.strip() for text in outputs):
            raise row.wrong("an output is empty; remove the row")
        key = (*(turn["content"] for turn in asked), *outputs)
        if key not in pairs:
            prompt = row.prompt(asked, ids)
            pairs[key] = LabelledPair(prompt.id, prompt.messages, outputs[0], outputs[1], prompt.group)
        pairs[key].votes.append(float(label) - 1)
    return list(pairs.values())
