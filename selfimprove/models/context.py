"""What a model's configuration says of its context: pure functions of config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.errors import InputError

if TYPE_CHECKING:
    pass


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises InputError for one that is torn or not there."""
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model: {file} is not readable as JSON ({error}); fetch or save the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"model: {file} is no model's configuration; fetch or save the model again")
    return found


def longrope_change(config: Mapping[str, Any]) -> int | None:
    """The length (tokens) above which a model with longrope (Phi-3's) takes other rotary factors for the whole text;
    None for all others. Of `config.json`'s keys, or a configuration's as a dict."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type")) == "longrope":
            return rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return None


def context_tokens(base: str, scored: bool = False) -> int:
    """Tokens the model's positions cover, from its config.json.

    Where the rotary factors change with a text's length (longrope) a text that grows over the change would be read with
    other factors than it was written with: sampling and training end there. `scored`: texts are given whole.
    """
    config = read_config(Path(base))
    config = config.get("text_config", config)
    given = (config.get(name) for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"))
    context = int(next((one for one in given if one), 2**31))
    return context if scored else min(context, longrope_change(config) or context)
