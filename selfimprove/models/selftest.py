"""Whether a model computes with its cache what it computes without: asked once of every base, before it is used.

Prompts are computed once and continued for their responses. A model whose layers cannot take up several tokens from a
state (Mamba, Jamba), or whose code keeps a cache in another way, gives wrong numbers there and says nothing.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from selfimprove.errors import InputError
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.log_probs import Group, token_log_probs
from selfimprove.models.policy import Policy

# Any ids do; small ones are in every vocabulary. Two lengths of prompts are padded, two of responses are continued.
_GROUPS = (
    Group((11, 47, 95, 120, 33, 71), ((58, 102, 64, 29, 83), (17, 110, 42))),
    Group((76, 99, 23), ((88, 54, 31, 69),)),
)
# Nats per text. In bf16 sums of other shapes are rounded otherwise; a wrong cache is off by whole nats per token.
_BOUNDS = {torch.float32: 1e-2}
_HALF_BOUND = 0.5

_passed: set[tuple[str, torch.dtype]] = set()


def cache_difference(model: Any) -> float:
    """Largest difference (nats) between texts scored behind a cached prompt and by one forward over each whole text.

    Texts whose forward is not finite are left out: those weights are broken, which is no matter of the cache.
    """
    size = model.config.get_text_config().vocab_size
    groups = [
        Group(tuple(id % size for id in one.prompt_ids), tuple(tuple(id % size for id in r) for r in one.responses))
        for one in _GROUPS
    ]
    cached = summed_log_probs(model, groups, 1024)
    pairs = [
        (found, _whole(model, one.prompt_ids, response))
        for one, row in zip(groups, cached, strict=True)
        for response, found in zip(one.responses, row, strict=True)
    ]
    differences = [abs(found - whole) for found, whole in pairs if math.isfinite(whole)]
    return next((one for one in differences if math.isnan(one)), max(differences, default=0.0))


@torch.inference_mode()
def _whole(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    ids = torch.tensor([[*prompt, *response]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
    return float(token_log_probs(logits, ids[:, len(prompt) :]).double().sum())


def check_cache(model: Any, policy: Policy) -> None:
    """Raises InputError, by the architecture's name, where the model cannot be continued from a cached prompt. Each
    base is asked once in a process; of several processes that train together none is, since they sampled and scored
    before."""
    key = (policy.base_digest, model.dtype)
    if key in _passed or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    name = type(model).__name__
    cannot = (
        f"model: {policy.base} is a {name}, which selfimprove cannot sample from and score: a prompt is computed once "
        "and continued for its responses, and"
    )
    try:
        difference = cache_difference(model)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an architecture without such a cache fails in its own way
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{cannot} its code does not do that ({type(error).__name__}: {said}); {_ADVICE}") from error
    bound = _BOUNDS.get(model.dtype, _HALF_BOUND)
    if not difference <= bound:
        raise InputError(
            f"{cannot} its log-probs then differ by {difference:.2g} nats from those of one forward over the text (at "
            f"most {bound:g}); {_ADVICE}"
        )
    _passed.add(key)


_ADVICE = "use a model of another architecture (docs/scaling.md names some that are refused)"
