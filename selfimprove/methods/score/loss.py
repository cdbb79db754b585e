"""SCoRe's policy-gradient objective (arXiv 2409.12917): tensors in, tensors out.

    Stage I  (Eq. 3)   max E[ r2 - beta2 KL(y1) - beta1 KL(y2) ]
    Stage II (Eq. 4)   max E[ r1 + r2' - beta1 (KL(y1) + KL(y2)) ],   r2' = r2 + alpha (r2 - r1)

y1 and y2 are the two attempts, r1 and r2 their rewards, KL is KL(policy || base) with the base model as the reference
in both stages. Credit is per turn (gamma = 0): the tokens of y1 learn from r1 alone, those of y2 from r2' alone.
Rewards -> `turn_returns` -> `turn_advantages` -> `score_loss`, which also takes `exact_kl`'s or `sampled_kl`'s terms.

Shapes: P prompts, S samples of each, B rows (one sample each: prompt, y1, instruction, y2), T positions, V vocabulary;
a last axis of 2 is the turn. A missing reward, or none due, is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch


def reward_tensor(rewards: Sequence[Any]) -> torch.Tensor:
    """Rewards in lists of any depth, None where the checker failed, as a tensor (fp32) with NaN there."""
    return torch.from_numpy(np.asarray(rewards, dtype=np.float32))


def turn_returns(first: torch.Tensor, second: torch.Tensor, stage: int, alpha: float = 10.0) -> torch.Tensor:
    """What each turn's tokens learn from (Eq. 3 and 4): r1 and r2, (...), to (..., 2).

    Stage I gives y1 no reward at all (NaN) and y2 r2. Stage II gives y1 r1 and y2 r2': at alpha = 10, 11 for wrong ->
    right, 1 right -> right, 0 wrong -> wrong, -10 right -> wrong; at alpha = 0 (plain multi-turn RL) r2 alone.
    """
    if stage == 1:
        return torch.stack([torch.full_like(second, torch.nan), second], dim=-1)
    if stage != 2:
        raise ValueError(f"stage {stage!r}: expected 1 or 2")
    return torch.stack([first, second + alpha * (second - first) if alpha else second], dim=-1)


def stage_betas(stage: int, beta1: float = 0.01, beta2: float = 0.1) -> tuple[float, float]:
    """The KL's weight on y1 and on y2: Stage I holds y1 with the strong beta2, Stage II both with beta1."""
    return (beta2 if stage == 1 else beta1), beta1


def effective_beta(beta: float, policy_reduction: str, kl_reduction: str, tokens: float) -> float:
    """The KL's weight in force against the reward, in the terms of Eq. 3 and 4 (KL of a whole response), where a turn's
    responses have `tokens` tokens on average. `beta` itself where both terms are reduced alike.

    >>> effective_beta(0.1, "mean", "mean", 400), effective_beta(0.1, "sum", "mean", 400)
    (0.1, 0.00025)
    """
    if policy_reduction == kl_reduction:
        return beta
    return beta / tokens if kl_reduction == "mean" else beta * tokens


