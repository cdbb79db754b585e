"""Which parts of a model are trained: no text goes through its towers for pictures, and some layers take no adapter."""

from __future__ import annotations

import re
from typing import Any

import torch

_OTHER_INPUTS = ("vision", "audio", "image")  # how the parts of a configuration that are not text's begin


def beside_text(model: Any) -> list[str]:
    """Names of the parts that no text goes through: towers for pictures and sound, and what brings them to the text."""
    config = model.config
    other = [
        id(part)
        for name in getattr(config, "sub_configs", None) or {}
        if name.startswith(_OTHER_INPUTS) and (part := getattr(config, name, None)) is not None
    ]
    text = {id(part) for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None}

    def walk(module: Any, name: str, inside: bool) -> list[str]:
        inside = inside or id(module) in text
        holds_text = inside or any(id(part) in text for part in module.modules())
        if not holds_text or id(getattr(module, "config", None)) in other:
            return [name]
        return [
            found
            for child, part in module.named_children()
            for found in walk(part, f"{name}.{child}".lstrip("."), inside)
        ]

    return walk(model, "", inside=config.get_text_config() is config)


def without_adapters(model: Any) -> str | None:
    """A pattern, as PEFT's `exclude_modules`, of the layers that get no adapter; None where any layer may have one.

    Beside what no text goes through these are layers that a model does not call as a linear map: the projection out of
    Mamba's mixers, whose weights its kernels read, and routers that are linear layers by class and return a choice.
    """
    patterns = [f"{re.escape(name)}(\\..*)?" for name in beside_text(model)]
    for name, module in model.named_modules():
        if all(hasattr(module, part) for part in ("A_log", "D", "out_proj")):
            patterns.append(re.escape(f"{name}.out_proj"))
        if isinstance(module, torch.nn.Linear) and not _is_a_linear_map(module, model):
            patterns.append(re.escape(name))
    return "|".join(patterns) or None


def _is_a_linear_map(layer: torch.nn.Linear, model: Any) -> bool:
    """Whether a layer of the model's own code does as a linear layer does; other libraries' layers do."""
    if type(layer).__module__ != type(model).__module__:
        return True
    try:
        with torch.no_grad():
            found = layer(torch.zeros(1, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, layer.out_features)


def train_all_weights(model: Any) -> Any:
    """The model with every weight to be trained but those that no text goes through."""
    model.requires_grad_(True)
    for name in beside_text(model):
        model.get_submodule(name).requires_grad_(False)
    return model
