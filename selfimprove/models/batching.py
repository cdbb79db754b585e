"""Batches by token budget, and prompts computed once for all their responses.

Sampling and scoring both start from `prefill`: the prompt's keys and values are computed once per prompt and
repeated for its responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def token_budget_batches(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices grouped so that (items x largest cost) stays within `budget` tokens; longest first.

    Sorting by cost keeps padding small; ties keep their order, so batches are the same on every run.
    An item above the budget gets a batch of its own.
    """
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * costs[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (rows, longest), padded on the left."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[value] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def pad_right(rows: Sequence[Sequence[int]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (rows, longest), padded on the right."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([list(row) + [value] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids that count real tokens only: (rows, width) from an attention mask of the same shape."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


@dataclass
class Prefilled:
    """Prompts computed once: `cache` and `mask` have a row per response, `logits` (rows, vocabulary) predict its
    first token."""

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor


def prefill(model: Any, prompts: Sequence[Sequence[int]], repeats: Sequence[int], pad: int) -> Prefilled:
    """Computes each prompt once and repeats its keys and values for its responses.

    Args:
        prompts: token ids, none empty.
        repeats: how many rows of the result each prompt has.
        pad: any id; padded positions are masked.
    """
    import torch
    from transformers import DynamicCache

    ids, mask = pad_left(prompts, pad)
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = DynamicCache(config=getattr(model, "module", model).config)  # data parallelism wraps a model
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    rows = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(list(repeats))).to(model.device)
    cache.reorder_cache(rows)  # not batch_select_indices, which layers with a state in place of keys do not have
    return Prefilled(cache, mask[rows], logits[rows])
