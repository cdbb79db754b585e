"""The sampler's contract: a row's tokens follow from its seed, its policy and its decoding options alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from selfimprove.artefacts import Store
from selfimprove.models.chat import render_prompt, stop_ids
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS
from selfimprove.models.log_probs import Group
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.terminal import Progress
from selfimprove.sampling.sampler import Decoding, Request, Sampled, response_seed
from selfimprove.sampling.transformers import TransformersSampler, pick_tokens, uniforms
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step

END = 2  # <|im_end|> of the tiny model
PROMPTS = ["Say cat", "Tell me something long about the sun and the map", "?", "Count: 1 2 3"]


def draw(
    policy: Policy,
    requests: list[Request],
    *,
    temperature: float = 1.0,
    top_p: float = 0.95,
    new: int = 16,
    batch_tokens: int = 16384,
    stops: tuple[int, ...] = (END,),
) -> list[list[Sampled]]:
    sampler = TransformersSampler(torch.float32, "cpu", batch_tokens)
    sampler.set_weights(policy)
    return sampler.sample(requests, Decoding(temperature, top_p, new, stops), lambda n: None)


def requests_of(policy: Policy, n: int = 3, texts: list[str] = PROMPTS) -> list[Request]:
    tokenizer = load_tokenizer(policy)
    ids = [tuple(render_prompt(tokenizer, [{"role": "user", "content": text}])) for text in texts]
    return [Request(one, n, response_seed(0, "key", 0, text)) for one, text in zip(ids, texts, strict=True)]


def ids_of(sampled: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[response.ids for response in group] for group in sampled]


# ---- seeds


def test_rows_tokens_depend_on_its_seed_alone_and_not_on_its_neighbours(tiny_policy: Policy) -> None:
    requests = requests_of(tiny_policy)
    together = ids_of(draw(tiny_policy, requests))
    assert [ids_of(draw(tiny_policy, [request]))[0] for request in requests] == together
    assert ids_of(draw(tiny_policy, requests[::-1]))[::-1] == together
    one = requests[1]
    single = [Request(one.prompt_ids, 1, one.seed + i) for i in range(one.n)]
    assert [group[0] for group in ids_of(draw(tiny_policy, single))] == together[1]


def test_batch_tokens_changes_no_response(tiny_policy: Policy) -> None:
    requests = requests_of(tiny_policy)
    for batch_tokens in (1, 200, 400):
        assert ids_of(draw(tiny_policy, requests, batch_tokens=batch_tokens)) == ids_of(draw(tiny_policy, requests))


def test_same_seeds_repeat_and_responses_of_a_prompt_differ(tiny_policy: Policy) -> None:
    requests = requests_of(tiny_policy)
    first = ids_of(draw(tiny_policy, requests))
    assert ids_of(draw(tiny_policy, requests)) == first
    for responses in first:
        assert len({tuple(ids) for ids in responses}) == len(responses)


def test_a_retry_and_the_next_update_draw_new_noise(tiny_policy: Policy) -> None:
    seeds = {
        response_seed(0, "key", 0, "p"),
        response_seed(0, "key", 0, "p", attempt=1),
        response_seed(0, "key", 1, "p"),
        response_seed(1, "key", 0, "p"),
        response_seed(0, "other", 0, "p"),
        response_seed(0, "key", 0, "q"),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert response_seed(0, "key", 0, "p") == response_seed(0, "key", 0, "p")
    ids = requests_of(tiny_policy)[0].prompt_ids
    drawn = ids_of(draw(tiny_policy, [Request(ids, 1, seed) for seed in sorted(seeds)]))
    assert len({tuple(group[0]) for group in drawn}) == 6


def test_uniforms_are_uniform_and_follow_from_the_seed_alone() -> None:
    numbers = uniforms(2**62 - 1, 20000)
    assert np.array_equal(uniforms(2**62 - 1, 20000), numbers)
    assert np.array_equal(uniforms(2**62 - 1, 10), numbers[:10])  # more tokens do not change the first ones
    assert numbers.min() >= 0 and numbers.max() < 1
    # Standard error of the mean of 20,000 uniforms is 0.002.
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(numbers, uniforms(5, 20000))[0, 1]) < 0.03
    assert abs(np.corrcoef(uniforms(5, 20000), uniforms(6, 20000))[0, 1]) < 0.03


def test_one_seed_for_all_prompts_is_not_shared_noise(tiny_policy: Policy, tmp_path: Path) -> None:
    # vllm #50440: with one seed for every prompt, all draw the same noise. Here two prompts with the same tokens and
    # other ids must get other responses, through the step as it really runs, and a second run of it the same ones.
    ids = list(requests_of(tiny_policy)[0].prompt_ids)
    request = StepRequest(
        step="sample",
        label="sample",
        options={
            "n": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "stop_ids": [END], "dtype": "float32",
            "backend": "transformers",
        },
        inputs={"prompts": [{"prompt_id": name, "prompt_ids": ids} for name in ("a", "b")]},
        policies={"policy": tiny_policy},
        seed=0,
        execution={"device": "cpu", "batch_tokens": 4096},
    )  # fmt: skip
    quiet = Progress(Console(file=io.StringIO()))
    rows = run_step(Store(tmp_path / "one"), request, quiet)[0].rows()
    assert [(row["prompt_id"], row["index"]) for row in rows] == [(p, i) for p in "ab" for i in range(4)]
    assert len({tuple(row["ids"]) for row in rows}) == 8
    assert run_step(Store(tmp_path / "two"), request, quiet)[0].rows() == rows


# ---- what a response is


def test_stop_tokens_end_a_response_and_are_kept_and_a_truncated_one_has_none(tiny_policy: Policy) -> None:
    # Byte tokens are no end of turn, but stopping at a quarter of them shows both ends in a few responses.
    stops = tuple(range(2, 70))
    finished = {"stop": 0, "length": 0}
    for group in draw(tiny_policy, requests_of(tiny_policy, n=8), top_p=1.0, new=4, stops=stops):
        for response in group:
            finished[response.finish] += 1
            assert not set(response.ids[:-1]) & set(stops)
            if response.finish == "stop":
                assert response.ids[-1] in stops and len(response.ids) <= 4
            else:
                assert response.ids[-1] not in stops and len(response.ids) == 4
    assert finished["stop"] > 2 and finished["length"] > 2


def test_progress_counts_every_response_once(tiny_policy: Policy) -> None:
    sampler = TransformersSampler(torch.float32, "cpu", 16384)
    sampler.set_weights(tiny_policy)
    for new in (1, 3, 6):
        told: list[int] = []
        sampler.sample(requests_of(tiny_policy, n=5), Decoding(1.0, 1.0, new, tuple(range(2, 70))), told.append)
        assert sum(told) == 20


def test_sampler_log_prob_is_the_scorers(tiny_policy: Policy) -> None:
    # Temperature and top-p shape the draw; the log-prob is the policy's own.
    requests = requests_of(tiny_policy)
    drawn = draw(tiny_policy, requests, temperature=0.7, top_p=0.8)
    model, as_policy = MODELS.get(tiny_policy, torch.float32, "cpu")
    groups = [Group(r.prompt_ids, tuple(tuple(s.ids) for s in g)) for r, g in zip(requests, drawn, strict=True)]
    with as_policy:
        scored = summed_log_probs(model, groups, 4096)
    for group, values in zip(drawn, scored, strict=True):
        for response, value in zip(group, values, strict=True):
            assert response.log_prob == pytest.approx(value, abs=1e-4 * len(response.ids))


def greedy_by_generate(model: torch.nn.Module, ids: tuple[int, ...], new: int, stops: list[int]) -> list[int]:
    """Transformers' own greedy answer to one prompt, without padding."""
    out = model.generate(  # type: ignore[operator]
        torch.tensor([ids]), do_sample=False, max_new_tokens=new, eos_token_id=stops, pad_token_id=0
    )
    return list(out[0, len(ids) :].tolist())


