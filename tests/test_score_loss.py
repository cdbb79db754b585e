"""SCoRe's objective: by enumeration on a vocabulary of three tokens, by hand, and against a plain slow reference."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.methods.score.loss import (
    count,
    exact_kl,
    leave_one_out,
    reward_tensor,
    sampled_kl,
    score_loss,
    stage_betas,
    turn_advantages,
    turn_returns,
)

FORMS = ("exact", "k2", "k3", "reward")
NAN = math.nan


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- a tiny policy: both attempts have two tokens of a vocabulary of three, and every prefix its own logits

SEQUENCES = torch.tensor(list(product(range(3), repeat=4)))  # (81, 4): y1's two tokens, y2's two tokens
PREFIX = torch.stack([torch.zeros(81, dtype=torch.long), *(SEQUENCES[:, :n] @ torch.tensor([3**i for i in range(n)])
                                                           for n in (1, 2, 3))], dim=1)  # fmt: skip
LAYOUT = torch.tensor([0, 1, 1, 0, 2, 2, 0]).expand(81, 7)  # prompt, y1, y1, instruction, y2, y2, padding
FIRST = (noise(9, seed=1) > 0).double()[PREFIX[:, 2]]  # r1 depends on y1
SECOND = (noise(81, seed=2) > 0).double()  # r2 on both


class Tiny:
    """Logits (prefixes, 3) for each of the four positions: `tables[:2]` write y1, `tables[2:]` y2."""

    def __init__(self, seed: int) -> None:
        self.tables = [noise(3**n, 3, seed=10 * seed + n).requires_grad_() for n in range(4)]

    def logits(self) -> torch.Tensor:
        """(81, 7, 3), zeros outside the two attempts."""
        used = torch.stack([table[PREFIX[:, n]] for n, table in enumerate(self.tables)], dim=1)
        gap = torch.zeros(81, 1, 3, dtype=used.dtype)
        return torch.cat([gap, used[:, :2], gap, used[:, 2:], gap], dim=1)

    def log_probs(self) -> torch.Tensor:
        ids = torch.cat(
            [torch.zeros(81, 1), SEQUENCES[:, :2], torch.zeros(81, 1), SEQUENCES[:, 2:], torch.zeros(81, 1)], 1
        )
        return self.logits().log_softmax(-1).gather(-1, ids.long()[..., None])[..., 0]

    def probability(self) -> torch.Tensor:
        """(81,) of each pair of attempts."""
        return (self.log_probs() * (LAYOUT > 0)).sum(1).exp()

    def gradient(self, value: torch.Tensor) -> list[torch.Tensor]:
        found = torch.autograd.grad(value, self.tables, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(self.tables, found, strict=True)]


POLICY, BASE = Tiny(1), Tiny(2)


def kl_of(form: str, policy: Tiny = POLICY, base: Tiny = BASE) -> torch.Tensor:
    if form == "exact":
        return exact_kl(policy.logits(), base.logits(), chunk=2)
    return sampled_kl(policy.log_probs(), base.log_probs(), LAYOUT, form)  # type: ignore[arg-type]


def expected_gradient(advantages: torch.Tensor, form: str, betas: tuple[float, float], **options: Any) -> list[Any]:
    """The mean gradient of the loss of one sample, over all 81 samples by their probability."""
    log_probs, kl, weights = POLICY.log_probs(), kl_of(form), POLICY.probability().detach()
    total: Any = 0
    for i, weight in enumerate(weights):
        row = slice(i, i + 1)
        given = {"policy_reduction": "sum", **options}  # the formula as written
        total += weight * score_loss(log_probs[row], LAYOUT[row], advantages[row], kl[row], betas, **given)[0]
    return POLICY.gradient(total)


def analytic_reward_gradient(first: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor]:
    """Of E[first] on the tables that write y1 and of E[second] on those that write y2 (gamma = 0)."""
    of_first, of_second = (POLICY.gradient((POLICY.probability() * r).sum()) for r in (first, second))
    return of_first[:2] + of_second[2:]


def analytic_kl_gradient(form: str, turn: int) -> list[torch.Tensor]:
    """Of the turn's KL(policy || base): the whole response's for reward-to-go; for loss forms that of each position
    with the chance of its prefix held fixed, so that later positions are ignored."""
    n = 2 * (turn - 1)
    tables, base = POLICY.tables[n : n + 2], BASE.tables[n : n + 2]
    chance = POLICY.probability().detach()
    log_probs = POLICY.log_probs()[:, [1, 2, 4, 5]]
    value: Any = 0
    for k, (table, other) in enumerate(zip(tables, base, strict=True)):
        each = (table.softmax(-1) * (table.log_softmax(-1) - other.log_softmax(-1))).sum(-1)[PREFIX[:, n + k]]
        within = log_probs[:, n : n + k].sum(1)  # of the turn's earlier tokens
        prefix = (within - within.detach()).exp() if form == "reward" else 1
        value += (chance * prefix * each).sum()
    return POLICY.gradient(value)


def close(found: list[torch.Tensor], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 0.5)])
def test_score_stage_1_trains_the_first_attempt_on_its_kl_alone(form: str, reduction: Any, share: float) -> None:
    advantages = turn_returns(FIRST, SECOND, stage=1)
    found = expected_gradient(advantages, form, stage_betas(1, beta1=0.3, beta2=0.7), kl_reduction=reduction)
    held = [0.7 * share * g for g in analytic_kl_gradient(form, turn=1)[:2]]
    assert all(g.abs().max() > 1e-3 for g in held)
    reward = analytic_reward_gradient(FIRST, SECOND)[2:]
    learns = [0.3 * share * k - r for k, r in zip(analytic_kl_gradient(form, turn=2)[2:], reward, strict=True)]
    close(found, held + learns)


@pytest.mark.parametrize("form", FORMS)
def test_score_stage_2_is_the_gradient_of_equation_4_with_credit_per_turn(form: str) -> None:
    returns = turn_returns(FIRST, SECOND, stage=2, alpha=10.0)
    found = expected_gradient(returns, form, stage_betas(2, beta1=0.3, beta2=9.0), kl_reduction="sum")
    reward = analytic_reward_gradient(FIRST, returns[:, 1])
    kl = [a + b for a, b in zip(analytic_kl_gradient(form, 1), analytic_kl_gradient(form, 2), strict=True)]
    close(found, [0.3 * k - r for k, r in zip(kl, reward, strict=True)])


def test_score_stage_2_first_attempt_ignores_the_second_reward_and_the_second_does_not() -> None:
    # Sample by sample, not only in expectation.
    log_probs, kl = POLICY.log_probs(), kl_of("exact")
    gradients = []
    for second in (SECOND, 1 - SECOND):
        advantages = turn_returns(FIRST, second, stage=2)
        (g,) = torch.autograd.grad(score_loss(log_probs, LAYOUT, advantages, kl, (0.1, 0.1))[0], log_probs,
                                   retain_graph=True)  # fmt: skip
        gradients.append(g)
    difference = (gradients[0] - gradients[1]).abs()
    assert difference[:, [1, 2]].max() == 0
    assert difference[:, [4, 5]].min() > 0.01


def test_kl_loss_forms_ignore_later_positions_and_reward_to_go_does_not() -> None:
    # Against the KL of the whole first attempt, sum over y1 of p log (p / q), differentiated as it stands.
    y1, q1 = ((p.log_probs()[:, 1:3].sum(1)) for p in (POLICY, BASE))
    y2 = POLICY.log_probs()[:, 4:6].sum(1).detach()
    whole = POLICY.gradient(((y1 + y2).exp() * (y1 - q1.detach())).sum())[:2]
    none = torch.full((81, 2), NAN)
    close(expected_gradient(none, "reward", (1.0, 0.0), kl_reduction="sum")[:2], whole)
    for form in ("exact", "k2", "k3"):
        first_token, last_token = expected_gradient(none, form, (1.0, 0.0), kl_reduction="sum")[:2]
        assert (first_token - whole[0]).abs().max() > 0.01
        torch.testing.assert_close(last_token, whole[1])


def test_shaping_multiplies_the_second_turns_expected_gradient_by_one_plus_alpha() -> None:
    shaped, plain = (expected_gradient(turn_returns(FIRST, SECOND, 2, alpha), "exact", (0, 0)) for alpha in (10.0, 0.0))
    close(shaped, plain[:2] + [11 * g for g in plain[2:]])


# ---- what public copies get wrong


def test_one_summed_return_for_both_turns_punishes_a_right_first_attempt() -> None:
    summed = FIRST + turn_returns(FIRST, SECOND, 2, alpha=10.0)[:, 1]  # r1 + r2 + alpha (r2 - r1)
    theirs = expected_gradient(torch.stack([summed, summed], 1), "exact", (0, 0))
    ours = expected_gradient(turn_returns(FIRST, SECOND, 2, alpha=10.0), "exact", (0, 0))
    assert (theirs[0] - ours[0]).abs().max() > 0.1
    # Where the second attempt is always wrong, y1 is trained on -9 r1: exactly the wrong way.
    zeros = torch.zeros_like(SECOND)
    returns = turn_returns(FIRST, zeros, 2, alpha=10.0)
    summed = returns.sum(1)
    theirs = expected_gradient(torch.stack([summed, summed], 1), "exact", (0, 0))
    ours = expected_gradient(returns, "exact", (0, 0))
    close(theirs[:2], [-9 * g for g in ours[:2]])


def test_kl_of_the_first_attempt_inside_the_second_ones_reward_does_not_anchor_it() -> None:
    # Copies multiply log pi(y2) with r2 - beta2 KL(y1): y1's own tokens then have no gradient at all.
    log_ratio = (POLICY.log_probs() - BASE.log_probs()).detach()[:, 1:3].sum(1)
    reward = torch.stack([torch.full((81,), NAN), SECOND - 0.5 * log_ratio], dim=1)
    theirs = expected_gradient(reward, "exact", (0.0, 0.0))
    ours = expected_gradient(turn_returns(FIRST, SECOND, 1), "exact", stage_betas(1, beta1=0.0, beta2=0.5))
    assert [float(g.abs().max()) for g in theirs[:2]] == [0.0, 0.0]
    assert min(float(g.abs().max()) for g in ours[:2]) > 0.01


def one_position(form: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient of each form's mean under a policy that sampled, which is not the policy trained."""
    logits, base, sampling = (noise(3, seed=s).log_softmax(-1) for s in (3, 4, 5))
    logits.requires_grad_()
    each = sampled_kl(logits.log_softmax(-1)[:, None], base[:, None], torch.ones(3, 1), form, sampling[:, None])  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad((sampling.exp() * each[:, 0]).sum(), logits)
    return gradient, each[:, 0].detach(), logits, base, sampling


