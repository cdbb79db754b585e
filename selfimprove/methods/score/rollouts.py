"""What SCoRe trains on: two attempts at each prompt of an update, as the very token ids that were sampled.

x1 is the prompt, y1 ~ pi(.|x1); x2 is x1, y1 and a fixed instruction that does not say whether y1 is right;
y2 ~ pi(.|x2). The ids of x2 begin with those of x1 and y1 as they were sampled, and are never made from text again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from selfimprove.models.chat import append_turn
from selfimprove.models.thoughts import said
from selfimprove.sampling.sampler import Decoding, Request, Sampled, Sampler, response_seed


class Question(NamedTuple):
    """One prompt of an update. `draw` names this use of it: with a small data set it comes back, with other noise."""

    id: str
    ids: tuple[int, ...]
    text: str
    answer: str | None
    draw: str


@dataclass(frozen=True)
class Attempt:
    """A response and its text (without special tokens). `log_probs`: the sampler's, of each token (nats at temperature
    1), none where it gave none."""

    ids: tuple[int, ...]
    text: str
    truncated: bool
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Episode:
    """One sample of a prompt: y1, `between` (the instruction's turn as ids; the end of turn first, where y1 was cut
    off), y2. `prompt` is its question's place in the update, `first_attempt` numbers the distinct y1s of a prompt;
    `own_first` is False where the base model wrote y1, which is then read and not trained."""

    prompt: int
    first_attempt: int
    first: Attempt
    own_first: bool = True
    between: tuple[int, ...] = ()
    second: Attempt | None = None

    @property
    def attempts(self) -> list[Attempt]:
        return [self.first, *([self.second] if self.second else [])]


def questions_of(rows: Sequence[Mapping[str, Any]], update: int, count: int, order: str) -> list[Question]:
    """The `count` prompts of an update: each epoch goes through all rows in an order of its own
    (`order` names them: a run and a stage). A function of its
    arguments alone, so that a resumed training takes the prompts that an undisturbed one takes."""
    questions = []
    for position in range(update * count, (update + 1) * count):
        epoch, place = divmod(position, len(rows))
        row = rows[_order(len(rows), epoch, order)[place]]
        questions.append(
            Question(
                row["prompt_id"], tuple(row["prompt_ids"]), row["text"], row["answer"], f"{row['prompt_id']}|{epoch}"
            )
        )
    return questions


@lru_cache(maxsize=2)
def _order(rows: int, epoch: int, name: str) -> list[int]:
    order = list(range(rows))
    random.Random(f"prompts of epoch {epoch}|{name}").shuffle(order)
    return order


@dataclass(frozen=True)
class Plan:
    """How an update's samples are drawn.

    samples: of each prompt; first_attempts: distinct y1s among them (it divides `samples`); base_share: of these the
    share written by the base model (rounded up or down by a coin of each prompt, so that the mean is exact);
    seed, key: of the run and the step, from which every request's noise is made.
    """

    samples: int
    first_attempts: int
    base_share: float
    turns: int
    instruction: str
    decoding: Decoding
    seed: int
    key: str

    def request_seed(self, update: int, question: Question, attempt: int) -> int:
        return response_seed(self.seed, self.key, update, question.draw, attempt)

    def of_base(self, update: int, question: Question) -> int:
        """How many of the question's first attempts the base model writes."""
        coin = np.random.Generator(np.random.Philox(key=self.request_seed(update, question, -1))).random()
        return int(self.base_share * self.first_attempts + coin)


def roll_out(
    plan: Plan, questions: Sequence[Question], update: int, sampler: Sampler, base_sampler: Sampler, tokenizer: Any
) -> list[Episode]:
    """`plan.samples` episodes of each question, in order of the questions and of their first attempts.

    Args:
        update: number of the update: the next one draws other noise.
        sampler, base_sampler: with the weights of the policy, and of the base model, already set.
    """
    by_base = [plan.of_base(update, question) for question in questions]
    own = [plan.first_attempts - count for count in by_base]
    firsts = [
        mine + theirs
        for mine, theirs in zip(
            _draw(
                sampler,
                plan,
                [(q.ids, n, plan.request_seed(update, q, 0)) for q, n in zip(questions, own, strict=True)],
            ),
            _draw(
                base_sampler,
                plan,
                [(q.ids, n, plan.request_seed(update, q, 1)) for q, n in zip(questions, by_base, strict=True)],
            ),
            strict=True,
        )
    ]
    attempts = [
        Episode(place, number, _attempt(one, tokenizer), own_first=number < own[place])
        for place, sampled in enumerate(firsts)
        for number, one in enumerate(sampled)
    ]
    each = plan.samples // plan.first_attempts
    if plan.turns == 1:
        return [attempt for attempt in attempts for _ in range(each)]
    read, asked = [], []
    for episode in attempts:
        question = questions[episode.prompt]
        before = [*question.ids, *episode.first.ids]
        ids = append_turn(tokenizer, before, plan.instruction)
        read.append(tuple(ids[len(before) :]))
        asked.append((tuple(ids), each, plan.request_seed(update, question, 2 + episode.first_attempt)))
    return [
        Episode(e.prompt, e.first_attempt, e.first, e.own_first, between, _attempt(one, tokenizer))
        for e, between, seconds in zip(attempts, read, _draw(sampler, plan, asked), strict=True)
        for one in seconds
    ]


def _draw(sampler: Sampler, plan: Plan, asked: Sequence[tuple[tuple[int, ...], int, int]]) -> list[list[Sampled]]:
    """Responses to (prompt ids, how many, seed), none where none are asked for."""
    requests = [Request(ids, n, seed) for ids, n, seed in asked if n]
    found = sampler.sample(requests, plan.decoding, _quiet) if requests else []
    if plan.decoding.temperature != 1:  # the sampler's log-probs are at 1, the loss is at the temperature
        found = [[replace(one, log_probs=None) for one in row] for row in found]
    drawn = iter(found)
    return [next(drawn) if n else [] for _, n, _ in asked]


_quiet: Callable[[int], None] = lambda n: None  # noqa: E731


def _attempt(sampled: Sampled, tokenizer: Any) -> Attempt:
    text = said(tokenizer, sampled.ids, tokenizer.decode(sampled.ids, skip_special_tokens=True))
    cut = text is None or sampled.finish == "length"
    return Attempt(tuple(sampled.ids), text or "", cut, tuple(sampled.log_probs or ()))
