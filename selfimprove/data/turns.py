"""Conversations that go on: what was read and written, with a user's turn behind it, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from selfimprove.data.rows import RenderedPrompt, Response
from selfimprove.models.chat import append_turn
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy, load_tokenizer


def next_turn(
    policy: Policy,
    prompts: Sequence[RenderedPrompt],
    responses: Mapping[str, Response],
    instruction: str,
    new_tokens: int,
) -> list[RenderedPrompt]:
    """What was read, what was then written, and the instruction as a user's turn: the ids as they are, with those of
    the instruction behind them. Prompts that leave no room for `new_tokens` more in the policy's context are left out.

    Args:
        responses: by prompt id, one for each prompt.
    """
    tokenizer, room = load_tokenizer(policy), context_tokens(policy.base)
    longer = []
    for prompt in prompts:
        ids = append_turn(tokenizer, [*prompt.prompt_ids, *responses[prompt.id].ids], instruction)
        if len(ids) + new_tokens <= room:
            longer.append(replace(prompt, prompt_ids=tuple(ids)))
    return longer
