"""Preference losses: tensors in, tensors out."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_preference_loss(margin: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """CREAM's consistency-regularised preference loss, one value per pair (arXiv 2410.12735, step f of
    Algorithm 1).

    C * L_DPO(chosen, rejected) + (1 - C) * L_DPO(rejected, chosen)
      = -C log sigma(h) - (1 - C) log sigma(-h)

    The gradient in h is sigma(h) - C and the minimum lies at h = logit(C): C = 1 is plain DPO, C = 1/2 pulls the
    margin to zero, and C < 1/2 prefers the rejected response. It is computed as softplus(-h) + (1 - C) h, which is
    the same and does not overflow.

    Args:
        margin: (pairs,) h, that is beta times the difference of the chosen and the rejected response's summed
            log-ratios to the loss reference.
        confidence: (pairs,) or scalar, C in [0, 1].

    Returns:
        (pairs,) losses in nats, not averaged.
    """
    confidence = torch.as_tensor(confidence, dtype=margin.dtype, device=margin.device)
    return F.softplus(-margin) + (1 - confidence) * margin
