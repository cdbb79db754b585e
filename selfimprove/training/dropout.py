"""Dropout and its like off, wherever a model keeps their rates: the policy that is trained must be the one that was
scored.

Many models have no `torch.nn.Dropout` for it: attention reads a rate from its module (`attention_dropout`), some from
the configuration in every forward. The configuration is saved with the model, so it is put back for that.
"""

from __future__ import annotations

from typing import Any

import torch

from selfimprove.models.configuration import configurations, set_aside

# What such rates are called: dropout, attn_pdrop, layerdrop, drop_path_rate; mixtures of experts: router_jitter_noise.
_NAMES = ("drop", "jitter")


def _is_rate(name: str, value: Any) -> bool:
    return type(value) is float and value != 0 and any(part in name.lower() for part in _NAMES)


def without_dropout(model: Any) -> None:
    """Sets every rate of dropout in the model's modules and configurations to 0, for as long as it is in memory."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in [name for name, value in vars(module).items() if _is_rate(name, value)]:
            setattr(module, name, 0.0)
    for config in configurations(model):
        set_aside(model, config, {name: 0.0 for name, value in vars(config).items() if _is_rate(name, value)})
