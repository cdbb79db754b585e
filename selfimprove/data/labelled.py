"""Pairs of answers with a known better one, or with people's votes, to measure judges with, as people publish them:
LLMBar and AlpacaFarm, PandaLM (arXiv 2306.05087), MT-Bench's human judgements (2306.05685), RewardBench (2403.13787),
JudgeBench (2410.12784)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfimprove.data.sources import DataSource, Ids, Messages, Role, Row, source_rows

# The first output, the second one, and who is the better: columns that stand together.
_OUTPUTS = (
    ("output_1", "output_2"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_A", "response_B"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("conversation_a", "conversation_b"),
)
_LABELS = ("label", "preference", "winner")
_ANNOTATOR = re.compile(r"annotator_?\d+")
_GROUPS = ("subset", "source")
_VOTES = {
    0.0: ("a", "model_a", "response_a", "output_1", "response1", "response_1", "answer_a", "a>b", "a>>b", "[[a]]"),
    1.0: ("b", "model_b", "response_b", "output_2", "response2", "response_2", "answer_b", "b>a", "b>>a", "[[b]]"),
    0.5: ("tie", "ties", "draw", "equal", "same", "both", "neither", "a=b", "c", "[[c]]", "tie (bothbad)"),
}  # fmt: skip
_VOTE_OF = {name: vote for vote, names in _VOTES.items() for name in names}


@dataclass
class LabelledPair:
    """Two answers to one question. `votes`: for each label or person, 1.0 if the second answer is the better one,
    0.0 if the first, between them for a doubt, one half for a tie."""

    id: str
    messages: Messages
    output_1: str
    output_2: str
    group: str | None = None
    votes: list[float] = field(default_factory=list)


def load_labelled_pairs(source: DataSource, search: Sequence[Path]) -> list[LabelledPair]:
    """Pairs in file order; rows with the same question and the same two answers are votes on one pair.

    Columns: the question as for prompts; `output_1` and `output_2` (or another pair of `_OUTPUTS`, conversations too);
    `label`, `preference` or `winner`, a number from 1 (the first is better) to 2, 0 for a tie, or a name (`model_b`,
    `A>B`, `tie`); several annotators' (`annotator1`, ..., or `fields.label` as a list of columns) are votes, of which
    some may be lacking. `chosen` and `rejected` need no label. An empty answer is one like others. Raises InputError
    for anything wrong in the source.
    """
    pairs: dict[tuple[str, ...], LabelledPair] = {}
    ids = Ids()
    for row in source_rows(source, search):
        asked, outputs = _compared(row)
        votes = _votes(row)
        key = (*(turn["content"] for turn in asked), *outputs)
        if key not in pairs:
            prompt = row.prompt(asked, ids)
            group = prompt.group or next((str(row.values[name]) for name in _GROUPS if row.values.get(name)), None)
            pairs[key] = LabelledPair(prompt.id, prompt.messages, outputs[0], outputs[1], group)
        pairs[key].votes += votes
    return list(pairs.values())


def _compared(row: Row) -> tuple[Messages, tuple[str, str]]:
    """The question and the two answers."""
    if _is_chosen(row):
        sides = [row.completion("chosen"), row.completion("rejected")]
        return row.asked_before(sides[0][0], "chosen"), (sides[0][1], sides[1][1])
    usual = next((names for names in _OUTPUTS if all(name in row.values for name in names)), _OUTPUTS[0])
    values = []
    roles: tuple[Role, Role] = ("output_1", "output_2")
    for role, name in zip(roles, usual, strict=True):
        column = role if role in row.source.fields or role in row.values else name
        if column == role and row.values.get(role, "") is not None:
            values.append(row.value(role))  # with its words where it is not there
        else:
            values.append(row.get(column))
    if all(isinstance(value, list) for value in values):
        return _conversations(row, values)
    first, second = (row.text("" if value is None else value, "an output") for value in values)
    return row.asked(), (first, second)


def _conversations(row: Row, values: Sequence[Any]) -> tuple[Messages, tuple[str, str]]:
    """Two conversations that ask the same, up to the turn that was judged (`turn`, else the last). Of several turns the
    questions stand together, and so do each side's answers, for an answer cannot be told from what came before it."""
    judged = row.values.get("turn")
    asked, answers = [], []
    for value in values:
        turns = [turn for turn in value if isinstance(turn, dict) and isinstance(turn.get("content"), str)]
        said = {who: [turn["content"] for turn in turns if turn.get("role") == who] for who in ("user", "assistant")}
        if len(turns) != len(value) or not said["user"] or len(said["user"]) != len(said["assistant"]):
            raise row.wrong("a conversation needs turns with role and content, user and assistant in turn")
        most = judged if type(judged) is int and 0 < judged <= len(said["user"]) else len(said["user"])
        asked.append(said["user"][:most])
        answers.append(said["assistant"][:most])
    if asked[0] != asked[1]:
        raise row.wrong("the two conversations ask different questions")
    question, first, second = (
        one[0] if len(one) == 1 else "\n\n".join(f"[{name} {n}]\n{text}" for n, text in enumerate(one, 1))
        for name, one in (("Question", asked[0]), ("Answer", answers[0]), ("Answer", answers[1]))
    )
    return ({"role": "user", "content": question},), (first, second)


def _is_chosen(row: Row) -> bool:
    named = {"chosen", "rejected"} <= row.source.fields.keys()
    return named or {"chosen", "rejected"} <= row.values.keys()


def _votes(row: Row) -> list[float]:
    """One for each label of the row, at least one."""
    named = row.source.fields.get("label")
    if _is_chosen(row) and not named:
        return [0.0]
    if isinstance(named, list):
        columns = named
    elif named:
        columns = [named]
    else:
        columns = [name for name in _LABELS if row.values.get(name) is not None][:1]
        columns = columns or sorted(name for name in row.values if _ANNOTATOR.fullmatch(name)) or ["label"]
    if missing := [name for name in columns if name not in row.values]:
        row.value("label") if missing == ["label"] else None
        raise row.wrong(f"no column {missing[0]!r} (fields.label); columns found: {', '.join(row.values)}")
    given = [row.get(name) for name in columns]
    votes = [_vote(row, value) for value in given if len(given) == 1 or value not in (None, "")]
    if not votes:
        raise row.wrong(f"no annotator said anything: {', '.join(columns)} are empty; remove the row")
    return votes


def _vote(row: Row, value: Any) -> float:
    if isinstance(value, str):
        if (name := value.strip().lower()) in _VOTE_OF:
            return _VOTE_OF[name]
        if row.reading.origin.lower().endswith((".csv", ".tsv")):  # a column with gaps is text
            with suppress(ValueError):
                value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        raise row.wrong(
            f"label must be a number from 1 (the first is better) to 2, found {value!r} (0 is a tie; names as model_b, "
            "A>B and tie are read too)"
        )
    return 0.5 if value == 0 else float(value) - 1