def turn_advantages(
    returns: torch.Tensor,
    leave_out: torch.Tensor | None = None,
    first_attempt: torch.Tensor | None = None,
    second_baseline: Literal["prompt", "first_attempt"] = "prompt",
    whiten: bool = False,
) -> torch.Tensor:
    """Returns minus a leave-one-out baseline per turn, (P, S, 2) to (P, S, 2). A missing return is in no baseline.

    y1's baseline is the mean over the prompt's samples with another first attempt: where several samples share one
    y1, their r1 is its own reward, and subtracting it would cancel the signal. y2's is the mean over the prompt's
    other samples, or (`first_attempt`) over those with the same y1, and over the prompt where there are none. A sample
    without any peer has baseline 0: plain REINFORCE, unbiased, so one sample per prompt still learns.

    Whitening divides by the standard deviation over the same samples and itself. It is off: over samples that share
    y1, r1 is a constant and std(r2') = (1 + alpha) std(r2), so alpha cancels exactly; with one y1 per sample it
    divides by std((1 + alpha) r2 - alpha r1), which depends on how often y2 copies y1.

    Args:
        leave_out: (P, S, 2) bool, treated as missing: truncated responses, or a y1 that the policy did not write.
            What is left out is in effect worth its baseline: truncation is then not punished.
        first_attempt: (P, S) any integers, equal where samples of a prompt share y1. None: no two do.
    """
    known = returns.isfinite() if leave_out is None else returns.isfinite() & ~leave_out.bool()
    prompts, samples = returns.shape[:2]
    if first_attempt is None:
        first_attempt = torch.arange(samples, device=returns.device).expand(prompts, samples)
    same = first_attempt[:, :, None] == first_attempt[:, None, :]
    others = ~torch.eye(samples, dtype=torch.bool, device=returns.device).expand_as(same)
    siblings = same & others & known[:, None, :, 1]
    grouped = siblings.any(dim=-1, keepdim=True) & (second_baseline == "first_attempt")
    second_peers = torch.where(grouped, siblings, others)
    turns = []
    for turn, peers in enumerate((~same, second_peers)):
        baseline, spread = leave_one_out(returns[..., turn], known[..., turn], peers)
        advantage = returns[..., turn] - baseline
        turns.append((advantage / (spread + 1e-6) if whiten else advantage).masked_fill(~known[..., turn], torch.nan))
    return torch.stack(turns, dim=-1)


