"""Architectures in their smallest form: each is sampled from, scored and loses its dropout, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import byte_tokenizer

from selfimprove.batching import pad_left, positions
from selfimprove.chat import render_prompt, stop_ids
from selfimprove.errors import InputError
from selfimprove.policy import declared_ends, load_base, resolve_policy
from selfimprove.run_data import context_tokens
from selfimprove.sampling import Decoding, Request
from selfimprove.sampling.transformers import TransformersSampler
from selfimprove.scoring import Group, summed_log_probs, token_log_probs
from selfimprove.training.dropout import as_configured, without_dropout

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
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
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
    "mixtral": ("Mixtral", {**_EXPERTS, **_DROPPED, "router_jitter_noise": 0.3}),
    "olmo2": ("Olmo2", _DROPPED),
    "opt": ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.3, "attention_dropout": 0.3}),
    "phi": ("Phi", {"attention_dropout": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
    "phi3-longrope": ("Phi3", {**_LONGROPE, "attention_dropout": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
    "qwen2": ("Qwen2", _DROPPED),
    "qwen3": ("Qwen3", {**_DROPPED, "head_dim": 8}),
    "qwen3-moe": ("Qwen3Moe", {**_EXPERTS, **_DROPPED, "head_dim": 8}),
    "qwen3.5": ("Qwen3_5", _LINEAR),
    "smollm3": ("SmolLM3", _DROPPED),
    "stablelm": ("StableLm", {"attention_dropout": 0.3, "hidden_dropout": 0.3}),
    "starcoder2": ("Starcoder2", {**_DROPPED, "residual_dropout": 0.3, "embedding_dropout": 0.3}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "jamba": ("Jamba", {**_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}),
    "mamba": ("Mamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4, "expand": 2}),
}
_CONFIGS = {"Qwen3_5": "Qwen3_5TextConfig", "Gemma3": "Gemma3TextConfig"}
_HEADS = {"GPT2": "GPT2LMHeadModel"}
Made = Callable[[str, dict[str, Any]], Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(kind: str, changes: dict[str, Any]) -> Path:
        torch.manual_seed(0)
        tokenizer = byte_tokenizer()
        shape = {**_SHAPE, **changes, "vocab_size": len(tokenizer)}
        config = getattr(transformers, _CONFIGS.get(kind, f"{kind}Config"))(**shape)
        model = getattr(transformers, _HEADS.get(kind, f"{kind}ForCausalLM"))(config)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


def whole(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """One forward over the text alone."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
    return float(token_log_probs(logits, ids[:, len(prompt) :]).sum())


@pytest.mark.parametrize("name", WORKS)
def test_it_is_sampled_from_and_scored_as_by_one_forward_and_loses_its_dropout(name: str, made: Made) -> None:
    folder = made(*WORKS[name])
    policy = resolve_policy(str(folder))
    model = load_base(policy, torch.float32, "cpu")  # its self-test has passed
    sampler = TransformersSampler(torch.float32, "cpu", 4096)
    sampler.set_weights(policy, model)
    tokenizer = byte_tokenizer()
    asked = [tuple(render_prompt(tokenizer, [{"role": "user", "content": text}])) for text in ("Hi", "Name cat")]
    requests = [Request(ids, 3, 7 + i) for i, ids in enumerate(asked)]
    drawn = sampler.sample(requests, Decoding(1.0, 1.0, 12, tuple(stop_ids(tokenizer))), lambda n: None)
    groups = [Group(ids, tuple(tuple(one.ids) for one in row)) for ids, row in zip(asked, drawn, strict=True)]
    expected = [[whole(model, g.prompt_ids, response) for response in g.responses] for g in groups]
    for found in (summed_log_probs(model, groups, 4096), [[one.log_prob for one in row] for row in drawn]):
        for one, right in zip(found, expected, strict=True):
            assert one == pytest.approx(right, abs=1e-2)

    rates = {key: value for key, value in WORKS[name][1].items() if "drop" in key or "jitter" in key}
    without_dropout(model)
    text, mask = pad_left([[*g.prompt_ids, *g.responses[0]] for g in groups], 0)
    given = {"input_ids": text, "attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    with torch.no_grad():
        still = model(**given).logits
        assert torch.allclose(model.train()(**given).logits[mask == 1], still[mask == 1], atol=1e-4)
    with as_configured(model):
        model.save_pretrained(folder.with_name("trained"))
    saved = json.loads((folder.with_name("trained") / "config.json").read_text())
    assert {key: saved[key] for key in rates} == rates
    assert all(getattr(model.config, key) == 0 for key in rates)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name_before_anything_runs(name: str, made: Made) -> None:
    kind, changes = REFUSED[name]
    with pytest.raises(InputError, match=rf"is a {kind}ForCausalLM, which selfimprove cannot sample from and score"):
        load_base(resolve_policy(str(made(kind, changes))), torch.float32, "cpu")


def test_a_long_text_changes_no_other_texts_score(made: Made) -> None:
    folder = made(*WORKS["phi3-longrope"])
    policy = resolve_policy(str(folder))
    model = load_base(policy, torch.float32, "cpu")
    short, long = tuple(range(5, 40)), tuple(range(5, 95))
    answers = ((40, 41), tuple(range(60, 100)))  # the second takes even the short prompt over the change
    groups = [Group(short, answers), Group(long, answers)]
    found = summed_log_probs(model, groups, 4096)
    assert found == [
        pytest.approx([whole(model, one.prompt_ids, answer) for answer in answers], abs=1e-2) for one in groups
    ]
    assert summed_log_probs(model, groups[:1], 4096)[0] == pytest.approx(found[0], abs=1e-3)
    assert (context_tokens(str(folder)), context_tokens(str(folder), scored=True)) == (64, 512)


@pytest.mark.parametrize(("named", "ends"), [([2, 0, 5], [2, 0, 5]), (5, [2, 5]), (None, [2])])
def test_every_end_that_the_model_declares_ends_an_answer(tiny_model: Path, named: Any, ends: list[int]) -> None:
    policy = resolve_policy(str(tiny_model))
    file = tiny_model / "generation_config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({"eos_token_id": named}))
        assert stop_ids(byte_tokenizer(), declared_ends(policy)) == ends
        file.write_text(json.dumps({"eos_token_id": "<|im_end|>"}))
        with pytest.raises(InputError, match="not a token id"):
            declared_ends(policy)
    finally:
        file.write_text(before)
