"""What changes a distribution before a token is drawn: repetition penalty, min-p, top-k, in vLLM's order and with its
meanings, so that every backend draws from the same policy. Log-probs are of the policy without any of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from selfimprove.sampling.sampler import Decoding


def seen_tokens(prompts: Sequence[Sequence[int]], repeats: Sequence[int], vocabulary: int) -> torch.Tensor:
    """(rows, vocabulary) bool: the tokens of each row's prompt, which the penalty counts as said."""
    seen = torch.zeros(sum(repeats), vocabulary, dtype=torch.bool)
    row = 0
    for ids, count in zip(prompts, repeats, strict=True):
        seen[row : row + count, torch.tensor(list(ids))] = True
        row += count
    return seen


def shaped(logits: torch.Tensor, seen: torch.Tensor | None, decoding: Decoding) -> torch.Tensor:
    """(rows, vocabulary) logits: those of `seen` tokens divided (multiplied, where negative) by the repetition penalty
    (Keskar et al. 2019, arXiv 1909.05858), then -inf below min_p times the likeliest token's probability (Nguyen et al.
    2024, arXiv 2407.01082) and below the `top_k` likeliest. Unchanged where nothing is asked for."""
    if decoding.repetition_penalty != 1 and seen is not None:
        logits = logits.float()
        penalised = torch.where(logits > 0, logits / decoding.repetition_penalty, logits * decoding.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if decoding.temperature == 0 or not (decoding.min_p or decoding.top_k):
        return logits
    scaled = logits.float() / decoding.temperature
    out = torch.zeros_like(scaled, dtype=torch.bool)
    if decoding.min_p:
        probabilities = scaled.softmax(dim=-1)
        out |= probabilities < decoding.min_p * probabilities.amax(dim=-1, keepdim=True)
    if 0 < decoding.top_k < scaled.shape[-1]:
        left = scaled.masked_fill(out, -torch.inf)
        out |= left < left.topk(decoding.top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(out, -torch.inf)


def cut_at(text: str, stops: Sequence[str], start: int = 0) -> str:
    """The text up to the first of the stop strings behind `start`; whole where none is there.

    >>> cut_at("--- One.\\n---\\nTwo.", ["---"], 4)
    '--- One.\\n'
    """
    places = [place for stop in stops if (place := text.find(stop, start)) >= 0]
    return text[: min(places)] if places else text
