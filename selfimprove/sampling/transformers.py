"""The sampler that is always there: a batched decoding loop on the model's own forward.

Why not `generate`: it has one global random generator, computes a prompt once per response, and keeps finished
rows in the batch until the last is done. Here every row has its own noise (so that a row's tokens depend on its
seed alone, not on its neighbours), a prompt is computed once, and finished rows leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from selfimprove.models.batching import positions, prefill, token_budget_batches
from selfimprove.models.loading import MODELS
from selfimprove.models.log_probs import token_log_probs
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.sampling.sampler import Decoding, Request, Sampled
from selfimprove.sampling.shaping import seen_tokens, shaped


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) that depend on the seed alone (Philox, the same on every machine)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def pick_tokens(logits: torch.Tensor, noise: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution over the nucleus, most likely token first.

    Args:
        logits: (rows, vocabulary), any float type.
        noise: (rows,) uniform in [0, 1).
        temperature: 0 takes the most likely token.
        top_p: the nucleus is the smallest set of most likely tokens with at least this mass.

    Returns:
        (rows,) token ids.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    # The nucleus nearly always lies within a few hundred tokens: sorting all 49,152 of a row costs more than the LM
    # head. The search widens for the rows whose draw is not decided, and for those alone: which of equally likely
    # tokens come first depends on the width, and a row's token must not depend on its neighbours.
    width = min(256, logits.shape[-1])
    picked, decided = _search(probabilities, noise, top_p, width)
    while not bool(decided.all()):
        width = min(width * 16, logits.shape[-1])
        rows = (~decided).nonzero()[:, 0]
        picked[rows], decided[rows] = _search(probabilities[rows], noise[rows], top_p, width)
    return picked


def _search(
    probabilities: torch.Tensor, noise: torch.Tensor, top_p: float, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, which of them are decided) among the `width` most likely tokens of each row."""
    top, tokens = probabilities.topk(width, dim=-1)
    top = top.double()
    cumulative = top.cumsum(dim=-1)
    whole = width == probabilities.shape[-1]
    inside = (cumulative - top < top_p) & (top > 0)
    if top_p < 1:
        decided = cumulative[:, -1] >= top_p
        mass = (top * inside).sum(dim=-1)
    else:
        decided = cumulative[:, -1] > noise
        # fp32 probabilities do not sum to 1 exactly; noise in that gap must not fall on the least likely token.
        mass = cumulative[:, -1] if whole else torch.ones_like(noise, dtype=torch.double)
    chosen = (cumulative <= (noise.double() * mass)[:, None]).sum(dim=-1)
    last_inside = (inside.sum(dim=-1) - 1).clamp(min=0)  # NaN logits have no nucleus; the caller refuses them
    return tokens.gather(1, torch.minimum(chosen, last_inside)[:, None])[:, 0], decided | whole


class TransformersSampler:
    """See the module. `batch_tokens` bounds rows x (prompt + new tokens) of one batch."""

    name = "transformers"

    def __init__(self, dtype: torch.dtype, device: str, batch_tokens: int) -> None:
        self._dtype, self._device, self._batch_tokens = dtype, device, batch_tokens
        self._policy: Policy | None = None
        self._model: Any = None

    def set_weights(self, policy: Policy, model: Any = None) -> None:
        self._policy, self._model = policy, model

    @torch.inference_mode()
    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        if self._policy is None:
            raise RuntimeError("set_weights comes before sample")
        model, as_policy = (
            (self._model, nullcontext())
            if self._model is not None
            else MODELS.get(self._policy, self._dtype, self._device)
        )
        results: list[list[Sampled]] = [[] for _ in requests]
        # A request is one item; its cost is that of all its rows, so a batch keeps a prompt's responses together.
        costs = [request.n * (len(request.prompt_ids) + decoding.max_new_tokens) for request in requests]
        tokenizer = load_tokenizer(self._policy) if decoding.stop else None
        with as_policy:
            for batch in token_budget_batches(costs, self._batch_tokens):
                sampled = iter(_decode(model, [requests[i] for i in batch], decoding, advance, tokenizer))
                for i in batch:
                    results[i] = [next(sampled) for _ in range(requests[i].n)]
        return results


def _decode(
    model: Any, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None], tokenizer: Any
) -> list[Sampled]:
    """Responses of all requests' rows, in order."""
    device = model.device
    start = prefill(model, [r.prompt_ids for r in requests], [r.n for r in requests], pad=0)
    cache, mask, logits = start.cache, start.mask, start.logits
    noise = np.stack([uniforms(r.seed + i, decoding.max_new_tokens) for r in requests for i in range(r.n)])
    stops = torch.tensor(decoding.stop_ids, device=device)
    total = unfinished = len(noise)
    ids: list[list[int]] = [[] for _ in range(total)]
    finish = ["length"] * total
    log_probs: list[list[float]] = [[] for _ in range(total)]
    seen = None
    if decoding.repetition_penalty != 1:
        prompts, repeats = [r.prompt_ids for r in requests], [r.n for r in requests]
        seen = seen_tokens(prompts, repeats, logits.shape[-1]).to(device)
    tail = max(map(len, decoding.stop), default=0) + 4  # tokens in which a stop string ends
    rows = torch.arange(total)  # the original row behind each row still in the batch

    for step in range(decoding.max_new_tokens):
        here = torch.from_numpy(noise[rows.numpy(), step]).to(device)
        tokens = pick_tokens(shaped(logits, seen, decoding), here, decoding.temperature, decoding.top_p)
        drawn = token_log_probs(logits, tokens).tolist()
        stopped = torch.isin(tokens, stops).cpu()
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        each = zip(rows.tolist(), tokens.tolist(), drawn, stopped.tolist(), strict=True)
        for place, (row, token, log_prob, ended) in enumerate(each):
            ids[row].append(token)
            log_probs[row].append(log_prob)
            if decoding.stop and not ended:
                end = tokenizer.decode(ids[row][-tail:], skip_special_tokens=True)
                ended = any(stop in end for stop in decoding.stop)
                stopped[place] = ended
            if ended:
                finish[row] = "stop"
        if step + 1 == decoding.max_new_tokens:
            break
        if bool(stopped.any()):
            advance(int(stopped.sum()))
            unfinished -= int(stopped.sum())
            keep = (~stopped).nonzero()[:, 0]
            rows = rows[keep]
            if len(rows) == 0:
                break
            keep = keep.to(device)
            tokens, mask = tokens[keep], mask[keep]
            seen = None if seen is None else seen[keep]
            cache.reorder_cache(keep)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions(mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    advance(unfinished)
    return [Sampled(i, f, math.fsum(p), p) for i, f, p in zip(ids, finish, log_probs, strict=True)]
