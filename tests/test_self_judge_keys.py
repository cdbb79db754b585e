"""Which options of `self_judge` are in the keys of its steps. `test_steps.py` checks that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from selfimprove.artefacts import Store
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.loop.loop import Loop
from selfimprove.methods.self_judge.training import Example, find_rubric, self_evaluation, similarity, train_judge
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.request import StepRequest

# A change, and the steps whose key it changes, the rows of responses and examples being the same.
SELF_JUDGE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "rubric": ({"self_judge": {"rubric": "OWN"}}, {"self_evaluation"}),  # of other questions
    "embedding": ({"self_judge": {"embedding": "OWN"}}, {"similarity"}),
    "self_evaluation": ({"self_judge": {"self_evaluation": 0.2}}, set()),  # of the labels, which are rows
    "scaling": ({"self_judge": {"scaling": "min_max"}}, set()),
    "ce_reference": ({"self_judge": {"ce_reference": 0.5}}, {"judge"}),
    "ce_plain": ({"self_judge": {"ce_plain": 0.5}}, {"judge"}),
    "distillation": ({"self_judge": {"distillation": 0.5}}, {"judge"}),
    "restart": ({"self_judge": {"restart": False}}, set()),  # of the policy that a later round starts from
    "held_out": ({"self_judge": {"held_out": 0.2}}, set()),  # of the rows that are trained
    "min_correlation": ({"self_judge": {"min_correlation": 0.1}}, set()),  # of a gate
}
OPTIONS = {f"self_judge.{name}" for name in SELF_JUDGE}
OTHERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "training.epochs": ({"training": {"epochs": 2}}, {"judge"}),
    "training.learning_rate": ({"training": {"learning_rate": 2e-3}}, {"judge"}),
    "sft.epochs": ({"sft": {"epochs": 2}}, set()),
    "training.micro_batch_size": ({"training": {"micro_batch_size": 1}}, set()),
    "training.lora.dropout": ({"training": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}}}, {"judge"}),
    "seed": ({"seed": 1}, {"judge"}),
}


@pytest.fixture
def keys_of(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[dict[str, Any]], dict[str, str]]:
    from test_steps import Captured, NoEvents, silent

    write_jsonl(tiny_data / "labelled.jsonl", [{"prompt": "Say cat", "answer": "cat"}])
    prompt = RenderedPrompt("p", (1, 40, 50), "Say cat", "cat")
    response = Response("p", 0, (60, 2), "stop", "!")
    responses = Responses({"p": prompt}, {"p": (response,)})
    own = tmp_path / "OWN"
    own.mkdir()
    (own / "rubric.yaml").write_text("parser: digits\n")
    (own / "prompt.txt").write_text("{instruction} {response}\n")
    (own / "prompt-reference.txt").write_text("{instruction} {response} {reference}\n")

    def capture(store: Store, request: StepRequest, progress: Any) -> None:
        raise Captured(request)

    monkeypatch.setattr("selfimprove.inference.run_step", capture)
    monkeypatch.setattr(
        "selfimprove.methods.self_judge.training.find_embedding",
        lambda model, where="": (str(tmp_path), f"digest of {model}"),
    )

    def make(changes: dict[str, Any]) -> dict[str, str]:
        given = {"data": {"prompts": "labelled.jsonl", "prompts_per_round": 1}, "rounds": 1, "evaluate": [], **changes}
        if given.get("self_judge", {}).get("rubric") == "OWN":
            given["self_judge"] = {"rubric": str(own)}
        recipe = tiny_recipe("self_judge", **given)
        loop = Loop(recipe, Store(tmp_path / "steps"), NoEvents(), silent())  # type: ignore[arg-type]
        example = Example(prompt, response, 3, {"reference_ids": [1, 40, 50], "plain_ids": [1, 40], "label": 3})
        monkeypatch.setattr(loop, "check", lambda *a, **k: None)  # the example is no rendered one
        calls = {
            "self_evaluation": lambda: self_evaluation(loop, find_rubric(loop), loop.base_policy, responses),
            "similarity": lambda: similarity(loop, responses),
            "judge": lambda: train_judge(loop, loop.base_policy, [example]),
        }
        keys = {}
        for name, call in calls.items():
            with pytest.raises(Captured) as caught:
                call()
            keys[name] = caught.value.request.key()
        return keys

    return make


@pytest.mark.parametrize("option", [*SELF_JUDGE, *OTHERS])
def test_an_option_changes_the_keys_of_the_steps_that_it_changes(
    option: str, keys_of: Callable[[dict[str, Any]], dict[str, str]]
) -> None:
    changes, expected = (SELF_JUDGE | OTHERS)[option]
    before, after = keys_of({}), keys_of(changes)
    assert {name for name in before if before[name] != after[name]} == expected