def test_temperature_zero_is_transformers_own_greedy_decoding(tiny_policy: Policy) -> None:
    requests = requests_of(tiny_policy, n=1)
    drawn = draw(tiny_policy, requests, temperature=0.0, new=24)
    model, _ = MODELS.get(tiny_policy, torch.float32, "cpu")
    for request, (response,) in zip(requests, drawn, strict=True):
        assert response.ids == greedy_by_generate(model, request.prompt_ids, 24, [END])


# ---- the distribution


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """(tokens of the smallest set with mass >= top_p, most likely first; their renormalised probabilities)."""
    probabilities = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    order = np.argsort(-probabilities, kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), top_p - 1e-12) + 1)
    inside = order[: min(count, len(order))]
    return inside, probabilities[inside] / probabilities[inside].sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.9), (1.7, 0.6), (1.0, 0.05), (0.8, 0.95)])
def test_tokens_are_drawn_with_the_nucleus_renormalised_probabilities(temperature: float, top_p: float) -> None:
    # Inverting the cumulative distribution over an even grid of noise gives each token its share to 1/grid.
    grid, vocabulary = 4000, 12
    noise = (torch.arange(grid, dtype=torch.double) + 0.5) / grid
    for seed in range(5):
        logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
        tokens = pick_tokens(logits.expand(grid, -1), noise, temperature, top_p)
        inside, expected = nucleus(logits, temperature, top_p)
        shares = np.bincount(tokens.numpy(), minlength=vocabulary) / grid
        assert set(np.flatnonzero(shares)) <= set(inside)
        assert np.abs(shares[inside] - expected).max() <= 1.5 / grid


