"""What flows between the steps of a method: rendered prompts, responses, scores and pairs, keyed by prompt id.

Scores are kept by (prompt id, index), never by position in a list: a prompt that is left out anywhere can then
not shift another one's values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# One score per response of each prompt, in order of the responses' index; None is missing, never zero.
Scores = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as token ids. `text` is its last user turn, `answer` the reference answer where one is known, `row` all
    columns of its data as they were."""

    id: str
    prompt_ids: tuple[int, ...]
    text: str
    answer: str | None = None
    group: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def conversation(self) -> str:
        """The whole prompt as text: the user's turn alone, or every turn under its role."""
        if len(self.messages) < 2:
            return self.text
        return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in self.messages)


@dataclass(frozen=True)
class Response:
    """One sampled response, token for token. `finish`: "stop" or "length" (truncated: no end-of-turn token).

    `text` is the answer: what follows the last thought of `ids` (`models/thoughts.py`). A response that ends within a
    thought is `open_thought`: its finish is "length" and its text empty. `sampler_log_prob` is summed over tokens
    (nats), as the sampler saw it.
    """

    prompt_id: str
    index: int
    ids: tuple[int, ...]
    finish: str
    text: str
    sampler_log_prob: float | None = None
    open_thought: bool = False


@dataclass(frozen=True)
class Responses:
    """All responses to some prompts, by prompt id, in order of index. `sampled_by`: the policy's digest, if one
    sampled them."""

    prompts: Mapping[str, RenderedPrompt]
    by_prompt: Mapping[str, Sequence[Response]]
    sampled_by: str | None = None

    def __iter__(self) -> Iterator[tuple[RenderedPrompt, Sequence[Response]]]:
        for prompt_id, responses in self.by_prompt.items():
            yield self.prompts[prompt_id], responses

    def all(self) -> list[Response]:
        return [response for responses in self.by_prompt.values() for response in responses]

    def rows(self) -> list[dict[str, Any]]:
        """Rows for a scoring step."""
        return [
            {
                "prompt_id": prompt.id,
                "prompt_ids": list(prompt.prompt_ids),
                "index": response.index,
                "ids": list(response.ids),
            }
            for prompt, responses in self
            for response in responses
        ]


@dataclass(frozen=True)
class LogProbs:
    """Summed log-probability (nats) and token count of responses under one named policy."""

    policy: str
    policy_digest: str
    summed: Mapping[tuple[str, int], float]
    tokens: Mapping[tuple[str, int], int]

    def of(self, response: Response) -> float:
        return self.summed[response.prompt_id, response.index]


@dataclass(frozen=True)
class Pair:
    """A preference: `confidence` is the probability C that `chosen` is the better one."""

    prompt: RenderedPrompt
    chosen: Response
    rejected: Response
    chosen_reward: float
    rejected_reward: float
    confidence: float = 1.0
