"""A reward model: a Transformers sequence classifier with one output, read on whole conversations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from selfimprove.errors import InputError
from selfimprove.judging.outcomes import Verdict
from selfimprove.models.batching import pad_right, token_budget_batches
from selfimprove.models.chat import Message, end_of_turn_id, render_example
from selfimprove.models.policy import Policy, load_tokenizer, pick_dtype


class RewardModel:
    """The classifier in memory. `where` is the recipe's key, for messages; InputError where it has no trained head."""

    def __init__(self, policy: Policy, dtype: str, device: str, where: str) -> None:
        from transformers import AutoModelForSequenceClassification

        self._tokenizer = load_tokenizer(policy)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            policy.base,
            dtype=pick_dtype(dtype, device),
            num_labels=1,
            use_safetensors=True,
            output_loading_info=True,
        )
        if loading["missing_keys"]:
            raise InputError(
                f"{where}: {policy.base} has no trained classification head ({', '.join(loading['missing_keys'])} "
                "would be drawn at random); a reward model is a sequence classifier with one output"
            )
        model.to(device)
        if model.config.pad_token_id is None:
            pads = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id)
            pad = next((id for id in pads if id is not None), None)
            if pad is None:  # the classifier reads the last token that is no padding: it must not be the end of turn
                pad = 0 if end_of_turn_id(self._tokenizer) != 0 else 1
            model.config.pad_token_id = pad
        self._model = model.eval()

    def rendered(self, messages: Sequence[Message], text: str) -> list[int]:
        """The conversation and its answer as the classifier's token ids."""
        return [id for part in render_example(self._tokenizer, list(messages), text) for id in part]

    def verdicts(
        self, conversations: Sequence[Sequence[int]], batch_tokens: int, advance: Callable[[int], None]
    ) -> list[Verdict]:
        """Its logit for each conversation (token ids); one that is not finite is missing."""
        scores = classifier_scores(self._model, conversations, batch_tokens, advance)
        return [(one, None) if math.isfinite(one) else (None, _NOT_FINITE) for one in scores]


_NOT_FINITE = "the reward model's score is not finite"


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