@pytest.mark.parametrize("form", ["k2", "k3", "reward"])
def test_sampled_kl_stays_the_policys_kl_where_an_older_policy_sampled(form: str) -> None:
    gradient, each, logits, base, sampling = one_position(form)
    kl = exact_kl(logits[None], base[None])[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(kl, logits)[0])
    if form != "k2":
        assert float((sampling.exp() * each).sum()) == pytest.approx(float(kl.detach()))


def test_plain_k3_as_a_loss_has_the_gradient_of_the_other_kl() -> None:
    logits, base = noise(3, seed=3).requires_grad_(), noise(3, seed=4).log_softmax(-1)
    log_probs = logits.log_softmax(-1)
    chance = log_probs.exp().detach()
    d = log_probs - base
    (plain,) = torch.autograd.grad((chance * (torch.exp(-d) - 1 + d)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((base.exp() * (base - log_probs)).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad(exact_kl(logits[None], base[None])[0], logits, retain_graph=True)
    torch.testing.assert_close(plain, forward)  # KL(base || policy)
    assert (plain - reverse).abs().max() > 0.05
    (nothing,) = torch.autograd.grad((chance * d).sum(), logits)  # the log-ratio itself: no gradient on average
    assert nothing.abs().max() < 1e-15


def test_k2_and_k3_have_the_same_gradient_on_every_token() -> None:
    log_probs, other = noise(2, 5, seed=6).requires_grad_(), noise(2, 5, seed=7)
    mask = torch.tensor([[0, 1, 1, 2, 2]] * 2)
    for sampling in (None, noise(2, 5, seed=8)):
        k2, k3 = (torch.autograd.grad(sampled_kl(log_probs, other, mask, form, sampling).sum(), log_probs)[0]  # type: ignore[arg-type]
                  for form in ("k2", "k3"))  # fmt: skip
        torch.testing.assert_close(k2, k3)


# ---- returns and advantages


def test_the_four_transitions_are_worth_11_1_0_and_minus_10() -> None:
    first, second = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert turn_returns(first, second, 2, alpha=10.0)[:, 1].tolist() == [11.0, 1.0, 0.0, -10.0]
    assert turn_returns(first, second, 2, alpha=10.0)[:, 0].tolist() == first.tolist()
    assert turn_returns(first, second, 1)[:, 1].tolist() == second.tolist()
    with pytest.raises(ValueError, match="expected 1 or 2"):
        turn_returns(first, second, 3)


def test_stages_hold_the_turns_with_their_own_beta() -> None:
    assert stage_betas(1, beta1=0.01, beta2=0.25) == (0.25, 0.01)
    assert stage_betas(2, beta1=0.01, beta2=0.25) == (0.01, 0.01)


def test_a_missing_reward_is_missing_where_it_is_needed_and_only_there() -> None:
    first, second = reward_tensor([[None, 1.0, 0.0]]), reward_tensor([[1.0, NAN, 1.0]])
    missing = turn_returns(first, second, 2, alpha=10.0).isnan()
    assert missing.tolist() == [[[True, True], [False, True], [False, False]]]
    assert turn_returns(first, second, 2, alpha=0.0)[0, 0].isnan().tolist() == [True, False]
    assert turn_returns(first, second, 1).isnan()[0].tolist() == [[True, False], [True, True], [True, False]]


def both_turns(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)[..., None].expand(1, len(values), 2)


def test_leave_one_out_by_hand() -> None:
    advantages = turn_advantages(both_turns(1.0, 0.0, 0.0, 0.0))
    expected = torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3], dtype=torch.float64)
    torch.testing.assert_close(advantages[0, :, 0], expected)
    torch.testing.assert_close(advantages[0, :, 1], expected)


def test_a_missing_reward_is_not_zero_in_the_baseline() -> None:
    advantages = turn_advantages(both_turns(1.0, NAN, 0.0, 1.0))[0, :, 1]
    assert advantages.isnan().tolist() == [False, True, False, False]
    assert advantages[[0, 2, 3]].tolist() == [0.5, -1.0, 0.5]


def test_truncated_responses_can_be_left_out_of_one_turn() -> None:
    leave_out = torch.tensor([[[False, False], [False, True], [False, False]]])
    advantages = turn_advantages(both_turns(1.0, 0.0, 0.0), leave_out)[0]
    assert advantages[:, 0].tolist() == [1.0, -0.5, -0.5]
    assert advantages[[0, 2], 1].tolist() == [1.0, -1.0]
    assert advantages[1, 1].isnan()


def test_a_sample_without_peers_has_baseline_zero() -> None:
    assert turn_advantages(both_turns(11.0))[0, 0].tolist() == [11.0, 11.0]
    assert turn_advantages(both_turns(NAN, -10.0, NAN), whiten=True)[0, 1, 1] == pytest.approx(-10.0, rel=1e-5)


def test_a_first_attempts_own_reward_is_not_in_its_baseline_where_samples_share_it() -> None:
    returns = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    shared = torch.tensor([[7, 7, 3, 3]])
    assert turn_advantages(returns, first_attempt=shared)[0, :, 0].tolist() == [1.0, 1.0, -1.0, -1.0]
    # Left alone, samples that share y1 would cancel much of its signal: 1 - (1 + 0 + 0) / 3.
    assert turn_advantages(returns)[0, 0, 0] == pytest.approx(2 / 3)


def test_second_attempts_can_be_held_against_those_from_the_same_first_attempt() -> None:
    returns = torch.tensor([[[1.0, 1.0], [1.0, -10.0], [0.0, 11.0], [0.0, 0.0], [1.0, 1.0]]])
    shared = torch.tensor([[0, 0, 1, 1, 2]])
    grouped = turn_advantages(returns, first_attempt=shared, second_baseline="first_attempt")[0, :, 1]
    assert grouped.tolist() == [11.0, -11.0, 11.0, -11.0, 0.5]  # the last is alone: held against the prompt's others
    returns[0, 3, 1] = NAN  # now the third has no known neighbour either
    fallback = turn_advantages(returns, first_attempt=shared, second_baseline="first_attempt")[0, :, 1]
    assert fallback[2] == pytest.approx(11 - (1 - 10 + 1) / 3)
    returns[0, 3, 1] = 0.0
    over_prompt = turn_advantages(returns, first_attempt=shared)[0, :, 1]
    torch.testing.assert_close(over_prompt, returns[0, :, 1] - torch.tensor([0.5, 13 / 4, -8 / 4, 3 / 4, 0.5]))


@pytest.mark.parametrize("alpha", [0.0, 10.0])
def test_alpha_survives_the_default_and_is_cancelled_by_whitening_over_a_shared_first_attempt(alpha: float) -> None:
    first = torch.tensor([[1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    shared = torch.zeros(1, 4, dtype=torch.long)
    plain, whitened = (
        turn_advantages(turn_returns(first, second, 2, alpha), None, shared, "first_attempt", whiten)[0, :, 1]
        for whiten in (False, True)
    )
    torch.testing.assert_close(plain, (1 + alpha) * torch.tensor([2 / 3, -2 / 3, -2 / 3, 2 / 3], dtype=torch.float64))
    expected = torch.tensor([4 / 3, -4 / 3, -4 / 3, 4 / 3], dtype=torch.float64)  # std = 1/2, whatever alpha
    torch.testing.assert_close(whitened, expected, atol=1e-5, rtol=0)


def test_whitening_with_one_first_attempt_per_sample_depends_on_how_much_the_second_copies() -> None:
    first = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    for second, spread in (
        (first, 0.5),  # all copies: r2' = r1, std 1/2 although alpha = 10
        (torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64), math.sqrt(55.25)),  # r2' = 1, 11, -10, 0
    ):
        returns = turn_returns(first, second, 2, alpha=10.0)
        ratio = turn_advantages(returns)[..., 1] / turn_advantages(returns, whiten=True)[..., 1]
        torch.testing.assert_close(ratio, torch.full_like(ratio, spread), atol=1e-5, rtol=0)


def test_whitening_equal_returns_gives_zero_and_no_rounding_noise() -> None:
    returns = torch.full((1, 7, 2), 0.3)  # the mean of six of them is not 0.3 in fp32
    assert turn_advantages(returns).abs().max() > 0
    assert turn_advantages(returns, whiten=True).abs().max() < 0.1


@pytest.mark.parametrize("second_baseline", ["prompt", "first_attempt"])
def test_baselines_leave_the_expected_gradient_where_it_is(second_baseline: Any) -> None:
    # One prompt, two first attempts of one token, two second attempts of each: all 3^2 x 3^4 outcomes.
    y1_logits, y2_logits = noise(3, seed=20).requires_grad_(), noise(3, 3, seed=21).requires_grad_()
    first_reward, second_reward = torch.tensor([1.0, 0.0, 0.0]), (noise(3, 3, seed=22) > 0).double()
    outcomes = torch.tensor(list(product(range(3), repeat=6)))
    y1, y2 = outcomes[:, :2].repeat_interleave(2, dim=1), outcomes[:, 2:]  # (729, 4)
    log_y1, log_y2 = y1_logits.log_softmax(-1)[y1], y2_logits.log_softmax(-1)[y1, y2]
    chance = (log_y1[:, ::2].sum(1) + log_y2.sum(1)).exp().detach()
    returns = turn_returns(first_reward[y1].double(), second_reward[y1, y2], 2, alpha=10.0)
    shared = torch.tensor([0, 0, 1, 1]).expand(729, 4)
    a = turn_advantages(returns, first_attempt=shared, second_baseline=second_baseline)
    estimate = (chance * (a[..., 0] * log_y1 + a[..., 1] * log_y2).mean(1)).sum()
    found = torch.autograd.grad(estimate, (y1_logits, y2_logits))
    p1, p2 = y1_logits.softmax(-1), y2_logits.softmax(-1)
    shaped = second_reward + 10.0 * (second_reward - first_reward[:, None])
    objective = (p1 * first_reward).sum() + (p1.detach()[:, None] * p2 * shaped).sum()
    close(list(found), list(torch.autograd.grad(objective, (y1_logits, y2_logits))))


@given(st.lists(st.sampled_from([-10.0, 0.0, 1.0, 11.0, NAN]), min_size=1, max_size=6), st.floats(-3, 3))
def test_advantages_sum_to_zero_and_do_not_move_with_a_constant(values: list[float], shift: float) -> None:
    known = [v for v in values if not math.isnan(v)]
    advantages = turn_advantages(both_turns(*values))[0, :, 1]
    assert advantages.isnan().tolist() == [math.isnan(v) for v in values]
    if len(known) > 1:
        assert float(advantages.nansum()) == pytest.approx(0, abs=1e-9)
        moved = turn_advantages(both_turns(*(v + shift for v in values)))[0, :, 1]
        torch.testing.assert_close(moved, advantages, equal_nan=True)


def test_leave_one_out_uses_only_the_peers_it_is_given() -> None:
    peers = torch.tensor([[[False, True, False], [False, False, False], [True, True, False]]])
    baseline, spread = leave_one_out(torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([[True, True, True]]), peers)
    assert baseline.tolist() == [[3.0, 0.0, 2.0]]
    assert spread.tolist() == [[1.0, 1.0, pytest.approx(math.sqrt(26 / 3))]]


# ---- the full-vocabulary KL


def test_exact_kl_by_hand() -> None:
    policy, base = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert float(exact_kl(policy, base)) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert float(exact_kl(policy + 5, policy - 3)) == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(-8, 8), min_size=6, max_size=6))
def test_exact_kl_is_never_negative_and_its_gradient_is_the_known_one(values: list[float]) -> None:
    policy, base = torch.tensor(values, dtype=torch.float64).reshape(2, 1, 3)
    policy = policy.clone().requires_grad_()
    kl = exact_kl(policy, base)
    assert float(kl.detach()) >= -1e-12
    log_ratio = policy.log_softmax(-1) - base.log_softmax(-1)
    (found,) = torch.autograd.grad(kl.sum(), policy)
    torch.testing.assert_close(found, (policy.softmax(-1) * (log_ratio - kl[..., None])).detach())


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_exact_kl_is_the_same_in_chunks_and_agrees_with_finite_differences(chunk: int) -> None:
    policy, base = noise(2, 7, 5, seed=30).requires_grad_(), noise(2, 7, 5, seed=31).requires_grad_()
    torch.testing.assert_close(exact_kl(policy, base, chunk), exact_kl(policy, base, 7))
    assert torch.autograd.gradcheck(lambda p: exact_kl(p, base.detach(), chunk), policy)
    exact_kl(policy, base, chunk).sum().backward()
    assert base.grad is None
    on_slices = torch.cat([exact_kl(policy[:, :4], base[:, :4]), exact_kl(policy[:, 4:], base[:, 4:])], dim=1)
    torch.testing.assert_close(on_slices, exact_kl(policy, base, chunk))
    trained = torch.tensor([[0, 1, 1, 0, 2, 2, 0], [1, 1, 1, 2, 0, 0, 0]]) > 0
    torch.testing.assert_close(exact_kl(policy[trained], base[trained], chunk), exact_kl(policy, base)[trained])


def test_exact_kl_keeps_no_logits_sized_tensor_for_the_backward_pass() -> None:
    policy, base = torch.randn(1, 64, 1000).bfloat16().requires_grad_(), torch.randn(1, 64, 1000).bfloat16()
    inputs = {tensor.untyped_storage().data_ptr() for tensor in (policy, base)}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in inputs:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kl = exact_kl(policy, base, chunk=8)
    assert not kept
    assert kl.dtype == torch.float32  # widened: bf16 sums over a vocabulary would be noise
    kl.sum().backward()
    assert policy.grad is not None and policy.grad.dtype == torch.bfloat16


# ---- the whole loss


def test_loss_by_hand() -> None:
    # y1 has two tokens and advantage 2, y2 one token and advantage -3; the KL is given.
    log_probs = torch.tensor([[9.0, -1.0, -2.0, 9.0, -4.0]])
    kl = torch.tensor([[7.0, 0.1, 0.3, 7.0, 0.5]])
    mask, advantages = torch.tensor([[0, 1, 1, 0, 2]]), torch.tensor([[2.0, -3.0]])
    loss, figures = score_loss(log_probs, mask, advantages, kl, (10.0, 100.0), policy_reduction="sum")
    assert float(loss) == pytest.approx(-2 * -3 + 3 * -4 + 10 * 0.2 + 100 * 0.5)
    assert {name: pytest.approx(float(value)) for name, value in figures.items()} == {
        "policy_gradient/turn_1": 6.0,
        "kl/turn_1": 0.2,
        "clip_fraction/turn_1": 0.0,
        "policy_gradient/turn_2": -12.0,
        "kl/turn_2": 0.5,
        "clip_fraction/turn_2": 0.0,
    }
    summed = score_loss(log_probs, mask, advantages, kl, (10.0, 100.0), kl_reduction="sum", policy_reduction="mean")
    assert float(summed[0]) == pytest.approx(3 - 12 + 10 * 0.4 + 100 * 0.5)
    # By default both are means: the ratio of reward to KL is the formula's, whatever the answers' length.
    assert float(score_loss(log_probs, mask, advantages, kl, (10.0, 100.0))[0]) == pytest.approx(3 - 12 + 2 + 50)


@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "slope", "clipped"),
    [
        (1.0, 1.5, -1.2, 0.0, 1.0),
        (1.0, 0.5, -0.5, -0.5, 0.0),
        (-1.0, 1.5, 1.5, 1.5, 0.0),
        (-1.0, 0.5, 0.8, 0.0, 1.0),
        (-1.0, 1.0, 1.0, 1.0, 0.0),
    ],
)
def test_clipping_by_hand(advantage: float, ratio: float, value: float, slope: float, clipped: float) -> None:
    log_probs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss, figures = score_loss(
        *(log_probs, torch.tensor([[2]]), torch.tensor([[NAN, advantage]]), torch.zeros(1, 1), (0.0, 0.0)),
        sampling_log_probs=torch.tensor([[-1.0]]),
        clip_range=0.2,
    )
    assert float(loss.detach()) == pytest.approx(value)
    assert float(torch.autograd.grad(loss, log_probs)[0]) == pytest.approx(slope)
    assert float(figures["clip_fraction/turn_2"]) == clipped


