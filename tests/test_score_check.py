"""`selfimprove check` for `score` and `star`: what is shown before a run, and what it will cost, computed by hand."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_estimate import HALF, PLAN, SMALL

from selfimprove.cli.check import check_recipe
from selfimprove.errors import InputError
from selfimprove.methods.score.step import SCORE
from selfimprove.models.chat import append_turn
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps import memory as estimate
from selfimprove.steps.cost import Dry, Tokens
from selfimprove.steps.memory import CPU_MARGIN, GIB, Plan, loading
from selfimprove.steps.request import StepRequest

MakeRecipe = Callable[..., Recipe]
SHORT: dict[str, Any] = {"instruction": "Again.", "stage_one": {"updates": 3}, "stage_two": {"updates": 2}}
# Two turns: a row is a prompt of 6, two attempts of 4, and the instruction's 5.
TWO = replace(PLAN, seconds=1, between=5)


@pytest.fixture
def made(tiny_recipe: MakeRecipe) -> MakeRecipe:
    """12 samples an update, 3 of each prompt; 24 prompts for `score`, two rounds of 8 for `star`."""

    def make(method: str = "score", **changes: Any) -> Recipe:
        own = {"score": {**SHORT, **changes.pop("score", {})}} if method == "score" else {"star": {"traces": "pairs"}}
        data = {"seed": None, "pairs": None, "prompts_per_round": None if method == "score" else 8}
        training = {"batch_size": 12, **changes.pop("training", {})}
        return tiny_recipe(method, **own, data=data, training=training, **changes)

    return make


def shown(recipe: Recipe) -> str:
    out = io.StringIO()
    check_recipe(recipe, Console(file=out, width=200))
    return out.getvalue()


def row(text: str, name: str) -> str:
    """A row of the table of estimates."""
    return next(line[len(name) :].strip() for line in text.splitlines() if line.startswith(f"{name} "))


# ---- what is shown


def test_check_shows_the_second_turn_and_writes_nothing(made: MakeRecipe, tiny_data: Path) -> None:
    text = shown(made())
    start = text.index("turn 2, as it is sampled")
    turn = text[start : text.index("<|im_start|>assistant", text.index("Again.", start))]
    assert "the first attempt, as it was sampled)<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>" in turn
    assert "3 updates in Stage I and 2 updates in Stage II: each 3 samples of 4 prompts" in text
    assert "the 24 prompts are used 0.8 times" in text  # 5 updates of 4 prompts
    assert not (tiny_data / "run").exists()


def test_a_single_turn_has_no_second_one(made: MakeRecipe) -> None:
    text = shown(made(score={"turns": 1, "stage_one": {"updates": 0}}))
    assert "turn 2" not in text and "Again." not in text
    assert "\n2 updates in Stage II: each 3 samples of 4 prompts" in text


def test_star_shows_the_second_turn_too(made: MakeRecipe) -> None:
    text = shown(made("star"))
    assert "turn 2, as it is sampled" in text and "There might be an error in the answer above" in text
    assert "updates in Stage" not in text


def test_what_score_cannot_train_is_refused_before_it_starts(made: MakeRecipe) -> None:
    whole = {"lora": None, "processes": 2, "accelerate": "data/accelerate/fsdp-2gpu.yaml", "dtype": "bfloat16"}
    with pytest.raises(InputError, match=r"^training\.accelerate: FSDP cuts the weights into pieces"):
        shown(made(training=whole))


# ---- what it costs


def test_the_estimate_is_of_the_methods_own_steps(made: MakeRecipe) -> None:
    score = shown(made())
    assert "SCoRe" in row(score, "memory") and "DPO" not in row(score, "memory")
    assert "SFT" not in row(score, "memory")
    star = shown(made("star"))
    assert "SFT" in row(star, "memory") and "DPO" not in row(star, "memory") and "SCoRe" not in row(star, "memory")
    sampled, scored, trained = (
        int(cell.replace(",", "")) for cell in row(score, "tokens sampled / scored / trained").split(" / ")
    )
    assert sampled == 5 * 12 * 2 * 8 + 3 * 24 * 1 * 2 * 8
    assert scored > trained > 5 * 12 * (2 * 8 + len("Again."))


PROMPTS = [6, 8, 7, 7]


def stage(tiny_policy: Policy, **changes: Any) -> Dry:
    """A stage of 5 updates of 12 samples, 3 of each of four prompts, as its step is asked for."""
    options = {
        **{"dtype": "float32", "batch_size": 12, "lora": {"r": 2, "dropout": 0.0}, "keep": "last", "updates": 5},
        **{"n": 3, "first_attempts": 3, "max_new_tokens": 8, "turns": 2, "instruction": "Again.", "passes": 1},
        **{"backend": "transformers"},
    }
    execution = {"device": "cpu", "share_prompt": "auto", "gradient_checkpointing": False}
    options |= {name: value for name, value in changes.items() if name not in execution}
    execution |= {name: value for name, value in changes.items() if name in execution}
    rows = [{"prompt_ids": [1] * length} for length in PROMPTS]
    found = SCORE.dry
    assert found
    return found(StepRequest("score", "", options, {"prompts": rows}, {"start": tiny_policy}, 0, execution))


def test_the_tokens_of_a_stage_by_hand(tiny_policy: Policy) -> None:
    # 20 uses of prompts of 7 tokens on average, 60 samples of two attempts of 8, the instruction between them.
    between = len(append_turn(load_tokenizer(tiny_policy), [], "Again."))
    found, row = stage(tiny_policy).tokens, 2 * 8 + between
    forward = 20 * 7 + 60 * row  # a prompt is computed once
    assert found == Tokens(20 * 7 + 60 * (7 + 8 + between), 60 * 2 * 8, forward, forward)
    # With checkpointing no prompt is shared; every pass goes through all samples again.
    passes = stage(tiny_policy, passes=2, gradient_checkpointing=True).tokens
    assert passes.trained == 2 * 60 * (7 + row) and passes.sampled == found.sampled
    assert stage(tiny_policy, share_prompt=False).tokens.trained == 60 * (7 + row)
    shared = stage(tiny_policy, first_attempts=1)
    assert found.sampled - shared.tokens.sampled == 40 * 8 and shared.tokens.trained == found.trained
    one = stage(tiny_policy, turns=1, instruction="").tokens
    assert (one.sampled, one.trained) == (60 * 8, 20 * 7 + 60 * 8)


def test_the_memory_of_a_stage_by_hand() -> None:
    assert (TWO.answers, TWO.row, PLAN.row) == (8, 19, 10)
    found = estimate.score(SMALL, TWO)
    tokens = 3 * 19
    assert found.weights + found.gradients + found.optimizer == 4 * 1352 + 16 * 512
    assert found.activations == 3 * tokens * estimate.layer_activations(SMALL, TWO, 19)
    assert found.logits == 3 * 8 * 10 * 5 * 4  # five copies of the trained tokens' logits
    assert estimate.score(SMALL, replace(HALF, seconds=1, between=5)).logits == 3 * 8 * 10 * (5 * 2 + 4)
    assert estimate.score(SMALL, replace(TWO, dropout=True)) == found


def test_full_weights_hold_a_frozen_second_copy() -> None:
    full = replace(TWO, lora_rank=None)
    with_copy = replace(full, reference=True)
    assert estimate.score(SMALL, with_copy).weights - estimate.score(SMALL, full).weights == 4 * 1352
    assert loading(SMALL, with_copy) == 2 * loading(SMALL, full)
    half = replace(with_copy, half=True, gpu=True)
    assert loading(SMALL, half) == (4 + 2) * 1352


def test_a_stage_holds_its_sampler_beside_the_optimizer() -> None:
    """With a large batch of tokens the sampling is the peak, and what the training keeps is there too."""
    plan = replace(TWO, batch_tokens=4000)
    found, drawing = estimate.score(SMALL, plan), estimate.sampling(SMALL, plan)
    assert found == replace(drawing, weights=4 * 1352 + 4 * 512, optimizer=8 * 512)
    # Several second attempts stay together behind their first one.
    assert estimate.sampling(SMALL, replace(TWO, seconds=6)).cache == 6 * 19 * 2 * 2 * 4 * 4


def test_the_plan_is_read_from_the_step(tiny_policy: Policy) -> None:
    def plan(**changes: Any) -> Plan:
        found = stage(tiny_policy, **changes).plan
        assert found
        return found

    assert (plan().seconds, plan().prompt, plan().response, plan().reference) == (1, 8, 8, False)
    assert plan(first_attempts=1).seconds == 3
    assert plan(lora=None).reference
    one = plan(turns=1, instruction="")
    assert (one.seconds, one.between, one.row) == (0, 0, 8 + 8)


def test_what_stands_beside_a_stage_on_disk(tiny_policy: Policy) -> None:
    assert (stage(tiny_policy).policies, stage(tiny_policy).beside) == (1, 0)
    assert stage(tiny_policy, keep="highest_reward").beside == 1
    assert stage(tiny_policy, backend="vllm").beside == 1  # what the engine reads at every update


def test_the_peak_that_is_shown_is_the_formulas(made: MakeRecipe, tiny_model: Path) -> None:
    text, shape = shown(made()), estimate.Shape.read(tiny_model)
    plan = replace(PLAN, prompt=60, between=50, response=8, n=3, batch_tokens=16384, seconds=1, lora_rank=4)
    expected = CPU_MARGIN * max(one(shape, plan).total for one in (estimate.sampling, estimate.score)) / GIB
    assert abs(float(row(text, "memory").split(" GB")[0]) - expected) < 0.1
    assert re.match(r"needs .* at most, .* GB of memory, .* GB of disk: fits here", text)
