"""Whether TRL's fused head gives the log-probs that the model itself gives: asked once, before a training with it.

The head (TRL 1.16) takes the body's last states through the output embedding, with the scales and caps of logits that
it knows. A model that does more between the two (ModernBERT's decoder) would be trained on another loss, silently.
"""

from __future__ import annotations

from typing import Any

import torch

from selfimprove.errors import InputError
from selfimprove.models.log_probs import token_log_probs
from selfimprove.models.policy import Policy

_IDS = (11, 47, 95, 120, 33, 71)  # any
# Nats per token. In bf16 two ways of computing are rounded otherwise.
_BOUND, _HALF_BOUND = 1e-2, 0.5


def check_head(model: Any, policy: Policy) -> None:
    """Raises InputError, by the architecture's name, where the two differ. `model` has the fused head already."""
    name = type(getattr(model, "get_base_model", lambda: model)()).__name__
    cannot = f"model: {policy.base} is a {name}, which selfimprove cannot train: TRL's head"
    advice = "use a model of another architecture (docs/scaling.md names some that are refused)"
    try:
        difference = _difference(model)
    except (AttributeError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{cannot} does not fit its code ({type(error).__name__}: {said}); {advice}") from error
    bound = _BOUND if model.dtype == torch.float32 else _HALF_BOUND
    if not difference <= bound:
        raise InputError(
            f"{cannot} gives log-probs that differ by {difference:.2g} nats per token from the model's own (at most "
            f"{bound:g}); {advice}"
        )


@torch.no_grad()
def _difference(model: Any) -> float:
    """Mean difference per token; 0 where the model's own are not finite, which is no matter of the head."""
    size, training = model.config.get_text_config().vocab_size, model.training
    ids = torch.tensor([[id % size for id in _IDS]], device=model.device)
    model.eval()
    try:
        fused = model(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True).log_probs.float()
        own = token_log_probs(model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:])
    finally:
        model.train(training)
    return float((fused - own).abs().mean()) if own.isfinite().all() else 0.0
