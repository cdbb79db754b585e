"""The sampler against the trainer, the samples that are kept, and gates on both: by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from selfimprove.judging.outcomes import Rewarded
from selfimprove.methods.score.gates import first_broken, score_gates
from selfimprove.methods.score.loss import effective_beta, score_loss
from selfimprove.methods.score.rollouts import Attempt, Episode, Question
from selfimprove.methods.score.sample_log import keep_rows, kept_updates, read_rows_of, sample_rows
from selfimprove.methods.score.sampler_weights import sampler_figures, sampler_weights
from selfimprove.methods.score.trainer import Drawn

NAN = torch.nan
MASK = torch.tensor([[0, 1, 1, 0, 2, 2]])
TRAINER = torch.tensor([[9.0, -1.0, -2.0, 9.0, -1.0, -1.0]])
SAMPLER = torch.tensor([[NAN, -2.5, -1.5, NAN, -1.2, NAN]])  # log rho: 1.5 and -.5; .2 and not known


def test_weights_by_hand() -> None:
    assert sampler_weights(TRAINER, SAMPLER, MASK, "none", 3.0) is None
    each = sampler_weights(TRAINER, SAMPLER, MASK, "token_truncate", 3.0)
    assert each is not None
    assert each[0].tolist() == pytest.approx([1, 3.0, math.exp(-0.5), 1, math.exp(0.2), 1])
    whole = sampler_weights(TRAINER, SAMPLER, MASK, "sequence_mask", 3.0)
    assert whole is not None  # e of the first turn, e^.2 of the second
    assert whole[0].tolist() == pytest.approx([1, math.e, math.e, 1, math.exp(0.2), math.exp(0.2)])
    cut = sampler_weights(TRAINER, SAMPLER, MASK, "sequence_mask", 2.0)
    assert cut is not None and cut[0, 1:3].tolist() == [0, 0] and float(cut[0, 4]) > 1


def test_figures_by_hand() -> None:
    found = sampler_figures(TRAINER, SAMPLER, MASK)
    k3 = [math.exp(d) - 1 - d for d in (1.5, -0.5, 0.2)]
    assert float(found["kl"]) == pytest.approx(sum(k3)) and found["tokens"] == 3
    assert float(found["ratio"]) == pytest.approx(math.exp(1.5))
    silent = sampler_figures(TRAINER, torch.full_like(SAMPLER, NAN), MASK)
    assert (float(silent["kl"]), silent["tokens"], float(silent["ratio"])) == (0, 0, 0)


def test_equal_log_probs_are_plain_policy_gradient_to_the_bit() -> None:
    kl, advantages = torch.zeros(1, 6), torch.tensor([[2.0, -3.0]])
    own = TRAINER.clone().requires_grad_()
    weights = sampler_weights(TRAINER, TRAINER, MASK, "token_truncate", 3.0)
    plain, weighted = (score_loss(own, MASK, advantages, kl, (0.1, 0.1), weights=w)[0] for w in (None, weights))
    assert torch.equal(*(torch.autograd.grad(loss, own)[0] for loss in (plain, weighted)))


def test_weights_touch_the_policy_gradient_and_not_the_kl() -> None:
    kl, own = torch.ones(1, 6, requires_grad=True), TRAINER.clone().requires_grad_()
    loss, _ = score_loss(own, MASK, torch.tensor([[2.0, 0.0]]), kl, (0.5, 0.0), weights=torch.full((1, 6), 0.25))
    of_own, of_kl = torch.autograd.grad(loss, [own, kl])
    assert of_own[0].tolist() == [0, -0.25, -0.25, 0, 0, 0] and of_kl[0].tolist() == [0, 0.25, 0.25, 0, 0, 0]


@pytest.mark.parametrize("tokens", [1.0, 12.0, 400.0])
def test_the_beta_in_force(tokens: float) -> None:
    """The same gradient as of the formula with the beta that is said to be in force, up to one factor."""
    n = int(tokens)
    mask, own = torch.ones(1, n, dtype=torch.long), torch.zeros(1, n, requires_grad=True)
    kl = torch.zeros(1, n, requires_grad=True)
    for policy in ("sum", "mean"):
        for other in ("sum", "mean"):
            loss, _ = score_loss(
                own, mask, torch.tensor([[1.0, NAN]]), kl, (0.1, 0.0),
                policy_reduction=policy, kl_reduction=other,  # type: ignore[arg-type]
            )  # fmt: skip
            reward_slope, kl_slope = (float(g[0, 0]) for g in torch.autograd.grad(loss, [own, kl]))
            assert kl_slope / -reward_slope == pytest.approx(effective_beta(0.1, policy, other, tokens))


def drawn(values: list[list[float]]) -> Drawn:
    """Two samples of each prompt, with these advantages of the first turn."""
    questions = [Question(f"p{i}", (1, i), f"question {i}", None, f"p{i}|0") for i in range(len(values))]
    episodes = [Episode(i, n, Attempt((5, n), f"{i}{n}", False)) for i in range(len(values)) for n in range(2)]
    rewards = [[Rewarded(value)] for row in values for value in row]
    return Drawn(questions, episodes, rewards, torch.tensor([[value, NAN] for row in values for value in row]))


def test_prompts_that_teach_nothing_give_way_to_others_that_do() -> None:
    first, others = drawn([[0, 0], [1, -1], [0, 0], [0, 0]]), drawn([[0, 0], [2, -2], [3, -3]])
    assert first.tells(4).tolist() == [False, True, False, False]
    found = first.replaced([0, 2, 3], others, 4)
    assert [q.id for q in found.questions] == ["p1", "p1", "p2", "p3"]  # of the others p1 and p2; one place is left
    assert [e.prompt for e in found.episodes] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.advantages[:, 0].tolist() == [2, -2, 1, -1, 3, -3, 0, 0]
    assert [row[0].value for row in found.rewards] == [2, -2, 1, -1, 3, -3, 0, 0]


def test_samples_of_every_so_many_updates_and_of_the_last_are_kept(tmp_path: Path) -> None:
    made = drawn([[1, -1]])
    for update in range(25):
        for rank in range(2):
            rows = sample_rows(update, made.questions, made.episodes, made.rewards, made.advantages)
            keep_rows(tmp_path, rows, update, rank, every=10, window=4)
    assert [update + 1 for update in kept_updates(tmp_path)] == [1, 10, 20, 22, 23, 24, 25]
    rows = read_rows_of(tmp_path, 24)
    assert len(rows) == 4 and rows[0]["update"] == 25 and rows[0]["prompt"] == "question 0"
    assert rows[0]["attempts"] == [{"text": "00", "ids": [5, 0], "reward": 1, "advantage": 1.0, "truncated": False}]
    assert read_rows_of(tmp_path, 4) == []


BOUNDS: dict[str, Any] = {
    **{"max_first_attempt_drop": 1.0, "min_change_rate": 0.0, "max_copy_rate": 1.0, "max_kl": 1.0, "max_missing": 1.0},
    **{"min_telling": 0.0, "max_sampler_kl": 0.05},
}


@pytest.mark.parametrize(
    ("row", "broken"),
    [
        ({"informative": 0.0}, "telling"),
        ({"informative": 0.1}, None),
        ({}, None),
        ({"sampler_kl": 0.2, "sampler_ratio": 40.0}, "sampler_kl"),
        ({"sampler_kl": 0.001, "sampler_ratio": 2.0}, None),
    ],
)
def test_gates(row: dict[str, float], broken: str | None) -> None:
    verdict = first_broken(score_gates([{**row, "samples": 8}] * 10, None, 0, BOUNDS), [])
    assert (verdict.gate if verdict else None) == broken
    if verdict:
        assert f"gates.{'min_telling' if broken == 'telling' else 'max_sampler_kl'}" in verdict.message
