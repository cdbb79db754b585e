"""Episodes as tensors, and the logits of their trained tokens. A prompt's tokens are computed once for its samples.

Columns of a row: the prompt (padded left), y1 (right), the instruction (left), y2 (right). So y1's and y2's tokens each
lie in one run of columns for all rows, and only these columns, moved by one, go through the LM head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selfimprove.methods.score.rollouts import Episode
from selfimprove.models.batching import pad_left, pad_right, positions, prefill


@dataclass
class ScoreBatch:
    """B rows of one forward; G prompts.

    prompts: G lists of ids; samples: rows of each prompt. ids, mask (B, T) of what stands behind the prompts; turn_mask
    (B, T): 1 on the tokens of y1 (0 where the base wrote it), 2 on y2's; advantages (B, 2); kept: the columns, of T,
    whose logits are needed, each with the token in it predicted by the column before; sampler_log_probs (B, T): what
    the sampler says of the tokens it drew, NaN where it said nothing.
    """

    prompts: list[tuple[int, ...]]
    samples: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    turn_mask: torch.Tensor
    kept: torch.Tensor
    advantages: torch.Tensor
    sampler_log_probs: torch.Tensor
    sampling_log_probs: torch.Tensor | None = None

    @property
    def trained(self) -> torch.Tensor:
        """(B, kept) bool: trained tokens among the kept columns."""
        return self.turn_mask[:, self.kept] > 0

    @property
    def targets(self) -> torch.Tensor:
        """(N,) ids of the trained tokens, row after row."""
        return self.ids[:, self.kept][self.trained]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(N,) values of the trained tokens at their places: (B, kept), 0 elsewhere."""
        return values.new_zeros(self.trained.shape).masked_scatter(self.trained, values)


def micro_batches(
    prompts: Sequence[tuple[int, ...]], episodes: Sequence[Episode], advantages: torch.Tensor, rows: int, device: Any
) -> list[ScoreBatch]:
    """The episodes in batches of at most `rows`, a prompt's together where they fit, longest first.

    Args:
        prompts: ids, by `Episode.prompt`.
        advantages: (episodes, 2).
    """
    groups: dict[int, list[int]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault(episode.prompt, []).append(number)
    pieces = [group[start : start + rows] for group in groups.values() for start in range(0, len(group), rows)]
    pieces.sort(key=lambda piece: -max(_length(prompts, episodes[number]) for number in piece))
    batches: list[list[list[int]]] = []
    for piece in pieces:
        if batches and sum(map(len, batches[-1])) + len(piece) <= rows:
            batches[-1].append(piece)
        else:
            batches.append([piece])
    return [_batch(prompts, episodes, advantages, batch, device) for batch in batches]


def _length(prompts: Sequence[tuple[int, ...]], episode: Episode) -> int:
    return len(prompts[episode.prompt]) + len(episode.between) + sum(len(one.ids) for one in episode.attempts)


def _batch(
    prompts: Sequence[tuple[int, ...]],
    episodes: Sequence[Episode],
    advantages: torch.Tensor,
    pieces: Sequence[Sequence[int]],
    device: Any,
) -> ScoreBatch:
    order = [number for piece in pieces for number in piece]
    chosen = [episodes[number] for number in order]
    blocks = [(*pad_right([e.first.ids for e in chosen], 0), 1)]
    if chosen[0].second is not None:
        blocks.append((*pad_left([e.between for e in chosen], 0), 0))
        blocks.append((*pad_right([e.second.ids for e in chosen if e.second], 0), 2))
    drawn = [torch.full(mask.shape, torch.nan) for _, mask, _ in blocks]
    for row, episode in enumerate(chosen):
        for block, attempt in zip(drawn[::2], episode.attempts, strict=True):
            block[row, : len(attempt.log_probs)] = torch.tensor(attempt.log_probs)
    own = torch.tensor([e.own_first for e in chosen])[:, None]
    turns = [mask * turn * (own if turn == 1 else 1) for _, mask, turn in blocks]
    turn_mask = torch.cat(turns, dim=1)
    return ScoreBatch(
        prompts=[prompts[episodes[piece[0]].prompt] for piece in pieces],
        samples=[len(piece) for piece in pieces],
        ids=torch.cat([ids for ids, _, _ in blocks], dim=1).to(device),
        mask=torch.cat([mask for _, mask, _ in blocks], dim=1).to(device),
        turn_mask=turn_mask.to(device),
        kept=turn_mask.any(dim=0).nonzero()[:, 0].to(device),
        advantages=advantages[order].to(device),
        sampler_log_probs=torch.cat(drawn, dim=1).to(device),
    )


def trained_logits(model: Any, batch: ScoreBatch, share_prompt: bool) -> torch.Tensor:
    """(N, vocabulary) logits that predict the trained tokens, row after row, with gradient.

    `share_prompt`: each prompt is computed once and its keys and values are used by all its rows, forwards and
    backwards; else every row computes its own. The numbers are the same but for rounding.
    """
    if share_prompt:
        start = prefill(model, batch.prompts, batch.samples, pad=0)
        before, cache, width = start.mask, start.cache, 0
        inputs, attention = batch.ids, torch.cat([before, batch.mask], dim=1)
    else:
        repeated = [ids for ids, n in zip(batch.prompts, batch.samples, strict=True) for _ in range(n)]
        ids, before = (tensor.to(batch.ids.device) for tensor in pad_left(repeated, 0))
        cache, width = None, ids.shape[1]
        inputs, attention = torch.cat([ids, batch.ids], dim=1), torch.cat([before, batch.mask], dim=1)
    columns = batch.kept + width - 1
    first = columns < 0  # y1's first token, which the shared prompt's last position predicts
    logits = model(
        input_ids=inputs,
        attention_mask=attention,
        position_ids=positions(attention)[:, attention.shape[1] - inputs.shape[1] :],
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=columns[~first],
    ).logits
    if bool(first.any()):
        logits = torch.cat([start.logits[:, None], logits], dim=1)
    return logits[batch.trained]
