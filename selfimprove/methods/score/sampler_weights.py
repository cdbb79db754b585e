"""How far the sampler is from the trainer, and what the loss may do about it. Tensors in, tensors out.

A sampler of another program (vLLM), another precision or another order of sums draws from a policy that is not quite
the one that is trained: off-policy without saying so (Yao et al. 2025, "Your efficient RL framework secretly brings you
off-policy RL training"). With s the sampler's log-prob of a token and t the trainer's, rho = exp(t - s):
    token_truncate  each token's term is weighted by min(rho, cap), truncated importance sampling;
    sequence_mask   a response (one turn) whose product of rho is above the cap has no term, others are weighted by it.
Both are TRL's modes of these names (1.16, `vllm_importance_sampling_mode`, whose cap is 3.0 too), with no lower bound.
"""

from __future__ import annotations

from typing import Literal

import torch

Mode = Literal["none", "token_truncate", "sequence_mask"]


def sampler_weights(
    log_probs: torch.Tensor, sampler: torch.Tensor, turn_mask: torch.Tensor, mode: Mode, cap: float
) -> torch.Tensor | None:
    """(B, T) weights of the policy-gradient terms, without gradient; None for `none`.

    Args:
        log_probs, sampler: (B, T) the trainer's and the sampler's, of the drawn tokens (nats). Where the sampler gave
            none (NaN) the weight is 1.
        turn_mask: (B, T) as in `score_loss`.
    """
    if mode == "none":
        return None
    difference = _difference(log_probs, sampler, turn_mask)
    if mode == "token_truncate":
        return difference.exp().clamp(max=cap)
    weights = torch.ones_like(difference)
    for turn in (1, 2):
        own = turn_mask == turn
        ratio = (difference * own).sum(dim=1, keepdim=True).exp()
        weights = torch.where(own, torch.where(ratio > cap, 0.0, ratio), weights)
    return weights


def sampler_figures(
    log_probs: torch.Tensor, sampler: torch.Tensor, turn_mask: torch.Tensor
) -> dict[str, torch.Tensor | int]:
    """`kl`: the sum over tokens of rho - 1 - log rho, an unbiased and never negative estimate of KL(sampler || trainer)
    in nats; `tokens`: how many; `ratio`: the largest rho (0 without any token)."""
    known = (turn_mask > 0) & sampler.isfinite()
    difference = _difference(log_probs, sampler, turn_mask)[known]
    return {
        "kl": (difference.expm1() - difference).sum(),
        "tokens": int(known.sum()),
        "ratio": difference.exp().max() if len(difference) else torch.zeros(()),
    }


def _difference(log_probs: torch.Tensor, sampler: torch.Tensor, turn_mask: torch.Tensor) -> torch.Tensor:
    """log rho in fp32 or wider, 0 outside the trained tokens and where the sampler's is not known."""
    outside = (turn_mask == 0) | ~sampler.isfinite()
    return (log_probs.detach() - sampler).masked_fill(outside, 0)
