"""The scorer against a plain forward of one conversation at a time, and what goes through the model on the way."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

import selfimprove.models.loading
from selfimprove.artefacts import Store
from selfimprove.errors import RunFailed
from selfimprove.models.batching import pad_left, pad_right, positions, token_budget_batches
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS, ModelPool
from selfimprove.models.log_probs import Group, token_log_probs
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.terminal import Progress
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step

VOCABULARY = 259


@torch.inference_mode()
def by_hand(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """Summed log-prob of one response, from one unpadded forward of the whole conversation."""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].float()
    predicting = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return float(predicting.gather(1, torch.tensor(response)[:, None]).double().sum())


def ragged_groups(seed: int, vocabulary: int = VOCABULARY, longest: int = 24) -> list[Group]:
    """Prompts of 1 to `longest` tokens with 1 to 4 responses each; lengths 1 are among both."""
    dice = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, vocabulary) for _ in range(length))

    shapes = [(1, [1, 5]), (longest, [1]), (7, [longest, 1, 2])]
    shapes += [(dice.randint(1, longest), [dice.randint(1, longest) for _ in range(dice.randint(1, 4))])] * 2
    return [Group(ids(prompt), tuple(ids(length) for length in responses)) for prompt, responses in shapes]


def assert_as_by_hand(model: Any, groups: list[Group], scored: list[list[float]], per_token: float) -> None:
    for group, values in zip(groups, scored, strict=True):
        assert len(values) == len(group.responses)
        for response, value in zip(group.responses, values, strict=True):
            expected = by_hand(model, group.prompt_ids, response)
            assert value == pytest.approx(expected, abs=per_token * len(response))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


# ---- values


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_scores_are_those_of_a_plain_forward_in_any_batch(model: Any, batch_tokens: int) -> None:
    for seed in range(3):
        groups = ragged_groups(seed)
        assert_as_by_hand(model, groups, summed_log_probs(model, groups, batch_tokens), 1e-5)


def test_responses_of_one_token_are_read_from_their_prompts_last_logits(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge's ten digits need neither ten copies of a prompt's keys and values nor any."""
    digits = tuple((token,) for token in range(20, 30))
    groups = [Group(prompt, digits) for prompt in ((5, 6, 7), (8,), tuple(range(40, 60)))]
    through_caches = [
        row[:-1] for row in summed_log_probs(model, [Group(g.prompt_ids, (*digits, (9, 9))) for g in groups], 4096)
    ]
    rows = list[int]()
    forward = type(model).forward

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert not kwargs["use_cache"]
        rows.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    advanced = list[int]()
    with monkeypatch.context() as patched:
        patched.setattr(type(model), "forward", watched)
        scored = summed_log_probs(model, groups, 4096, advanced.append)
    assert (sum(rows), sum(advanced)) == (len(groups), 10 * len(groups))
    for found, expected in zip(scored, through_caches, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert_as_by_hand(model, groups[:1], scored[:1], 1e-5)


token_ids = st.integers(3, VOCABULARY - 1)
texts = st.lists(token_ids, min_size=1, max_size=9).map(tuple)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4), st.integers(1, 80))
def test_no_mixture_of_lengths_changes_a_score(
    model: Any, shapes: list[tuple[tuple[int, ...], list[tuple[int, ...]]]], batch_tokens: int
) -> None:
    groups = [Group(prompt, tuple(responses)) for prompt, responses in shapes]
    assert_as_by_hand(model, groups, summed_log_probs(model, groups, batch_tokens), 1e-5)


def test_every_response_is_told_of_once(model: Any) -> None:
    groups = ragged_groups(5)
    told: list[int] = []
    summed_log_probs(model, groups, 100, told.append)
    assert sum(told) == sum(len(group.responses) for group in groups)


def test_no_groups_give_no_scores(model: Any) -> None:
    assert summed_log_probs(model, [], 100) == []


def test_log_probs_of_many_rows_are_the_same_as_of_few() -> None:
    # The rows go through log-softmax in pieces of 256.
    logits = torch.randn(2, 301, 11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 11, (2, 301), generator=torch.Generator().manual_seed(1))
    expected = torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_log_probs(logits, targets), expected)


