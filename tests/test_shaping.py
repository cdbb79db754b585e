"""Repetition penalty, min-p, top-k and stop texts: Transformers' processors, and vLLM, draw from the same policy."""

from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer
from test_sampling_vllm import END, MODELS, REQUESTS, largest_difference, needs_vllm
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from selfimprove.errors import InputError
from selfimprove.models.policy import Policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.sampling import shaping
from selfimprove.sampling.sampler import Decoding, Request, Sampled
from selfimprove.sampling.shaping import seen_tokens, shaped
from selfimprove.sampling.transformers import TransformersSampler

pytest_plugins = ["test_sampling_vllm"]
PROMPTS = [(1, 5, 6), (1, 7)]


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(shaping).failed == 0


def test_each_is_transformers_own() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)) * 3
    seen = seen_tokens(PROMPTS, [3, 2], 50)
    ids = torch.tensor([[1, 5, 6]] * 3 + [[1, 7, 7]] * 2)
    plain = Decoding(0.7, 1.0, 9, (END,))
    assert shaped(logits, None, plain) is logits
    penalised = shaped(logits, seen, dataclasses.replace(plain, repetition_penalty=1.3))
    torch.testing.assert_close(penalised, RepetitionPenaltyLogitsProcessor(1.3)(ids, logits.clone()))  # type: ignore[arg-type]
    few = shaped(logits, None, dataclasses.replace(plain, top_k=4)) > -torch.inf
    assert torch.equal(few, TopKLogitsWarper(4)(ids, logits / 0.7) > -torch.inf)  # type: ignore[arg-type]
    likely = shaped(logits, None, dataclasses.replace(plain, min_p=0.1)) > -torch.inf
    assert torch.equal(likely, MinPLogitsWarper(0.1)(ids, logits / 0.7) > -torch.inf)  # type: ignore[arg-type]
    assert torch.equal(shaped(logits, None, dataclasses.replace(plain, temperature=0.0, top_k=4)), logits)


def sampled(policy: Policy, requests: list[Request], decoding: Decoding) -> list[list[Sampled]]:
    sampler = TransformersSampler(torch.float32, "cpu", 4096)
    sampler.set_weights(policy)
    return sampler.sample(requests, decoding, lambda n: None)


def allowed(policy: Policy, request: Request, one: Sampled, decoding: Decoding) -> list[bool]:
    """Whether each token is one that could be drawn there."""
    model, as_policy = MODELS.get(policy, torch.float32, "cpu")
    found = []
    with as_policy, torch.no_grad():
        for place, token in enumerate(one.ids):
            before = [*request.prompt_ids, *one.ids[:place]]
            logits = model(torch.tensor([before])).logits[:, -1]
            found.append(bool(shaped(logits, seen_tokens([before], [1], logits.shape[-1]), decoding)[0, token] > -1e9))
    return found


SHAPED = Decoding(1.0, 1.0, 12, (END,), top_k=5, min_p=0.05, repetition_penalty=1.4)


def check(policy: Policy, drawn: list[list[Sampled]]) -> None:
    for request, row in zip(REQUESTS[:2], drawn, strict=True):
        assert all(all(allowed(policy, request, one, SHAPED)) for one in row)


def test_only_what_is_left_is_drawn_and_log_probs_are_the_policys(tiny_policy: Policy) -> None:
    drawn = sampled(tiny_policy, REQUESTS[:2], SHAPED)
    check(tiny_policy, drawn)
    assert largest_difference(tiny_policy, drawn, REQUESTS[:2]) < 1e-4
    alone = sampled(tiny_policy, REQUESTS[1:2], SHAPED)
    assert [one.ids for one in alone[0]] == [one.ids for one in drawn[1]]


@needs_vllm
def test_vllm_draws_from_the_same(sampler: Any, policies: list[Policy]) -> None:
    drawn = sampler.sample(REQUESTS[:2], SHAPED, lambda n: None)
    check(policies[0], drawn)
    assert largest_difference(policies[0], drawn, REQUESTS[:2]) < 1e-4
    greedy = Decoding(0.0, 1.0, 12, (END,), repetition_penalty=1.7)
    ours = sampled(policies[0], REQUESTS[:2], greedy)
    assert [r[0].ids for r in sampler.sample(REQUESTS[:2], greedy, lambda n: None)] == [r[0].ids for r in ours]


def texts_of(drawn: list[list[Sampled]]) -> list[tuple[str, str]]:
    tokenizer = byte_tokenizer()
    return [(tokenizer.decode(one.ids, skip_special_tokens=True), one.finish) for row in drawn for one in row]


def check_stops(drawn: list[list[Sampled]], stop: str) -> None:
    for text, finish in texts_of(drawn):
        assert stop not in text[: -len(stop)]
        assert finish == "stop" or stop not in text
    assert any(text.endswith(stop) for text, _ in texts_of(drawn))


def a_stop(drawn: list[list[Sampled]]) -> str:
    """Two letters that occur in what is drawn freely."""
    return next(text[3:5] for text, _ in texts_of(drawn) if len(text) > 5 and text[3:5].isascii())


def test_a_stop_text_ends_a_response(tiny_policy: Policy) -> None:
    free = Decoding(1.0, 1.0, 24, (END,))
    stop = a_stop(sampled(tiny_policy, REQUESTS, free))
    check_stops(sampled(tiny_policy, REQUESTS, dataclasses.replace(free, stop=(stop,))), stop)


@needs_vllm
def test_and_so_in_vllm(sampler: Any, policies: list[Policy]) -> None:
    free = Decoding(1.0, 1.0, 24, (END,))
    stop = a_stop(sampler.sample(REQUESTS, free, lambda n: None))
    check_stops(sampler.sample(REQUESTS, dataclasses.replace(free, stop=(stop,)), lambda n: None), stop)


def test_it_is_the_recipes_and_refused_where_it_would_be_wrong(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    assert tiny_recipe("cream").sampling.shaping == {}
    recipe = tiny_recipe("cream", sampling={"top_k": 20, "repetition_penalty": 1.1})
    assert recipe.sampling.shaping == {"top_k": 20, "repetition_penalty": 1.1}
    for method, given, said in (
        ("score", {"top_k": 20, "top_p": 1.0}, "`sampling.top_k` must be off"),
        ("cream", {"stop": ["---"]}, "`sampling.stop` is for self_lengthen"),
    ):
        own = {"training": {"batch_size": 6}} if method == "score" else {}
        with pytest.raises(InputError, match=said):
            tiny_recipe(method, sampling=given, **own)