def batch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Four rows of different length: prompt, y1, instruction, y2, padding; two of eight advantages are missing."""
    lengths = [(2, 3, 1, 4), (1, 1, 1, 1), (4, 5, 2, 2), (1, 2, 3, 3)]
    rows = [[0] * p + [1] * a + [0] * i + [2] * b for p, a, i, b in lengths]
    mask = torch.tensor([row + [0] * (13 - len(row)) for row in rows])
    values = noise(4, 4, 13, seed=seed)
    advantages = noise(4, 2, seed=seed + 100)
    advantages[1, 0] = advantages[2, 1] = NAN
    return {
        "mask": mask,
        "advantages": advantages.to(dtype),
        "log_probs": (-values[0].abs()).to(dtype),
        "base": (-values[1].abs()).to(dtype),
        "sampling": (-values[0].abs() + 0.3 * values[2]).to(dtype),
    }


def slow_reference(
    b: dict[str, torch.Tensor], betas: tuple[float, float], form: str, off_policy: bool, clip: float | None,
    policy_reduction: str, kl_reduction: str,
) -> tuple[float, list[list[float]], list[float]]:  # fmt: skip
    """The loss, its derivative in each token's log-prob and the turns' clip fractions, token by token."""
    rows = range(len(b["mask"]))
    loss, slope, fractions = 0.0, [[0.0] * b["mask"].shape[1] for _ in rows], [0.0, 0.0]
    for turn in (1, 2):
        places = [[t for t, m in enumerate(b["mask"][i].tolist()) if m == turn] for i in rows]
        weight = [float(b["advantages"][i, turn - 1]) for i in rows]
        scored = [i for i in rows if not math.isnan(weight[i])]
        policy_divisor = len(scored) if policy_reduction == "sum" else sum(len(places[i]) for i in scored)
        kl_divisor = len(rows) if kl_reduction == "sum" else sum(map(len, places))
        for i in rows:
            to_go = 0.0
            for t in reversed(places[i]):
                now = float(b["log_probs"][i, t].detach())
                ratio = math.exp(now - float(b["sampling"][i, t])) if off_policy else 1.0
                d = now - float(b["base"][i, t])
                to_go += d
                value = {"k2": ratio * d * d / 2, "k3": ratio * (math.exp(-d) - 1 + d), "reward": ratio * d}[form]
                loss += betas[turn - 1] * value / kl_divisor
                slope[i][t] += betas[turn - 1] * ratio * (to_go if form == "reward" else d) / kl_divisor
                if i not in scored:
                    continue
                a = weight[i]
                gain, change = (a * ratio, a * ratio) if off_policy else (a * now, a)
                if clip is not None:
                    bounded = a * min(max(ratio, 1 - clip), 1 + clip)
                    fractions[turn - 1] += (bounded < gain) / sum(len(places[i]) for i in scored)
                    gain, change = (bounded, 0.0) if bounded < gain else (gain, change)
                loss -= gain / policy_divisor
                slope[i][t] -= change / policy_divisor
    return loss, slope, fractions


@pytest.mark.parametrize("form", ["k2", "k3", "reward"])
@pytest.mark.parametrize(("off_policy", "clip"), [(False, None), (True, None), (True, 0.2)])
@pytest.mark.parametrize("policy_reduction", ["sum", "mean"])
@pytest.mark.parametrize("kl_reduction", ["sum", "mean"])
def test_loss_and_gradient_are_those_of_a_plain_slow_reference(
    form: Any, off_policy: bool, clip: float | None, policy_reduction: Any, kl_reduction: Any
) -> None:
    for seed in range(3):
        b = batch(seed)
        log_probs = b["log_probs"].requires_grad_()
        sampling = b["sampling"] if off_policy else None
        kl = sampled_kl(log_probs, b["base"], b["mask"], form, sampling)
        loss, figures = score_loss(
            *(log_probs, b["mask"], b["advantages"], kl, (0.7, 0.2)),
            sampling_log_probs=sampling,
            clip_range=clip,
            policy_reduction=policy_reduction,
            kl_reduction=kl_reduction,
        )
        value, slope, fractions = slow_reference(b, (0.7, 0.2), form, off_policy, clip, policy_reduction, kl_reduction)
        assert float(loss.detach()) == pytest.approx(value, abs=1e-5)
        (found,) = torch.autograd.grad(loss, log_probs)
        torch.testing.assert_close(found, torch.tensor(slope), atol=1e-5, rtol=0)
        assert [float(figures[f"clip_fraction/turn_{t}"]) for t in (1, 2)] == pytest.approx(fractions)


@pytest.mark.parametrize("form", ["k2", "k3", "reward"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_no_gradient_leaks_through_padding_or_between_prompts_of_different_length(form: Any, off_policy: bool) -> None:
    b = batch(5, torch.float64)
    outside = b["mask"] == 0
    for name in ("log_probs", "base", "sampling"):
        b[name][outside] = NAN  # whatever stands there

    def gradient(rows: list[int], width: int) -> torch.Tensor:
        part = {name: value[rows][:, :width] if name != "advantages" else value[rows] for name, value in b.items()}
        log_probs = part["log_probs"].clone().requires_grad_()
        sampling = part["sampling"] if off_policy else None
        kl = sampled_kl(log_probs, part["base"], part["mask"], form, sampling)
        loss, _ = score_loss(
            *(log_probs, part["mask"], part["advantages"], kl, (0.7, 0.2)),
            sampling_log_probs=sampling,
            clip_range=0.2 if off_policy else None,
            counts=count(b["mask"], b["advantages"]),
        )
        assert loss.isfinite()
        return torch.autograd.grad(loss, log_probs)[0]

    together = gradient([0, 1, 2, 3], 13)
    assert together.isfinite().all()
    assert together[outside].abs().max() == 0
    for i in range(4):
        width = int((b["mask"][i] > 0).nonzero().max()) + 1
        torch.testing.assert_close(gradient([i], width)[0], together[i, :width])  # alone, without any padding


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_micro_batches_add_up_to_the_whole_batch(reduction: Any) -> None:
    b = batch(6, torch.float64)
    log_probs = b["log_probs"].requires_grad_()
    kl = sampled_kl(log_probs, b["base"], b["mask"], "k3")
    whole = count(b["mask"], b["advantages"])

    def part(rows: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return score_loss(
            *(log_probs[rows], b["mask"][rows], b["advantages"][rows], kl[rows], (0.7, 0.2)),
            policy_reduction=reduction,
            kl_reduction=reduction,
            counts=whole,
        )

    loss, figures = part(slice(0, 4))
    pieces = [part(slice(0, 1)), part(slice(1, 4))]
    torch.testing.assert_close(pieces[0][0] + pieces[1][0], loss)
    for name, value in figures.items():
        torch.testing.assert_close(pieces[0][1][name] + pieces[1][1][name], value)


def test_a_missing_reward_leaves_the_kl_and_does_not_weaken_the_others() -> None:
    b = batch(7, torch.float64)
    log_probs = b["log_probs"].requires_grad_()
    zero = torch.zeros_like(log_probs)
    keep = [0, 1, 3]  # row 2 has no advantage at turn 2
    only_second = torch.stack([torch.full((4,), NAN), b["advantages"][:, 1]], dim=1)
    whole = score_loss(log_probs, b["mask"], only_second, zero, (0.0, 0.0))[0]
    without = score_loss(log_probs[keep], b["mask"][keep], only_second[keep], zero[keep], (0.0, 0.0))[0]
    torch.testing.assert_close(whole, without)
    kl = sampled_kl(log_probs, b["base"], b["mask"], "k3")
    (g,) = torch.autograd.grad(score_loss(log_probs, b["mask"], torch.full((4, 2), NAN), kl, (1.0, 1.0))[0], log_probs)
    assert (g[b["mask"] > 0].abs() > 0).all()


def test_a_first_attempt_that_is_given_as_a_prompt_carries_nothing() -> None:
    # The base model's first attempts, masked 0: the turn's means are those of the rows that the policy wrote.
    b = batch(8, torch.float64)
    given_first = b["mask"].clone()
    given_first[0][given_first[0] == 1] = 0
    log_probs = b["log_probs"].requires_grad_()
    kl = sampled_kl(log_probs, b["base"], given_first, "k3")
    only_first = torch.stack([b["advantages"][:, 0], torch.full((4,), NAN)], dim=1)
    loss, _ = score_loss(log_probs, given_first, only_first, kl, (0.5, 0.0), kl_reduction="sum")
    (g,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
    assert g[0].abs().max() == 0
    rest, _ = score_loss(log_probs[1:], b["mask"][1:], only_first[1:], kl[1:], (0.5, 0.0), kl_reduction="sum")
    torch.testing.assert_close(loss, rest)


def test_the_ratio_form_has_the_plain_gradient_on_the_policys_own_samples() -> None:
    b = batch(9, torch.float64)
    log_probs = b["log_probs"].requires_grad_()
    rest = (b["mask"], b["advantages"], torch.zeros_like(log_probs), (0.0, 0.0))
    plain = torch.autograd.grad(score_loss(log_probs, *rest)[0], log_probs)[0]
    clipped = score_loss(log_probs, *rest, sampling_log_probs=log_probs.detach(), clip_range=0.2)[0]
    torch.testing.assert_close(torch.autograd.grad(clipped, log_probs)[0], plain)


def test_misuse_is_refused() -> None:
    b = batch(10)
    kl = torch.zeros_like(b["log_probs"])
    with pytest.raises(ValueError, match="sampling_log_probs"):
        score_loss(b["log_probs"], b["mask"], b["advantages"], kl, (0.0, 0.0), clip_range=0.2)
    with pytest.raises(ValueError, match="k2, k3 or reward"):
        sampled_kl(b["log_probs"], b["base"], b["mask"], "k1")  # type: ignore[arg-type]
