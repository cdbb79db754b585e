"""Texts scored by one forward over each, where the model reads a long one with other rotary factors (longrope).

Behind a cached prompt a response that grows over the change would be read with the factors of long texts, and its
prompt with those of short ones; and one long text in a batch would change the factors of all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from selfimprove.models.batching import pad_left, positions, token_budget_batches
from selfimprove.models.context import longrope_change
from selfimprove.models.log_probs import Group, token_log_probs


def split_long(model: Any, groups: Sequence[Group]) -> tuple[list[tuple[int, list[int]]], list[tuple[int, int]]]:
    """(groups with the places of their responses that may be continued from a cached prompt; group and place of those
    whose text is too long for that). A model whose factors do not change has none of the latter."""
    change = longrope_change(model.config.get_text_config().to_dict()) or 2**62
    long = [
        (i, j)
        for i, one in enumerate(groups)
        for j, response in enumerate(one.responses)
        if len(one.prompt_ids) + len(response) > change
    ]
    apart = set(long)
    kept = [(i, [j for j in range(len(one.responses)) if (i, j) not in apart]) for i, one in enumerate(groups)]
    return [(i, places) for i, places in kept if places], long


def whole_log_probs(
    model: Any, texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], batch_tokens: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Batch after batch, (places in `texts`, summed log-probs in nats) of texts given as prompt and response."""
    for batch in token_budget_batches([len(prompt) + len(response) for prompt, response in texts], batch_tokens):
        rows = [[*texts[i][0], *texts[i][1]] for i in batch]
        ids, mask = (tensor.to(model.device) for tensor in pad_left(rows, 0))
        width = max(len(texts[i][1]) for i in batch)
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=width + 1,
        ).logits[:, :-1]
        # Texts end in one column: the last `len(response)` places of each row are its response's.
        answer = torch.tensor([[0] * (width - len(texts[i][1])) + [1] * len(texts[i][1]) for i in batch])
        scored = token_log_probs(logits, ids[:, -width:]) * answer.to(model.device)
        yield batch, scored.double().sum(dim=1).tolist()
