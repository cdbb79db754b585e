"""A reward model: a Transformers sequence classifier with one output, read on whole conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from selfimprove.batching import pad_right, token_budget_batches


@torch.inference_mode()
def classifier_scores(
    model: Any, conversations: Sequence[Sequence[int]], batch_tokens: int, advance: Callable[[int], None]
) -> list[float]:
    """The classifier's single logit for each conversation (token ids under its own chat template)."""
    scores = [0.0] * len(conversations)
    for batch in token_budget_batches([len(ids) for ids in conversations], batch_tokens):
        ids, mask = pad_right([conversations[i] for i in batch], model.config.pad_token_id)
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for i, value in zip(batch, logits[:, 0].float().tolist(), strict=True):
            scores[i] = value
        advance(len(batch))
    return scores