def leave_one_out(returns: torch.Tensor, known: torch.Tensor, peers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each sample's known peers (0 without any), and the standard deviation of these and itself (then 1):
    returns and known (P, S), peers (P, S, S) bool, [p, i, j] = j may count for i; both results (P, S).
    """
    usable = peers & known[:, None, :]
    values = returns[:, None, :].expand_as(usable)
    baseline = torch.where(usable, values, torch.nan).nanmean(dim=-1).nan_to_num()
    group = torch.where(usable | torch.eye(len(usable[0]), dtype=torch.bool, device=usable.device), values, torch.nan)
    spread = (group - group.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()
    return baseline, torch.where(usable.any(dim=-1), spread, 1)


def exact_kl(policy_logits: torch.Tensor, base_logits: torch.Tensor, chunk: int = 64) -> torch.Tensor:
    """KL(policy || base) over the whole vocabulary at every position, in nats: two (..., T, V) to (..., T).

    A loss form: the gradient, in the policy's logits alone, is that of each position's KL with its prefix given; that
    the token drawn there changes the KL of later positions is ignored. Both logits at the sampling temperature.

    Only `chunk` positions at a time are widened to fp32 and nothing of them is kept: beyond both logits and one
    gradient the cost is a few (..., chunk, V). Positions are independent: give only the trained ones,
    `logits[turn_mask > 0]`, or call this on slices so that the logits never stand in memory as a whole.
    """
    return _ExactKL.apply(policy_logits, base_logits.detach(), chunk)


class _ExactKL(torch.autograd.Function):
    """Own backward, in chunks: the gradient of sum p log(p / q) in the logits of p is p (log(p / q) - KL)."""

    @staticmethod
    def forward(ctx: Any, policy: torch.Tensor, base: torch.Tensor, chunk: int) -> torch.Tensor:
        ctx.save_for_backward(policy, base)
        ctx.chunk = chunk
        return torch.cat([(p * log_ratio).sum(dim=-1) for p, log_ratio in _chunks(policy, base, chunk)], dim=-1)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        policy, base = ctx.saved_tensors
        gradient = torch.empty_like(policy)
        parts = zip(gradient.split(ctx.chunk, -2), upstream.split(ctx.chunk, -1), strict=True)
        for (part, g), (p, log_ratio) in zip(parts, _chunks(policy, base, ctx.chunk), strict=True):
            part.copy_(p * (log_ratio - (p * log_ratio).sum(dim=-1, keepdim=True)) * g[..., None])
        return gradient, None, None


def _chunks(policy: torch.Tensor, base: torch.Tensor, chunk: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The policy's probabilities and log(policy / base), (..., chunk, V), fp32 or wider."""
    wide = torch.promote_types(policy.dtype, torch.float32)
    for p, q in zip(policy.split(chunk, -2), base.split(chunk, -2), strict=True):
        log_p = p.to(wide).log_softmax(dim=-1)
        yield log_p.exp(), log_p - q.to(wide).log_softmax(dim=-1)


def sampled_kl(
    log_probs: torch.Tensor,
    base_log_probs: torch.Tensor,
    turn_mask: torch.Tensor,
    form: Literal["k2", "k3", "reward"],
    sampling_log_probs: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL(policy || base) from the sampled tokens alone, in nats per token: all (B, T), `turn_mask` as in `score_loss`.

    With d = log policy - log base and w = policy / sampling policy (1 on the policy's own samples, but with a
    gradient), the gradient of each form is in expectation over the sampled tokens that of the KL:
        k2: w d^2 / 2, w held fixed; the value is the KL to second order only.
        k3: w (exp(-d) - 1 + d), TRL's `use_bias_correction_kl`. Every token's gradient is k2's, w d grad log policy;
            the value is unbiased and never negative.
        reward: the log-ratio as a reward, w (sum of d from here to the turn's end) grad log policy; the value is w d.
    k2 and k3 are loss forms and ignore later positions, as `exact_kl` does; reward-to-go counts the turn's later
    positions and so has the gradient of the whole response's KL, with more noise. None carries the KL of y2 to y1.
    Not offered: k3 without w (the gradient of KL(base || policy)) and d itself as a loss (zero on average).
    """
    outside = turn_mask == 0
    d = log_probs.masked_fill(outside, 0) - base_log_probs.detach().masked_fill(outside, 0)
    w = importance_ratio(log_probs, sampling_log_probs, outside)
    if form == "k2":
        return w.detach() * d.square() / 2
    if form == "k3":
        return w * (torch.expm1(-d) + d)
    if form != "reward":
        raise ValueError(f"KL form {form!r}: expected k2, k3 or reward")
    fixed, to_go = d.detach(), torch.zeros_like(d)
    for own in (turn_mask == 1, turn_mask == 2):
        to_go += (fixed * own).flip(-1).cumsum(dim=-1).flip(-1) * own
    return w.detach() * fixed + to_go * (w - w.detach())


def importance_ratio(log_probs: torch.Tensor, sampling: torch.Tensor | None, outside: torch.Tensor) -> torch.Tensor:
    """policy / sampling policy of each token, (B, T), 1 where `outside`; without the latter's, 1 with a gradient."""
    before = log_probs if sampling is None else sampling
    return (log_probs - before.detach()).masked_fill(outside, 0).exp()


class Counts(NamedTuple):
    """What the means of `score_loss` divide by, each (2,): a turn's responses and tokens."""

    samples: torch.Tensor  # of all rows: the KL's
    tokens: torch.Tensor
    scored_samples: torch.Tensor  # of the rows with an advantage: the policy gradient's
    scored_tokens: torch.Tensor


def count(turn_mask: torch.Tensor, advantages: torch.Tensor) -> Counts:
    """Of a batch: turn_mask (B, T), advantages (B, 2)."""
    tokens = torch.stack([(turn_mask == turn).sum(dim=1) for turn in (1, 2)], dim=1)
    scored = tokens * advantages.isfinite()
    return Counts((tokens > 0).sum(dim=0), tokens.sum(dim=0), (scored > 0).sum(dim=0), scored.sum(dim=0))


def score_loss(
    log_probs: torch.Tensor,
    turn_mask: torch.Tensor,
    advantages: torch.Tensor,
    kl: torch.Tensor,
    betas: tuple[float, float],
    *,
    sampling_log_probs: torch.Tensor | None = None,
    clip_range: float | None = None,
    policy_reduction: Literal["sum", "mean"] = "mean",
    kl_reduction: Literal["sum", "mean"] = "mean",
    weights: torch.Tensor | None = None,
    counts: Counts | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of Stage I and Stage II: sum over turns t of  - A_t log pi(y_t | x_t) + beta_t KL_t(policy || base).

    Reductions, per turn. "sum": tokens summed, responses averaged: the formula as written, whose expectation is the
    gradient of E[r] - beta KL. "mean": the average over all the turn's tokens in the batch, that is the sum form over
    the mean length, so that a step does not grow with the answers' length. Not the mean of responses' means: a long
    response's token would count less. Both "sum", or both "mean", keep the formula's ratio of reward to KL; of unlike
    ones the beta in force is another (`effective_beta`).

    Args:
        log_probs: (B, T) the policy's, of the token at each position (nats, with gradient).
        turn_mask: (B, T) 1 on y1's tokens, 2 on y2's, 0 on prompt, instruction, padding and a y1 given as a prompt
            (the base model's). Where it is 0 the other tensors may hold anything, also NaN.
        advantages: (B, 2) of `turn_advantages`; NaN: no policy gradient, the KL stays.
        kl: (B, T) nats per token with gradient, of `exact_kl` or `sampled_kl`.
        betas: the KL's weight on y1 and on y2, of `stage_betas`.
        sampling_log_probs: (B, T) of the policy that sampled, for several steps on one batch: the term is -A ratio.
        weights: (B, T) of `sampler_weights`, of the policy gradient's terms alone.
        clip_range: epsilon of PPO's clipping, per token: -min(A ratio, A clamp(ratio, 1 - epsilon, 1 + epsilon)).
        counts: of the whole batch where this is a part of it: the parts' losses, gradients and figures then add up.

    Returns: the scalar loss, and per turn, detached, `policy_gradient/turn_t` (as reduced; only its gradient means
    anything), `kl/turn_t` (nats per token, before beta) and `clip_fraction/turn_t` (of the tokens with an advantage).
    """
    if clip_range is not None and sampling_log_probs is None:
        raise ValueError("clip_range needs sampling_log_probs: without them every ratio is 1")
    outside = turn_mask == 0
    ratio = importance_ratio(log_probs, sampling_log_probs, outside)
    policy_term = log_probs.masked_fill(outside, 0) if sampling_log_probs is None else ratio
    counts = count(turn_mask, advantages) if counts is None else counts
    samples, tokens, scored_samples, scored_tokens = (number.clamp(min=1) for number in counts)
    loss, figures = torch.zeros((), dtype=log_probs.dtype, device=log_probs.device), {}
    for t, beta in enumerate(betas):
        own, advantage = turn_mask == t + 1, advantages[:, t, None].nan_to_num().to(log_probs)  # missing: no term
        gain, clipped = advantage * policy_term, torch.zeros_like(own)
        if clip_range is not None:
            bounded = advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
            gain, clipped = torch.minimum(gain, bounded), bounded < gain
        if weights is not None:
            gain = gain * weights
        policy = -(gain * own).sum() / (scored_samples if policy_reduction == "sum" else scored_tokens)[t]
        divergence = kl.masked_fill(~own, 0).sum()
        loss = loss + policy + beta * divergence / (samples if kl_reduction == "sum" else tokens)[t]
        figures[f"policy_gradient/turn_{t + 1}"] = policy.detach()
        figures[f"kl/turn_{t + 1}"] = divergence.detach() / tokens[t]
        figures[f"clip_fraction/turn_{t + 1}"] = (clipped & own).sum() / scored_tokens[t]
    return loss, figures
