"""Dropout and its like off, wherever a model keeps their rates: the policy that is trained must be the one that was
scored.

Many models have no `torch.nn.Dropout` for it: attention reads a rate from its module (`attention_dropout`), some from
the configuration in every forward. The configuration is saved with the model, so it is put back for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# What such rates are called: dropout, attn_pdrop, layerdrop, drop_path_rate; mixtures of experts: router_jitter_noise.
_NAMES = ("drop", "jitter")
_KEPT = "_selfimprove_rates"  # where a model remembers what its configuration said


def _is_rate(name: str, value: Any) -> bool:
    return type(value) is float and value != 0 and any(part in name.lower() for part in _NAMES)


def without_dropout(model: Any) -> None:
    """Sets every rate of dropout in the model's modules and configurations to 0, for as long as it is in memory."""
    configs: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in [name for name, value in vars(module).items() if _is_rate(name, value)]:
            setattr(module, name, 0.0)
        # Not PEFT's configurations of adapters: those are saved with them, and their dropout is a module of its own.
        if getattr(config := getattr(module, "config", None), "to_diff_dict", None):
            configs[id(config)] = config
            for part in getattr(config, "sub_configs", None) or {}:
                if (inner := getattr(config, part, None)) is not None:
                    configs[id(inner)] = inner
    kept = getattr(model, _KEPT, [])
    for config in configs.values():
        for name in [name for name, value in vars(config).items() if _is_rate(name, value)]:
            kept.append((config, name, getattr(config, name)))
            setattr(config, name, 0.0)
    setattr(model, _KEPT, kept)


@contextmanager
def as_configured(model: Any) -> Iterator[None]:
    """The model's configuration as it was before `without_dropout`: while it is saved."""
    kept = getattr(model, _KEPT, [])
    for config, name, value in kept:
        setattr(config, name, value)
    try:
        yield
    finally:
        for config, name, _ in kept:
            setattr(config, name, 0.0)