def test_the_nucleus_is_the_smallest_set_with_the_mass() -> None:
    noise = (torch.arange(1000, dtype=torch.double) + 0.5) / 1000
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().expand(1000, -1)
    for top_p, tokens in (
        (0.49, {0}),
        (0.51, {0, 1}),
        (0.74, {0, 1}),
        (0.76, {0, 1, 2}),
        (0.91, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ):
        assert set(pick_tokens(logits, noise, 1.0, top_p).tolist()) == tokens


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pick_tokens(logits, torch.rand(20), 0, 0.1), logits.argmax(dim=-1))


def inverted(logits: torch.Tensor, noise: float, top_p: float) -> int:
    """The token of one row by inverting the whole distribution, without any search."""
    inside, probabilities = nucleus(logits, 1.0, top_p)
    return int(inside[min(int(np.searchsorted(np.cumsum(probabilities), noise, side="right")), len(inside) - 1)])


@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.5])
def test_flat_distributions_over_large_vocabularies_are_searched_to_their_end(top_p: float) -> None:
    vocabulary = 6000
    logits = 0.01 * torch.randperm(vocabulary, generator=torch.Generator().manual_seed(3)).float() / vocabulary
    noise = torch.tensor([1e-9, 0.03, 0.3, 0.77, 0.97, 0.9999], dtype=torch.double)
    tokens = pick_tokens(logits.expand(len(noise), -1), noise, 1.0, top_p)
    places = logits.argsort(descending=True).argsort()
    for token, one in zip(tokens.tolist(), noise.tolist(), strict=True):
        # fp32 probabilities and fp64 ones put the boundary between two of 6,000 tokens a place apart at most.
        assert abs(int(places[token]) - int(places[inverted(logits, one, top_p)])) <= 2


def test_one_rows_wide_search_does_not_change_another_rows_token() -> None:
    # Equal logits: which of them come first in a top-k depends on k, so a row must not be searched further because
    # its neighbour is.
    flat = torch.zeros(2, 6000)
    noise = torch.tensor([0.02, 0.999], dtype=torch.double)
    together = pick_tokens(flat, noise, 1.0, 1.0)
    assert together[0] == pick_tokens(flat[:1], noise[:1], 1.0, 1.0)[0]
    assert together[1] == pick_tokens(flat[1:], noise[1:], 1.0, 1.0)[0]


@pytest.mark.parametrize("top_p", [1.0, 0.9999999])
def test_a_token_of_probability_zero_is_never_drawn(top_p: float) -> None:
    # fp32 probabilities sum to a hair less than 1, and noise can be nearer to 1 than that.
    logits = torch.full((1, 50000), -1e9)
    logits[0, :3000] = 0.01 * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    for noise in (1 - 2**-53, 1 - 1e-9, 1 - 1e-7):
        token = pick_tokens(logits, torch.tensor([noise], dtype=torch.double), 1.0, top_p)
        assert int(token) < 3000


def test_noise_next_to_one_still_gives_a_token_of_the_nucleus() -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(2))
    noise = torch.tensor([1 - 2**-53], dtype=torch.double)
    for top_p in (0.3, 0.9, 1.0):
        assert int(pick_tokens(logits, noise, 1.0, top_p)) == nucleus(logits[0], 1.0, top_p)[0][-1]


# ---- the real model


@pytest.fixture(scope="module")
def smollm() -> Policy:
    return resolve_policy("smollm2-135m-instruct")


@pytest.mark.real_model
def test_real_model_greedy_is_transformers_own(smollm: Policy) -> None:
    tokenizer = load_tokenizer(smollm)
    stops = stop_ids(tokenizer)
    texts = ["What is the plural of mouse?", "Copy the last word: red green blue", "Hi"]
    requests = requests_of(smollm, n=1, texts=texts)
    drawn = draw(smollm, requests, temperature=0.0, new=20, stops=tuple(stops))
    model, _ = MODELS.get(smollm, torch.float32, "cpu")
    for request, (response,) in zip(requests, drawn, strict=True):
        assert response.ids == greedy_by_generate(model, request.prompt_ids, 20, stops)


@pytest.mark.real_model
def test_real_model_rows_are_independent_and_agree_with_the_scorer(smollm: Policy) -> None:
    stops = tuple(stop_ids(load_tokenizer(smollm)))
    requests = requests_of(smollm, n=2, texts=["Name an animal.", "What is larger, a cat or an elephant? Say why."])
    drawn = draw(smollm, requests, temperature=0.8, new=16, stops=stops)
    assert ids_of(draw(smollm, requests[1:], temperature=0.8, new=16, stops=stops))[0] == ids_of(drawn)[1]
    model, _ = MODELS.get(smollm, torch.float32, "cpu")
    groups = [Group(r.prompt_ids, tuple(tuple(s.ids) for s in g)) for r, g in zip(requests, drawn, strict=True)]
    for group, values in zip(drawn, summed_log_probs(model, groups, 4096), strict=True):
        assert group[0].ids != group[1].ids
        for response, value in zip(group, values, strict=True):
            assert response.log_prob == pytest.approx(value, abs=1e-4 * len(response.ids))
            assert (response.ids[-1] in stops) == (response.finish == "stop")
