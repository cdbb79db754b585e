"""Scoring: the log-likelihood of given responses under a named policy.

Every implicit reward, length-normalised reward and DPO reference is a function of two stored numbers per
response: its summed log-probability (nats) and its number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from selfimprove.models.batching import pad_left, pad_right, positions, prefill, token_budget_batches
from selfimprove.models.log_probs import Group, token_log_probs

# Bound on the logits of one batch, in numbers (0.5 GB in fp32).
_LOGIT_BUDGET = 2**27


@torch.inference_mode()
def summed_log_probs(
    model: Any, groups: Sequence[Group], batch_tokens: int, advance: Callable[[int], None] = lambda n: None
) -> list[list[float]]:
    """Summed log-probability (nats) of each response given its prompt.

    The prompt is computed once for its responses, and only positions that predict a response token go through
    the LM head; log-softmax and sums are fp32 or wider whatever the model's type. Where all responses of a prompt are
    one token long, as a judge's digits are, they are read from its last logits.

    Args:
        model: a causal LM in evaluation mode (inside its policy's context, see `ModelPool.get`).
        groups: prompts with their responses.
        batch_tokens: bound on responses x (prompt + longest response) of one batch.
        advance: told of every finished response.

    Returns:
        One list per group, one float per response.
    """
    from selfimprove.models.whole import split_long, whole_log_probs

    vocabulary = model.config.get_text_config().vocab_size
    longest = max((len(r) for g in groups for r in g.responses), default=1)
    budget = min(batch_tokens, _LOGIT_BUDGET // vocabulary * (1 + _mean_prompt(groups) // longest))
    results = [[0.0] * len(group.responses) for group in groups]
    continued, whole = split_long(model, groups)
    by_length: dict[bool, list[tuple[int, list[int]]]] = {False: [], True: []}
    for i, places in continued:
        by_length[_longest(groups[i], places) > 1].append((i, places))
    for longer, some in by_length.items():
        score = _score_batch if longer else _score_first_tokens
        rows = [len(places) if longer else 1 for _, places in some]
        costs = [
            n * (len(groups[i].prompt_ids) + _longest(groups[i], places))
            for n, (i, places) in zip(rows, some, strict=True)
        ]
        for batch in token_budget_batches(costs, budget):
            here = [some[k] for k in batch]
            parts = [Group(groups[i].prompt_ids, tuple(groups[i].responses[j] for j in places)) for i, places in here]
            scored = iter(score(model, parts))
            for i, places in here:
                for j in places:
                    results[i][j] = next(scored)
            advance(sum(len(part.responses) for part in parts))
    texts = [(groups[i].prompt_ids, groups[i].responses[j]) for i, j in whole]
    for batch, log_probs in whole_log_probs(model, texts, budget):
        for k, log_prob in zip(batch, log_probs, strict=True):
            i, j = whole[k]
            results[i][j] = log_prob
        advance(len(batch))
    return results


def _longest(group: Group, places: Sequence[int]) -> int:
    return max(len(group.responses[j]) for j in places)


def _mean_prompt(groups: Sequence[Group]) -> int:
    return sum(len(g.prompt_ids) for g in groups) // max(1, len(groups))


def _score_batch(model: Any, groups: Sequence[Group]) -> list[float]:
    responses = [response for group in groups for response in group.responses]
    start = prefill(model, [g.prompt_ids for g in groups], [len(g.responses) for g in groups], pad=0)
    ids, mask = (tensor.to(model.device) for tensor in pad_right(responses, 0))
    totals = token_log_probs(start.logits, ids[:, 0]).double()
    if ids.shape[1] > 1:
        # Fed with all but its last token, the response's every output predicts one of its tokens: no position of
        # the prompt reaches the LM head.
        attention = torch.cat([start.mask, mask[:, :-1]], dim=1)
        logits = model(
            input_ids=ids[:, :-1],
            attention_mask=attention,
            position_ids=positions(attention)[:, start.mask.shape[1] :],
            past_key_values=start.cache,
            use_cache=True,
        ).logits
        totals += (token_log_probs(logits, ids[:, 1:]) * mask[:, 1:]).double().sum(dim=1)
    return totals.tolist()


def _score_first_tokens(model: Any, groups: Sequence[Group]) -> list[float]:
    """Of responses of one token: they are in their prompt's last logits, so a prompt is one row and has no cache."""
    ids, mask = (tensor.to(model.device) for tensor in pad_left([group.prompt_ids for group in groups], 0))
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=1
    ).logits[:, -1]
    tokens, asked = pad_right([[response[0] for response in group.responses] for group in groups], 0)
    wide = logits.float()
    found = wide.gather(1, tokens.to(model.device)) - wide.logsumexp(dim=-1, keepdim=True)
    return found.double()[asked.to(model.device) == 1].tolist()
