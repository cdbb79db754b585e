"""Architectures of Transformers in their smallest form, which tests sample from, score and train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import byte_tokenizer

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LONGROPE = {
    "original_max_position_embeddings": 64,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
    },
}
_DROPPED = {"attention_dropout": 0.3}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
WORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4, "hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "cohere": ("Cohere", _DROPPED),
    "falcon": ("Falcon", {"hidden_dropout": 0.3, "attention_dropout": 0.3, "new_decoder_architecture": True}),
    "gemma2": ("Gemma2", {**_DROPPED, "head_dim": 8, "sliding_window": 8}),
    "glm": ("Glm", {**_DROPPED, "head_dim": 8}),
    "gpt2": ("GPT2", {**_GPT2, "attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
    "gpt-neox": ("GPTNeoX", {"attention_dropout": 0.3, "hidden_dropout": 0.3}),
    "granite": ("Granite", _DROPPED),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "llama": ("Llama", _DROPPED),
    "llama-dynamic": ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "mistral": ("Mistral", {**_DROPPED, "sliding_window": 8}),
    "mixtral": ("Mixtral", {**EXPERTS, **_DROPPED, "router_jitter_noise": 0.3}),
    "olmo2": ("Olmo2", _DROPPED),
    "opt": ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.3, "attention_dropout": 0.3}),
    "phi": ("Phi", {"attention_dropout": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
    "phi3-longrope": ("Phi3", {**_LONGROPE, "attention_dropout": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
    "qwen2": ("Qwen2", _DROPPED),
    "qwen3": ("Qwen3", {**_DROPPED, "head_dim": 8}),
    "qwen3-moe": ("Qwen3Moe", {**EXPERTS, **_DROPPED, "head_dim": 8}),
    "qwen3.5": ("Qwen3_5", _LINEAR),
    "smollm3": ("SmolLM3", _DROPPED),
    "stablelm": ("StableLm", {"attention_dropout": 0.3, "hidden_dropout": 0.3}),
    "starcoder2": ("Starcoder2", {**_DROPPED, "residual_dropout": 0.3, "embedding_dropout": 0.3}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "jamba": ("Jamba", {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "mamba": ("Mamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4, "expand": 2}),
}
_CONFIGS = {"Qwen3_5": "Qwen3_5TextConfig", "Gemma3": "Gemma3TextConfig"}
_HEADS = {"GPT2": "GPT2LMHeadModel"}


def save_architecture(folder: Path, kind: str, changes: dict[str, Any]) -> Path:
    """A model of random weights with its tokenizer, as `AutoModelForCausalLM` opens it."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    shape = {**_SHAPE, **changes, "vocab_size": len(tokenizer)}
    config = getattr(transformers, _CONFIGS.get(kind, f"{kind}Config"))(**shape)
    getattr(transformers, _HEADS.get(kind, f"{kind}ForCausalLM"))(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
