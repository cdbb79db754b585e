"""Folders that are no usable model, or an unusual one: used, or refused in words before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CHATML, byte_tokenizer, save_tiny_model

from selfimprove.errors import InputError
from selfimprove.models.chat import end_of_turn_id, render_example, render_prompt
from selfimprove.models.context import context_tokens
from selfimprove.models.loading import load_base
from selfimprove.models.resolve import resolve_policy

PARTS = CHATML.replace(
    "{{ m['content'] }}",
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}",
)
ASKED = [{"role": "user", "content": "Hello"}]


def changed(folder: Path, **changes: object) -> Path:
    save_tiny_model(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_a_torn_configuration_is_named(tmp_path: Path) -> None:
    folder = changed(tmp_path / "torn")
    text = (folder / "config.json").read_text()
    for torn in (text[: len(text) // 2], "", "[]"):
        (folder / "config.json").write_text(torn)
        with pytest.raises(InputError, match=r"torn/config\.json is"):
            resolve_policy(str(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq"])
def test_a_base_that_needs_a_library_is_refused_in_words(tmp_path: Path, method: str) -> None:
    import torch

    quantised = {"quant_method": method, "load_in_4bit": True, "bits": 4, "group_size": 128}
    policy = resolve_policy(str(changed(tmp_path / "base", quantization_config=quantised)))
    with pytest.raises(InputError, match=r"cannot be loaded: .*require"):
        load_base(policy, torch.float32, "cpu")


def test_an_architecture_that_transformers_itself_cannot_build_is_refused_in_words(tmp_path: Path) -> None:
    import torch

    built = {"model_type": "dbrx", "architectures": ["DbrxForCausalLM"]}  # 5.19: its configuration lacks a rope_theta
    policy = resolve_policy(str(changed(tmp_path / "base", **built)))
    with pytest.raises(InputError, match=r"base cannot be loaded: 'Dbrx"):
        load_base(policy, torch.float32, "cpu")


def larger(folder: Path, template: str) -> Path:
    """A model whose tokenizer has 2,000 ids more than it has embeddings; `template` may use the last of them."""
    save_tiny_model(folder)
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra{n}>" for n in range(2000)]})
    tokenizer.save_pretrained(folder)
    return folder


def test_a_conversation_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = larger(tmp_path / "small", CHATML.replace("assistant\n", "assistant\n<extra1999>"))
    with pytest.raises(InputError, match=r"'<extra1999>'.*resize_token_embeddings"):
        resolve_policy(str(folder))


def test_ids_that_no_conversation_uses_may_lie_beyond_the_embeddings(tmp_path: Path) -> None:
    assert resolve_policy(str(larger(tmp_path / "small", CHATML))).digest


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"])
def test_the_context_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({name: 64}))
    assert context_tokens(str(tmp_path)) == 64


def test_a_template_that_reads_parts_gets_parts() -> None:
    plain, parts = byte_tokenizer(), byte_tokenizer(PARTS)
    assert parts.apply_chat_template(ASKED, tokenize=False) != plain.apply_chat_template(ASKED, tokenize=False)
    assert render_prompt(parts, ASKED) == render_prompt(plain, ASKED)
    assert render_example(parts, ASKED, "Hi") == render_example(plain, ASKED, "Hi")
    assert end_of_turn_id(parts) == end_of_turn_id(plain)


def test_a_template_that_leaves_a_turn_out_is_refused() -> None:
    silent = byte_tokenizer(
        CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    )
    assert render_prompt(silent, ASKED)
    with pytest.raises(InputError, match="leaves out what the system says"):
        render_prompt(silent, [{"role": "system", "content": "In French."}, *ASKED])
