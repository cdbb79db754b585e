"""Self-J's loss and labels against values by hand, limits and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.methods.self_judge.labels import combined_labels, scaled
from selfimprove.methods.self_judge.loss import self_distillation_loss
from selfimprove.shipped import recipe_file

LABELS = torch.tensor([0, 2, 1])


def logits(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_by_hand() -> None:
    reference, plain = torch.tensor([[math.log(0.5), math.log(0.5)]]), torch.tensor([[math.log(0.8), math.log(0.2)]])
    loss, parts = self_distillation_loss(reference, plain, torch.tensor([0]))
    kl = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert parts["kl"].item() == pytest.approx(kl)
    assert loss.item() == pytest.approx(-math.log(0.5) - 0.3 * math.log(0.8) + 2 * kl)


def test_equal_passes_have_no_kl() -> None:
    same = logits(0).requires_grad_()
    loss, parts = self_distillation_loss(same.detach(), same, LABELS, 0.0, 0.0, 2.0)
    assert parts["kl"] == pytest.approx(torch.zeros(3), abs=1e-12) and float(loss.abs().max().detach()) < 1e-12
    loss.sum().backward()
    assert same.grad is not None and float(same.grad.abs().max()) < 1e-12
    loss, parts = self_distillation_loss(logits(0), logits(0), LABELS)
    torch.testing.assert_close(loss, 1.3 * parts["ce_reference"])


def test_no_gradient_goes_through_the_teacher() -> None:
    reference, plain = logits(0).requires_grad_(), logits(1).requires_grad_()
    self_distillation_loss(reference, plain, LABELS, 0.0, 0.0, 2.0)[0].sum().backward()
    assert reference.grad is None or not reference.grad.any()
    expected = 2 * (plain.softmax(dim=-1) - reference.softmax(dim=-1)).detach()
    torch.testing.assert_close(plain.grad, expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    teacher = logits(0)

    def loss(plain: torch.Tensor) -> torch.Tensor:
        return self_distillation_loss(teacher, plain, LABELS)[0].sum()

    assert torch.autograd.gradcheck(loss, logits(1).requires_grad_())

    def with_reference(reference: torch.Tensor) -> torch.Tensor:
        return self_distillation_loss(reference, logits(1), LABELS, distillation=0.0)[0].sum()

    assert torch.autograd.gradcheck(with_reference, logits(0).requires_grad_())


def test_a_plain_reference_says_the_same() -> None:
    reference, plain = logits(2), logits(3)
    loss, _ = self_distillation_loss(reference, plain, LABELS)
    for row, label in enumerate(LABELS.tolist()):
        p = [math.exp(v) for v in reference[row].tolist()]
        q = [math.exp(v) for v in plain[row].tolist()]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        slow = (
            -math.log(p[label])
            - 0.3 * math.log(q[label])
            + 2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        )
        assert loss[row].item() == pytest.approx(slow, rel=1e-9)


def test_the_recipes_weights_are_the_authors_in_force_where_the_end_is_learnt() -> None:
    """Theirs: the mean cross entropy over digit and end of sequence, and the KL at the digit alone (kd.py)."""
    reference, plain = logits(0), logits(1)
    end = torch.tensor([[0.0, 0.0, 0.0, 400.0]] * 3, dtype=torch.float64)  # token 3, certain
    targets = torch.cat([LABELS, torch.full((3,), 3)])
    means = [F.cross_entropy(torch.cat([one, end]), targets) for one in (reference, plain)]
    kl = F.kl_div(plain.log_softmax(-1), reference.softmax(-1), reduction="batchmean")
    theirs = means[0] + 0.3 * means[1] + 2 * kl
    for name in ("llama-2-13b-chat/self-judge", "llama-3.1-8b-instruct/self-judge"):
        weights = yaml.safe_load(recipe_file(name).read_text())["self_judge"]
        ours, _ = self_distillation_loss(reference, plain, LABELS, **weights)
        torch.testing.assert_close(ours.mean(), theirs)


def test_half_precision_keeps_small_probabilities() -> None:
    near = torch.tensor([[0.0, -20.0]])
    _, parts = self_distillation_loss(near.half(), near.half(), torch.tensor([1]))
    assert parts["ce_plain"].item() == pytest.approx(20.0, abs=0.05)


# ---- labels


def test_labels_by_hand() -> None:
    assert combined_labels([0.0, 1.0, 2.0, 3.0], [None] * 4, weight=1.0) == [0, 3, 6, 9]
    assert combined_labels([None] * 3, [-1.0, 0.0, 1.0], weight=0.0, scaling="min_max") == [0, 5, 9]  # 4.5 goes up
    assert combined_labels([4.1, 4.2, 4.9], [0.1, 0.9, 0.5]) == [0, 7, 7]  # ranks 0, 4.5, 9 and 0, 9, 4.5
    assert combined_labels([4.1, None, 4.9], [0.1, 0.9, None]) == [0, None, None]
    assert combined_labels([5.0, 5.0], [0.1, 0.9]) == [2, 7]  # one signal says nothing: 4.5 and 0, 4.5 and 9


def test_ties_share_their_rank_and_the_scale_is_linear() -> None:
    assert scaled([1.0, 1.0, 2.0], "ranks").tolist() == pytest.approx([2.25, 2.25, 9.0])
    assert scaled([1.0, 1.5, 2.0], "min_max").tolist() == [0.0, 4.5, 9.0]
    assert scaled([3.0, None], "ranks")[0] == 4.5
    with pytest.raises(ValueError, match="weight"):
        combined_labels([1.0], [1.0], weight=1.5)


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(-1, 1)), min_size=2, max_size=30),
    st.floats(0, 1),
    st.sampled_from(["ranks", "min_max"]),
)
def test_labels_are_digits_and_grow_with_both_signals(
    rows: list[tuple[float, float]], weight: float, scaling: str
) -> None:
    labels = combined_labels([a for a, _ in rows], [b for _, b in rows], weight, scaling)  # type: ignore[arg-type]
    assert all(label is not None and 0 <= label <= 9 for label in labels)
    for one, first in zip(rows, labels, strict=True):
        for other, second in zip(rows, labels, strict=True):
            if one[0] <= other[0] and one[1] <= other[1]:
                assert first <= second  # type: ignore[operator]
