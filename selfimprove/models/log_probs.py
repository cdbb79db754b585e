"""The log-probs of a text's tokens, and the texts that share a prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Group:
    """One prompt and the responses to score, as token ids; no response is empty."""

    prompt_ids: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]


def token_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability (nats, fp32) of each target id: logits (..., vocabulary), targets and result (...)."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    pieces = []
    # Not slices: backwards, each of them would be a gradient of zeros as large as all logits.
    for rows, ids in zip(flat.split(_LOGIT_ROWS), wanted.split(_LOGIT_ROWS), strict=True):
        wide = rows.float()
        pieces.append(wide.gather(1, ids[:, None])[:, 0] - wide.logsumexp(dim=-1))
    return torch.cat(pieces).reshape(targets.shape)


# Rows of logits turned into fp32 at once: 256 x 49,152 x 4 bytes is 50 MB.
_LOGIT_ROWS = 256
