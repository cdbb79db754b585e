"""Architectures in their smallest form: each is sampled from, scored and loses its dropout, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import REFUSED, WORKS, save_architecture
from conftest import byte_tokenizer

from selfimprove.errors import InputError
from selfimprove.models.batching import pad_left, positions
from selfimprove.models.chat import render_prompt, stop_ids
from selfimprove.models.configuration import as_configured
from selfimprove.models.context import context_tokens
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import load_base
from selfimprove.models.log_probs import Group, token_log_probs
from selfimprove.models.policy import declared_ends
from selfimprove.models.resolve import resolve_policy
from selfimprove.sampling.sampler import Decoding, Request
from selfimprove.sampling.transformers import TransformersSampler
from selfimprove.training.dropout import without_dropout

Made = Callable[[str, dict[str, Any]], Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return lambda kind, changes: save_architecture(tmp_path / "model", kind, changes)


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
    with pytest.raises(
        InputError, match=rf"is a {kind}(ForCausalLM|LMHeadModel), which selfimprove cannot sample from and score"
    ):
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