def test_bf16_models_are_summed_in_fp32(tiny_model: Path) -> None:
    logits = 8 * torch.randn(4, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([3, 77, 401, 499])
    found = token_log_probs(logits, targets)
    exact = torch.log_softmax(logits.double(), dim=-1).gather(1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5
    # In bf16 the same numbers are off by more than a hundredth.
    assert (torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0] - exact).abs().max() > 1e-2
    half = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).eval()
    group = Group((1, 40, 50), ((60, 70, 80, 90, 100, 110, 120, 2),))
    ((value,),) = summed_log_probs(half, [group], 100)
    # The sum keeps more digits than bf16 has (one step is 0.25 at 40 nats).
    assert value != float(torch.tensor(value).bfloat16())
    assert value == pytest.approx(by_hand(half, group.prompt_ids, group.responses[0]), abs=0.05 * 8)


# ---- what is computed


def lm_head_rows(model: Any, groups: list[Group], batch_tokens: int) -> int:
    rows: list[int] = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:-1].numel()))
    try:
        summed_log_probs(model, groups, batch_tokens)
    finally:
        hook.remove()
    return sum(rows)


def test_only_positions_that_predict_a_response_token_reach_the_lm_head(model: Any) -> None:
    prompts = [tuple(range(10, 10 + length)) for length in (5, 30, 60)]
    groups = [Group(prompt, (tuple(range(20, 29)),) * 3) for prompt in prompts]
    # One row per prompt (its last position), and each response's tokens but the last: no other prompt position.
    assert lm_head_rows(model, groups, 100_000) == 3 + 3 * 3 * 8
    ragged = [Group(prompt, (tuple(range(20, 29)), (30, 31), (40,))) for prompt in prompts]
    assert lm_head_rows(model, ragged, 100_000) <= 3 + 9 * 8


def test_a_prompt_is_computed_once_for_all_its_responses(model: Any) -> None:
    tokens: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        summed_log_probs(model, [Group(tuple(range(10, 60)), ((70, 71, 72),) * 5)], 100_000)
    finally:
        hook.remove()
    assert sum(tokens) == 50 + 5 * 2


