"""How every model of a run is opened, beside where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What Transformers' `apply_chat_template` takes itself
NOT_THE_TEMPLATES = frozenset(
    (
        *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
        "tokenizer_kwargs",
    )
)


@dataclass(frozen=True)
class Opening:
    """`trust_remote_code`: whether a model's own Python code runs. `chat_template_kwargs`: what the chat templates get
    beside a conversation, as Transformers' key of that name (Qwen3's `enable_thinking: false`)."""

    trust_remote_code: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)


PLAIN = Opening()
