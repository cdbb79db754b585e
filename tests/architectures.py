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
# These are in whole runs only. Rates of dropout stand where the default is not 0.
_SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
_LATENT = {
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"head_dim": 8, "num_key_value_heads": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2},
}
_ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1}
_SHARED = {"shared_expert_intermediate_size": 32}
_GPT_DROPPED = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
_GEMMA3N = {
    **{"num_hidden_layers": 4, "intermediate_size": [64] * 4, "layer_types": _SLIDING["layer_types"] * 2},
    **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 259, "num_kv_shared_layers": 2},
    **{"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4, "altup_num_inputs": 2},
    "pad_token_id": None,  # a random model's embedding of its padding is 0, of which Gemma 3n takes the root's gradient
}
_ZAMBA2 = {
    **{"num_hidden_layers": 3, "hybrid_layer_ids": [1], "layers_block_type": ["mamba", "hybrid", "mamba"]},
    **{"mamba_d_state": 4, "n_mamba_heads": 4, "mamba_ngroups": 1, "use_mem_rope": True},
}
_NEMOTRON_H = {"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1}
ALSO_RUN: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("Bamba", {**_MAMBA, "attn_layer_indices": [1]}),
    "cohere2": ("Cohere2", _SLIDING),
    "deepseek-v2": ("DeepseekV2", {**_LATENT, **_ROUTED, "topk_method": "greedy"}),
    "deepseek-v3": ("DeepseekV3", {**_LATENT, **_ROUTED}),
    "ernie4.5": ("Ernie4_5", {"head_dim": 8}),
    "ernie4.5-moe": ("Ernie4_5_Moe", {**EXPERTS, **_ERNIE, "head_dim": 8}),
    "exaone4": ("Exaone4", _SLIDING),
    "falcon-h1": ("FalconH1", {**_MAMBA, "head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma3-text": ("Gemma3", {**_SLIDING, "head_dim": 8}),
    "gemma3n-text": ("Gemma3n", {**_GEMMA3N, "head_dim": 8, "sliding_window": 8}),
    "glm4": ("Glm4", {"head_dim": 8}),
    "glm4-moe": ("Glm4Moe", {**EXPERTS, **_ROUTED, "head_dim": 8}),
    "gpt-oss": ("GptOss", {**EXPERTS, **_SLIDING, "head_dim": 8}),
    "gptj": ("GPTJ", {**_GPT2, **_GPT_DROPPED, "rotary_dim": 8}),
    "granitemoe": ("GraniteMoe", EXPERTS),
    "granitemoe-hybrid": (
        "GraniteMoeHybrid",
        {**EXPERTS, **_MAMBA, "shared_intermediate_size": 32, "layer_types": ["mamba", "attention"]},
    ),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 8}),
    "llama4-text": ("Llama4", {**EXPERTS, "head_dim": 8, "intermediate_size_mlp": 64}),
    "minimax-m2": ("MiniMaxM2", {**EXPERTS, "head_dim": 8}),
    "ministral3": ("Ministral3", {"head_dim": 8}),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "nemotron": ("Nemotron", {}),
    "nemotron-h": ("NemotronH", {**_NEMOTRON_H, "layers_block_type": ["mamba", "attention"], "head_dim": 8}),
    "olmo": ("Olmo", {}),
    "olmo3": ("Olmo3", _SLIDING),
    "olmoe": ("Olmoe", EXPERTS),
    "persimmon": ("Persimmon", {"num_key_value_heads": 4}),
    "phimoe": ("Phimoe", {**EXPERTS, "router_jitter_noise": 0.01, "input_jitter_noise": 0.01}),
    "qwen2-moe": ("Qwen2Moe", {**EXPERTS, **_SHARED}),
    "qwen3-next": ("Qwen3Next", {**EXPERTS, **_LINEAR, **_SHARED}),
    "qwen3.5-moe": ("Qwen3_5Moe", {**EXPERTS, **_LINEAR, **_SHARED}),
    "seed-oss": ("SeedOss", {"head_dim": 8, "attention_dropout": 0.1, "residual_dropout": 0.1}),
    "zamba2": ("Zamba2", _ZAMBA2),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon-mamba": ("FalconMamba", {"state_size": 4}),
    "gpt": ("OpenAIGPT", _GPT2),
    "jamba": ("Jamba", {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "mamba": ("Mamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4, "expand": 2}),
    "minimax": (
        "MiniMax",
        {**EXPERTS, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    ),
    "recurrentgemma": (
        "RecurrentGemma",
        {"lru_width": 32, "attention_window_size": 64, "block_types": ["recurrent", "attention"], "head_dim": 8},
    ),
    "rwkv": ("Rwkv", {"context_length": 512, "attention_hidden_size": 32}),
    "xlstm": ("xLSTM", {"num_heads": 4, "num_blocks": 2, "embedding_dim": 32}),
    "zamba": (
        "Zamba",
        {
            **{"num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4},
            **{"n_mamba_heads": 1, "use_mamba_kernels": False, "attention_hidden_size": 64, "attention_head_dim": 16},
        },
    ),
}
# Where these are not KindConfig and KindForCausalLM.
_CONFIGS = {kind: f"{kind}TextConfig" for kind in ("Qwen3_5", "Qwen3_5Moe", "Gemma3", "Gemma3n", "Llama4")}
_HEADS = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel"}
_PICTURES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_PICTURES |= {"image_size": 16, "patch_size": 8}
# Models that read pictures: their text's and their pictures' configuration.
WITH_PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Gemma3": ({**_SLIDING, "head_dim": 8}, _PICTURES),
    "Gemma4": (
        {**_SLIDING, "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        {**_PICTURES, "head_dim": 8, "global_head_dim": 8},
    ),
    "GotOcr2": ({}, {**_PICTURES, "mlp_dim": 64, "output_channels": 8, "global_attn_indexes": [1]}),
    "Mistral3": ({"model_type": "mistral"}, {**_PICTURES, "model_type": "pixtral", "head_dim": 8}),
    "Qwen2_5_VL": (
        {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32},
    ),
    "Qwen3_5": (
        _LINEAR,
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32},
    ),
}


def save_architecture(folder: Path, kind: str, changes: dict[str, Any]) -> Path:
    """A model of random weights with its tokenizer, as `AutoModelForCausalLM` opens it."""
    config = getattr(transformers, _CONFIGS.get(kind, f"{kind}Config"))(**_shape(changes))
    return _save(folder, _HEADS.get(kind, f"{kind}ForCausalLM"), config)


def save_with_pictures(folder: Path, kind: str) -> Path:
    """A model that also reads pictures, whole."""
    text, pictures = WITH_PICTURES[kind]
    config = getattr(transformers, f"{kind}Config")(text_config=_shape(text), vision_config=pictures)
    return _save(folder, f"{kind}ForConditionalGeneration", config)


def without_rates(changes: dict[str, Any]) -> dict[str, Any]:
    """Without dropout and noise, so that a training's loss is known."""
    return {name: 0.0 if "drop" in name or "jitter" in name else value for name, value in changes.items()}


def _shape(changes: dict[str, Any]) -> dict[str, Any]:
    return {**_SHAPE, **changes, "vocab_size": len(byte_tokenizer())}


def _save(folder: Path, head: str, config: Any) -> Path:
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