# ---- batching


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_hold_every_item_once_within_the_budget(costs: list[int], budget: int) -> None:
    batches = list(token_budget_batches(costs, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(costs)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(costs[i] for i in batch) <= budget
    assert batches == list(token_budget_batches(costs, budget))


def test_padding_is_masked_and_positions_count_real_tokens_only() -> None:
    rows = [[5, 6, 7], [8]]
    ids, mask = pad_left(rows, 0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions(mask).tolist() == [[0, 1, 2], [0, 0, 0]]
    ids, mask = pad_right(rows, 0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]


# ---- policies in one load


def save_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter that does something: PEFT's B starts at 0, here it is random."""
    torch.manual_seed(seed)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(tiny_model, folder / name, seed) for seed, name in enumerate("AB", start=1)}


def counted_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the policies whose base was loaded from now on."""
    loaded: list[str] = []
    real = selfimprove.models.loading.load_base

    def counting(policy: Policy, *args: Any, **kwargs: Any) -> Any:
        loaded.append(policy.name)
        return real(policy, *args, **kwargs)

    monkeypatch.setattr(selfimprove.models.loading, "load_base", counting)
    return loaded


def test_base_and_adapters_share_one_load_and_each_gives_its_own_scores(
    tiny_model: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stale adapters are the classic: TRL #2698, OpenRLHF #1349, vllm #42125.
    groups = ragged_groups(9)
    policies = {"base": resolve_policy(str(tiny_model), "base")}
    expected = {"base": AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()}
    for name, folder in adapters.items():
        policies[name] = resolve_policy(str(folder), name)
        plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        expected[name] = PeftModel.from_pretrained(plain, folder).merge_and_unload().eval()
    loaded = counted_loads(monkeypatch)
    pool = ModelPool()
    for name in ("base", "A", "B", "base", "B", "A", "base"):
        model, as_policy = pool.get(policies[name], torch.float32, "cpu")
        with as_policy:
            assert_as_by_hand(expected[name], groups, summed_log_probs(model, groups, 200), 2e-5)
    assert loaded == ["base"]
    pool.free()
    model, as_policy = pool.get(policies["A"], torch.float32, "cpu")
    with as_policy:
        assert_as_by_hand(expected["A"], groups, summed_log_probs(model, groups, 200), 2e-5)
    assert loaded == ["base", "A"]


def test_another_base_or_type_is_loaded_anew(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = resolve_policy(str(save_tiny_model(tmp_path / "other", seed=1)), "other")
    loaded = counted_loads(monkeypatch)
    pool, group = ModelPool(), [Group((1, 40, 50), ((60, 2),))]
    scores = []
    for policy in (tiny_policy, other, tiny_policy):
        model, as_policy = pool.get(policy, torch.float32, "cpu")
        with as_policy:
            scores.append(summed_log_probs(model, group, 100))
    pool.get(tiny_policy, torch.bfloat16, "cpu")
    assert loaded == ["M0", "other", "M0", "M0"]
    assert scores[0] == scores[2] != scores[1]


# ---- the step


def scoring_step(policy: Policy, rows: list[dict[str, Any]], batch_tokens: int = 4096) -> StepRequest:
    return StepRequest(
        step="log_probs",
        label="log-probs",
        options={"dtype": "float32"},
        inputs={"responses": rows},
        policies={"policy": policy},
        seed=0,
        execution={"device": "cpu", "batch_tokens": batch_tokens},
    )


def step_rows(folder: Path, policy: Policy, rows: list[dict[str, Any]], batch_tokens: int = 4096) -> list[Any]:
    quiet = Progress(Console(file=io.StringIO()))
    return run_step(Store(folder), scoring_step(policy, rows, batch_tokens), quiet)[0].rows()


def test_identical_responses_tie_exactly(tiny_policy: Policy, tmp_path: Path) -> None:
    same, other = [60, 61, 62, 63, 2], [70, 71, 72, 73, 74, 75, 2]
    rows = [
        {"prompt_id": "p", "prompt_ids": [1, 40, 41], "index": i, "ids": ids}
        for i, ids in enumerate([same, other, same, other + other, same])
    ]
    found = step_rows(tmp_path / "steps", tiny_policy, rows)
    assert [(row["index"], row["tokens"]) for row in found] == [(0, 5), (1, 7), (2, 5), (3, 14), (4, 5)]
    assert found[0]["log_prob"] == found[2]["log_prob"] == found[4]["log_prob"]
    assert len({row["log_prob"] for row in found}) == 3


def test_a_steps_scores_stay_with_their_prompt_and_index(tiny_policy: Policy, tmp_path: Path, model: Any) -> None:
    # 70 prompts are more than one shard; lengths go up and down, so that sorting by length shows.
    dice = random.Random(1)
    prompts = [[dice.randrange(3, 259) for _ in range(1 + 7 * number % 11)] for number in range(70)]
    rows = [
        {
            "prompt_id": f"p{number}",
            "prompt_ids": prompts[number],
            "index": index,
            "ids": [dice.randrange(3, 259) for _ in range(1 + 5 * (number + index) % 13)],
        }
        for number in range(70)
        for index in range(2)
    ]
    found = step_rows(tmp_path / "steps", tiny_policy, rows, batch_tokens=300)
    assert [(row["prompt_id"], row["index"]) for row in found] == [(row["prompt_id"], row["index"]) for row in rows]
    for row, scored in zip(rows, found, strict=True):
        expected = by_hand(model, tuple(row["prompt_ids"]), tuple(row["ids"]))
        assert scored["log_prob"] == pytest.approx(expected, abs=1e-5 * len(row["ids"]))


def test_scores_that_are_not_finite_stop_the_run(tiny_model: Path, tmp_path: Path) -> None:
    broken = AutoModelForCausalLM.from_pretrained(tiny_model)
    broken.lm_head.weight.data[7] = float("nan")
    folder = tmp_path / "broken"
    broken.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny_model / name).is_file():
            (folder / name).write_bytes((tiny_model / name).read_bytes())
    rows = [{"prompt_id": "p", "prompt_ids": [1, 40], "index": 0, "ids": [50, 2]}]
    with pytest.raises(RunFailed, match="p"):
        step_rows(tmp_path / "steps", resolve_policy(str(folder)), rows)


# ---- the real model


@pytest.mark.real_model
def test_real_model_scores_are_those_of_a_plain_forward() -> None:
    policy = resolve_policy("smollm2-135m-instruct")
    model, _ = MODELS.get(policy, torch.float32, "cpu")
    groups = ragged_groups(2, vocabulary=49152, longest=40)
    for batch_tokens in (60, 4096):
        assert_as_by_hand(model, groups, summed_log_probs(model, groups, batch_tokens), 1e-4)
