"""Which options of `score` and `star` are in the keys of their steps. `test_steps.py` checks that none is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfimprove.artefacts import Store
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.judging.rewarding import rewarded
from selfimprove.loop.loop import Loop
from selfimprove.loop.record import Round
from selfimprove.methods.score.run import Probe, train_stage
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress
from selfimprove.steps.request import StepRequest

BOTH = {"stage 1", "stage 2"}
ALL = {*BOTH, "rewards"}
TWO, ONE = {"stage 2"}, {"stage 1"}
FIVE = {"right_from": 0.5, "kind": "rubric", "rubric": "five-points", "model": "TINY"}
SERVER = {"base_url": "http://127.0.0.1:1/v1", "model": "tiny"}
SERVED = {"right_from": 0.5, "kind": "rubric", "rubric": "five-points", "server": SERVER}
DIGITS = {**SERVED, "rubric": "self-judge"}
PRICES = {"input": 1, "output": 1}
OWN = {"kind": "function", "function": "operator:eq"}

# A row that is a question, and a task of both kinds.
TASK = {
    **{"prompt": "def f():\n", "answer": "a", "entry_point": "f", "test": "", "canonical_solution": "    return 1\n"},
    **{"text": "Write f.", "code": "def f(): return 1", "test_list": ["assert f() == 1"]},
}

# A change of the reward, what it is a change of, and the steps whose key it changes.
REWARD: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "kind": ({"kind": "math"}, {}, ALL),
    "normalize": ({"normalize": ["strip"]}, {}, ALL),
    "tests": ({"kind": "code", "tests": "mbpp"}, {"kind": "code", "tests": "humaneval"}, ALL),
    "seconds": ({"kind": "code", "tests": "mbpp", "seconds": 3}, {"kind": "code", "tests": "mbpp"}, ALL),
    "function": ({**OWN, "function": "operator:ne"}, OWN, ALL),
    "version": ({**OWN, "version": 2}, OWN, ALL),
    "rubric": ({**FIVE, "rubric": "mt-bench-single"}, FIVE, ALL),
    "model": ({**FIVE, "model": "OTHER"}, FIVE, ALL),
    "server.model": ({**SERVED, "server": {**SERVER, "model": "other"}}, SERVED, ALL),
    "right_from": ({"right_from": 0.7}, {}, BOTH),  # of the figures in a training's history
    "log_probs": ({**DIGITS, "log_probs": 3}, DIGITS, ALL),
    **{
        f"server.{name}": ({**SERVED, "server": {**SERVER, name: value}}, SERVED, set())
        for name, value in {
            **{"base_url": "http://127.0.0.1:2/v1", "api_key_env": "PATH", "timeout_s": 1, "retries": 1},
            "concurrency": 1,
        }.items()
    },
    **{
        f"prices.{name}": ({**SERVED, "prices": PRICES | {name: value}}, {**SERVED, "prices": PRICES}, set())
        for name, value in {"input": 2, "output": 2, "currency": "EUR"}.items()
    },
}
SCORE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "instruction": ({"instruction": "Once more."}, BOTH),
    "stage_one.updates": ({"stage_one": {"updates": 7}}, ONE),
    "stage_one.learning_rate": ({"stage_one": {"learning_rate": 3e-3}}, ONE),
    "stage_one.base_first_attempts": ({"stage_one": {"base_first_attempts": 0.5}}, ONE),
    "stage_two.updates": ({"stage_two": {"updates": 7}}, TWO),
    "stage_two.learning_rate": ({"stage_two": {"learning_rate": 3e-3}}, TWO),
    "stage_two.base_first_attempts": ({"stage_two": {"base_first_attempts": 0.5}}, TWO),
    "turns": ({"turns": 1, "stage_one": {"updates": 0}}, BOTH),
    "alpha": ({"alpha": 0}, TWO),  # runs that differ in alpha share Stage I
    "beta1": ({"beta1": 0.2}, BOTH),
    "beta2": ({"beta2": 0.2}, ONE),
    "kl": ({"kl": "k3"}, BOTH),
    "kl_reduction": ({"kl_reduction": "sum"}, BOTH),
    "policy_reduction": ({"policy_reduction": "sum"}, BOTH),
    "whiten": ({"whiten": True}, BOTH),
    "second_baseline": ({"second_baseline": "first_attempt"}, BOTH),
    "first_attempts": ({"first_attempts": 1}, BOTH),
    "passes": ({"passes": 2}, BOTH),
    "clip_range": ({"passes": 2, "clip_range": 0.2}, BOTH),
    "truncated": ({"truncated": "left_out"}, BOTH),
    "keep": ({"keep": "highest_reward"}, BOTH),
    "share_prompt": ({"share_prompt": False}, set()),
    "probe_prompts": ({"probe_prompts": 3}, set()),
    "sampler_weights": ({"sampler_weights": "token_truncate"}, BOTH),
    "sampler_cap": ({"sampler_cap": 2.0}, set()),  # without weights it caps nothing
    "redraw": ({"redraw": 2}, BOTH),
    "keep_samples": ({"keep_samples": 3}, set()),
}
# They choose which traces are drawn and trained; the rows of the steps tell them apart.
STAR = ("instruction", "traces", "right_to_right", "restart", "most_per_prompt")
OPTIONS = {
    *(f"{method}.reward.{name}" for name in REWARD for method in ("score", "star")),
    *(f"score.{name}" for name in SCORE),
    *(f"star.{name}" for name in STAR),
}


@pytest.fixture
def keys_of(
    tiny_recipe: Callable[..., Recipe], tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[dict[str, Any]], dict[str, str]]:
    from conftest import save_tiny_model, write_jsonl
    from test_steps import Captured, NoEvents, silent

    prompt = RenderedPrompt("p", (1, 40, 50), "question", "an answer")
    responses = Responses({"p": prompt}, {"p": (Response("p", 0, (60, 2), "stop", "!"),)})

    def capture(store: Store, request: StepRequest, progress: Progress) -> None:
        raise Captured(request)

    def make(score: dict[str, Any]) -> dict[str, str]:
        if score.get("reward", {}).get("model") in ("TINY", "OTHER"):
            model = tiny_model if score["reward"]["model"] == "TINY" else save_tiny_model(tmp_path / "other", seed=1)
            score = {**score, "reward": {**score["reward"], "model": str(model)}}
        write_jsonl(tmp_path / "tasks.jsonl", [TASK])
        data = {"prompts": "tasks.jsonl", "prompts_per_round": 1}
        recipe = tiny_recipe(
            "score", data=data, score=score, sampling={"n": 2}, training={"batch_size": 4}, evaluate=[]
        )
        monkeypatch.setattr("selfimprove.loop.loop.check_reward", lambda *a, **k: None)
        loop = Loop(recipe, Store(tmp_path / "steps"), NoEvents(), silent())  # type: ignore[arg-type]
        monkeypatch.setattr("selfimprove.inference.run_step", capture)
        calls = {
            **{
                f"stage {number}": lambda number=number: train_stage(
                    loop, loop.base_policy, Round(number, [prompt]), Probe(None, 0, responses)
                )
                for number in (1, 2)
            },
            "rewards": lambda: rewarded(loop, responses, recipe.score.reward, "rewards"),
        }
        keys = {}
        for name, call in calls.items():
            with pytest.raises(Captured) as caught:
                call()
            keys[name] = caught.value.request.key()
        return keys

    return make


def changed(
    keys_of: Callable[[dict[str, Any]], dict[str, str]], before: dict[str, Any], after: dict[str, Any]
) -> set[str]:
    first, second = keys_of(before), keys_of(after)
    return {name for name in first if first[name] != second[name]}


@pytest.mark.parametrize("option", SCORE)
def test_an_option_of_score_changes_the_keys_of_the_stages_that_read_it(
    option: str, keys_of: Callable[[dict[str, Any]], dict[str, str]]
) -> None:
    changes, expected = SCORE[option]
    assert changed(keys_of, {}, changes) == expected


@pytest.mark.parametrize("option", REWARD)
def test_an_option_of_the_reward_changes_keys_where_it_changes_values(
    option: str, keys_of: Callable[[dict[str, Any]], dict[str, str]]
) -> None:
    after, before, expected = REWARD[option]
    assert changed(keys_of, {"reward": before}, {"reward": after}) == expected
