"""Self-J's self-distillation loss: tensors in, tensors out (arXiv 2409.00935; the weights from the authors' code)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def self_distillation_loss(
    reference_logits: torch.Tensor,
    plain_logits: torch.Tensor,
    labels: torch.Tensor,
    ce_reference: float = 1.0,
    ce_plain: float = 0.3,
    distillation: float = 2.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """L = CE_ref + 0.3 CE_noref + 2 KL( stopgrad p_ref || p_noref ), one value (nats) for each example.

    The authors' code (kd.py) has these weights on other parts: its cross entropies are means over the digit and the end
    of sequence behind it, its KL is the digit's alone. Where the end is learnt that is 0.5, 0.15 and 2 of these parts.

    p_ref and p_noref are one model's distributions over the whole vocabulary where the digit is predicted, once with
    the reference in the prompt and once without. The teacher is the very model that is trained: no gradient goes
    through it in the KL, whose own gradient in the plain logits is distillation (p_noref - p_ref).

    Args:
        reference_logits, plain_logits: (examples, vocabulary), any float type; log-softmax is taken in fp32 or wider,
            since half precision has no room for the log of a small probability.
        labels: (examples,) token ids of the digits.

    Returns:
        (examples,) losses, and its three parts, detached, each (examples,): `ce_reference`, `ce_plain`, `kl`.
    """
    wide = torch.promote_types(reference_logits.dtype, torch.float32)
    reference, plain = reference_logits.to(wide).log_softmax(dim=-1), plain_logits.to(wide).log_softmax(dim=-1)
    with_reference = F.nll_loss(reference, labels, reduction="none")
    without = F.nll_loss(plain, labels, reduction="none")
    teacher = reference.detach()
    kl = F.kl_div(plain, teacher, reduction="none", log_target=True).sum(dim=-1)
    loss = ce_reference * with_reference + ce_plain * without + distillation * kl
    return loss, {"ce_reference": with_reference.detach(), "ce_plain": without.detach(), "kl": kl.detach()}
