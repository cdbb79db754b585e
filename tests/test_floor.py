"""Floors, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfimprove.steps.floor import (
    Size,
    Speed,
    Work,
    floor_seconds,
    machine_speed,
    model_size,
    sampling_work,
    scoring_work,
    step_floor,
    step_work,
    training_work,
)

SIZE = Size(body=100, head=50)
SPEED = Speed(large=1000.0, decode=100.0, large_rows=1024, decode_rows=64, dtype="float32", device="cpu")


def test_sampling_computes_prompts_once_and_decodes_all_tokens_but_the_first() -> None:
    # Two prompts of 3 and 5 tokens, two responses each: of 1, 4, 2 and 2 tokens.
    work = sampling_work([3, 5], [1, 4, 2, 2])
    assert work == Work(body=8, head=2, decoded_body=5, decoded_head=5)
    # 2 x (8 x 100 + 2 x 50) operations at 1000 a second, and 2 x 5 x 150 at 100 a second.
    assert floor_seconds(work, SIZE, SPEED) == pytest.approx(1800 / 1000 + 1500 / 100)


def test_scoring_feeds_no_last_token_and_sends_no_prompt_through_the_head() -> None:
    # A prompt of 3 with responses of 1 and 4 tokens: 3 + 0 + 3 through the layers; one row of logits predicts both
    # first tokens, three more the rest of the second response.
    work = scoring_work([(3, [1, 4])])
    assert work == Work(body=6, head=4)
    assert floor_seconds(work, SIZE, SPEED) == pytest.approx(2 * (600 + 200) / 1000)


@pytest.mark.parametrize(("lora", "passes"), [(True, 2), (False, 3)])
def test_training_is_two_passes_with_lora_and_three_without(lora: bool, passes: int) -> None:
    work = training_work([(3, [1, 4]), (2, [2, 2])], epochs=2, lora=lora)
    assert work == Work(body=2 * (6 + 4), head=2 * (4 + 3), passes=passes)
    assert floor_seconds(work, SIZE, SPEED) == pytest.approx(2 * passes * (2000 + 700) / 1000)


def test_work_adds_up_and_refuses_to_mix_training_with_scoring() -> None:
    total = sampling_work([3], [2]) + sampling_work([5], [3])
    assert total == sampling_work([3, 5], [2, 3])
    with pytest.raises(ValueError, match="passes"):
        scoring_work([(3, [1])]) + training_work([(3, [1])], 1, True)


def test_work_of_a_step_is_read_from_its_rows() -> None:
    prompts = [{"prompt_id": "a", "prompt_ids": [1, 2, 3]}]
    sampled: list[dict[str, Any]] = [{"prompt_id": "a", "index": i, "ids": ids} for i, ids in enumerate([[4], [4, 5]])]
    assert step_work("sample", {"n": 2}, {"prompts": prompts}, sampled) == sampling_work([3], [1, 2])

    scored = [{**prompts[0], "index": i, "ids": ids} for i, ids in enumerate([[4], [4, 5], [4]])]
    # Equal responses are scored once.
    assert step_work("log_probs", {}, {"responses": scored}, []) == scoring_work([(3, [1, 2])])

    pair = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}
    options = {"epochs": 3, "lora": {"r": 4}}
    assert step_work("dpo", options, {"pairs": [pair]}, []) == training_work([(2, [1, 2])], 3, True)
    example = {"prompt_ids": [1, 2], "response_ids": [3]}
    assert step_work("sft", {**options, "lora": None}, {"examples": [example]}, []) == training_work(
        [(2, [1])], 3, False
    )
    assert step_work("function", {}, {"texts": []}, []) is None


def test_size_of_a_model_leaves_the_embedding_table_out(tiny_model: Path) -> None:
    # 259 tokens of 32; a layer has q, o of 32 x 32, k, v of 32 x 16, three of 32 x 64, two norms; one norm at the end.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert model_size(str(tiny_model)) == Size(body=2 * layer + 32, head=259 * 32)


def test_floor_of_a_step_is_its_work_at_the_measured_speed(tiny_model: Path) -> None:
    speed = machine_speed("float32", "cpu")
    assert speed.large > 1e8 and speed.decode > 1e7
    assert machine_speed("float32", "cpu") is speed  # measured once
    inputs = {"responses": [{"prompt_id": "a", "prompt_ids": [1, 2, 3], "index": 0, "ids": [4, 5]}]}
    found = step_floor("log_probs", {"dtype": "float32"}, inputs, [], tiny_model, "cpu")
    size = model_size(str(tiny_model))
    assert found == pytest.approx(2 * (4 * size.body + 2 * size.head) / speed.large)
    assert step_floor("function", {}, {"texts": []}, [], tiny_model, "cpu") is None
