"""`selfimprove check` for `score` and `star`: what is shown before a run, and what it will cost, computed by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_estimate import HALF, PLAN, SMALL

from selfimprove.cli.check import check_recipe
from selfimprove.errors import InputError
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps import memory as estimate
from selfimprove.steps.cost import Tokens, tokens_of
from selfimprove.steps.memory import CPU_MARGIN, GIB, Memory, Plan, disk, disk_of, loading, peaks, plan_of

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
    assert "SCoRe stage" in row(score, "memory") and "DPO" not in row(score, "memory")
    assert "SFT" not in row(score, "memory")
    star = shown(made("star"))
    assert "SFT" in row(star, "memory") and "DPO" not in row(star, "memory") and "SCoRe" not in row(star, "memory")
    sampled, scored, trained = (
        int(cell.replace(",", "")) for cell in row(score, "tokens sampled / scored / trained").split(" / ")
    )
    assert sampled == 5 * 12 * 2 * 8 + 3 * 24 * 1 * 2 * 8
    assert scored > trained > 5 * 12 * (2 * 8 + len("Again."))


PROMPTS = [[6, 8, 7, 7]]


def test_the_tokens_of_score_by_hand(made: MakeRecipe) -> None:
    # 20 uses of prompts of 7 tokens on average, 60 samples of two attempts of 8, 5 between them.
    found = tokens_of(made(), PROMPTS, examples=0, between=5, gpu=False)
    probes = 3 * 4  # of the base and after both stages, of all four prompts, one sample each
    row = 2 * 8 + 5
    assert found == Tokens(
        read=20 * 7 + probes * 7 + (60 + probes) * (7 + 8 + 5),
        sampled=60 * 2 * 8 + probes * 2 * 8,
        scored=20 * 7 + 60 * row + 4 * 8 * (7 + 8),  # a prompt is computed once; two stages' probes of the weights
        trained=20 * 7 + 60 * row,
        policies=3,
    )
    # On a GPU checkpointing is on, which shares no prompt; every pass goes through all samples again.
    passes = made(score={"passes": 2, "clip_range": 0.2})
    assert tokens_of(passes, PROMPTS, 0, 5, gpu=True).trained == 2 * 60 * (7 + row)
    assert tokens_of(made(score={"share_prompt": False}), PROMPTS, 0, 5, gpu=False).trained == 60 * (7 + row)
    assert tokens_of(passes, PROMPTS, 0, 5, gpu=False).sampled == found.sampled


def test_one_turn_and_shared_first_attempts_sample_less(made: MakeRecipe) -> None:
    two = tokens_of(made(), PROMPTS, 0, 5, gpu=False)
    shared = tokens_of(made(score={"first_attempts": 1}), PROMPTS, 0, 5, gpu=False)
    assert two.sampled - shared.sampled == 40 * 8 and two.trained == shared.trained
    one = tokens_of(made(score={"turns": 1, "stage_one": {"updates": 0}}), PROMPTS, 0, 0, gpu=False)
    assert (one.sampled, one.trained, one.policies) == (24 * 8 + 2 * 4 * 8, 8 * 7 + 24 * 8, 2)


def test_the_tokens_of_star_by_hand(made: MakeRecipe) -> None:
    found = tokens_of(made("star"), [[6, 8], [7, 7]], examples=0, between=5, gpu=False)
    trace = 28 + 4 * (2 * 8 + 5)  # one of each of four prompts
    assert found == Tokens(
        read=28 + 3 * (28 + 4 * (8 + 5)),
        sampled=4 * 3 * 2 * 8,
        scored=2 * 2 * 8 * trace / 4,
        trained=3 * trace,  # three attempts, so no more than three traces; one epoch
        policies=3,
    )


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


def test_the_plan_is_read_from_the_recipe(made: MakeRecipe) -> None:
    def plan(recipe: Recipe) -> Plan:
        return plan_of(recipe, half=False, gpu=False, prompt=6, example=0, between=5)

    assert (plan(made()).seconds, plan(made()).between, plan(made()).reference) == (1, 5, False)
    assert plan(made(score={"first_attempts": 1})).seconds == 3
    assert plan(made(training={"lora": None})).reference
    one = plan(made(score={"turns": 1, "stage_one": {"updates": 0}}))
    assert (one.seconds, one.between, one.row) == (0, 0, 6 + 8)
    traces = plan(made("star"))
    assert traces.example == traces.row == 6 + 5 + 2 * 8 and not traces.reference
    assert list(peaks(SMALL, traces, made("star"))) == ["sample", "score", "SFT"]
    assert list(peaks(SMALL, plan(made()), made())) == ["sample", "score", "SCoRe stage"]


def test_every_stage_and_every_round_leaves_a_policy(made: MakeRecipe) -> None:
    plain = disk(SMALL, TWO, 2)
    assert disk_of(SMALL, TWO, made(), rounds=1) == plain
    kept = disk_of(SMALL, TWO, made(score={"keep": "highest_reward"}), rounds=1)
    assert (kept.kept, kept.while_training) == (plain.kept, plain.while_training + plain.policy)
    engine = disk_of(SMALL, TWO, made(sampling={"backend": "vllm"}), rounds=1)
    assert engine.while_training == plain.while_training + plain.policy  # what the engine reads at every update
    alone = made(score={"stage_one": {"updates": 0}})
    assert disk_of(SMALL, TWO, alone, rounds=1) == disk(SMALL, TWO, 1)
    assert disk_of(SMALL, TWO, made("star"), rounds=4) == disk(SMALL, TWO, 4)


def test_the_peak_that_is_shown_is_the_formulas(made: MakeRecipe, tiny_model: Path) -> None:
    recipe = made()
    text = shown(recipe)
    shape = estimate.Shape.read(tiny_model)
    most: list[Memory] = list(
        peaks(shape, plan_of(recipe, half=False, gpu=False, prompt=60, example=0, between=50), recipe).values()
    )
    expected = CPU_MARGIN * max(memory.total for memory in most) / GIB
    assert abs(float(row(text, "memory").split(" GB")[0]) - expected) < 0.1
