"""What a model's own configuration says and must not hold here, set off while the model is in memory and put back
while it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_KEPT = "_selfimprove_configured"  # where a model remembers what its configuration said
_ROUTER_LOSS = {"output_router_logits": False, "router_aux_loss_coef": 0.0, "aux_loss_coef": 0.0}


def configurations(model: Any) -> list[Any]:
    """Of the model and its parts, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        # Not PEFT's configurations of adapters: those are saved with them, and their dropout is a module of its own.
        if getattr(config := getattr(module, "config", None), "to_diff_dict", None):
            found[id(config)] = config
            for part in getattr(config, "sub_configs", None) or {}:
                if (inner := getattr(config, part, None)) is not None:
                    found[id(inner)] = inner
    return list(found.values())


def set_aside(model: Any, config: Any, off: Mapping[str, Any]) -> None:
    """Gives settings of one of the model's configurations the values in `off`, until it is saved."""
    kept = getattr(model, _KEPT, [])
    for name, value in off.items():
        kept.append((config, name, getattr(config, name), value))
        setattr(config, name, value)
    setattr(model, _KEPT, kept)


@contextmanager
def as_configured(model: Any) -> Iterator[None]:
    """The model's configurations as they were before anything was set aside: while it is saved."""
    kept = getattr(model, _KEPT, [])
    for config, name, value, _ in kept:
        setattr(config, name, value)
    try:
        yield
    finally:
        for config, name, _, off in kept:
            setattr(config, name, off)


def without_router_loss(model: Any) -> None:
    """Leaves the loss that balances a mixture's experts (Switch Transformer, arXiv 2101.03961, eq. 4) out.

    No method here has it, and it is over prompts and padding too. Transformers adds it where `output_router_logits` is
    true (and then cannot continue a cached prompt); TRL 1.16 wherever there is a `router_aux_loss_coef`.
    """
    for config in configurations(model):
        set_aside(model, config, {name: off for name, off in _ROUTER_LOSS.items() if getattr(config, name, None)})
