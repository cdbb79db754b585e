"""Every gate broken on purpose and passed on purpose: on figures alone, then through a run."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CHATML, byte_tokenizer
from rich.console import Console

from selfimprove import gates
from selfimprove.artefacts import Store
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Response, Responses
from selfimprove.errors import GateError, RunFailed
from selfimprove.models.chat import end_of_turn_id, render_example, stop_ids
from selfimprove.recipe.recipe import Recipe
from selfimprove.recipe.sections import Gates
from selfimprove.report.events import read_events
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run

BOUNDS = Gates().model_dump()
PROMPT = RenderedPrompt("p", (1, 40, 41), "Say cat")


def response(index: int, *ids: int, finish: str = "stop", log_prob: float | None = None) -> Response:
    return Response("p", index, ids, finish, f"text {index}", log_prob)


# ---- rendering


def rendered(tokenizer: Any, answer: str = "cat") -> tuple[list[int], list[int]]:
    return render_example(tokenizer, [{"role": "user", "content": "Say cat"}], answer)


def test_rendering_gate_passes_what_the_template_writes() -> None:
    tokenizer = byte_tokenizer()
    verdict = gates.rendering(tokenizer, [rendered(tokenizer), rendered(tokenizer, "dog")])
    assert verdict.passed and verdict.value == 2


def test_rendering_gate_fires_on_an_end_of_turn_that_is_not_trained_or_trained_twice() -> None:
    tokenizer = byte_tokenizer()
    prompt, answer = rendered(tokenizer)
    for broken in (answer[:-1], [*answer, answer[-1]]):
        verdict = gates.rendering(tokenizer, [rendered(tokenizer), (prompt, broken)])
        assert not verdict.passed and "end-of-turn" in verdict.message and "cat" in verdict.message


def test_rendering_gate_fires_on_two_bos_and_on_none() -> None:
    # vllm #16976, SimPO #21: two BOS tokens, silently.
    tokenizer = byte_tokenizer("<|endoftext|>" + CHATML)
    tokenizer.bos_token = "<|endoftext|>"
    prompt, answer = rendered(tokenizer)
    assert prompt[0] == 0 and gates.rendering(tokenizer, [(prompt, answer)]).passed
    for broken, problem in (([0, *prompt], "twice"), (prompt[1:], "missing")):
        verdict = gates.rendering(tokenizer, [(broken, answer)])
        assert not verdict.passed and "BOS" in verdict.message and problem in verdict.message


def test_rendering_gate_fires_on_responses_whose_end_contradicts_their_finish() -> None:
    tokenizer = byte_tokenizer()
    stops, prompt = stop_ids(tokenizer), replace(PROMPT, prompt_ids=tuple(rendered(tokenizer)[0]))
    end = end_of_turn_id(tokenizer)
    finished, cut = response(0, 50, end), response(1, 51, 52, finish="length")
    assert gates.rendered_pairs(tokenizer, [Pair(prompt, finished, cut, 1.0, 0.0)], stops).passed
    for broken in (replace(cut, ids=(51, end)), replace(finished, ids=(50, 51))):
        verdict = gates.rendered_pairs(tokenizer, [Pair(prompt, finished, broken, 1.0, 0.0)], stops)
        assert not verdict.passed and f"p/{broken.index}" in verdict.message
        assert not gates.rendered_pairs(tokenizer, [Pair(prompt, broken, cut, 1.0, 0.0)], stops).passed


# ---- sampler, weights


def scored(*values: float) -> LogProbs:
    summed = {("p", index): value for index, value in enumerate(values)}
    return LogProbs("M1", "digest", summed, dict.fromkeys(summed, 2))


def test_sampler_agrees_gate_is_a_mean_per_token() -> None:
    rows = (response(0, 5, 6, log_prob=-3.0), response(1, 5, 7, log_prob=-4.0), response(2, 8, 9))
    responses = Responses({"p": PROMPT}, {"p": rows})
    close = gates.sampler_agrees(responses, scored(-3.001, -4.003, -77.0), 1e-2)
    assert close.passed and close.value == pytest.approx(0.004 / 4)
    # One response off by 0.4 nats over four tokens: another template, or stale weights.
    far = gates.sampler_agrees(responses, scored(-3.0, -4.4, -77.0), 1e-2)
    assert not far.passed and far.value == pytest.approx(0.1) and "M1" in far.message
    # Differences of opposite sign do not cancel.
    assert gates.sampler_agrees(responses, scored(-2.8, -4.2, 0.0), 1e-2).value == pytest.approx(0.1)
    # Where no log-prob is there, nothing was checked: that is not agreement.
    silent = Responses({"p": PROMPT}, {"p": (response(0, 5, 6),)})
    unknown = gates.sampler_agrees(silent, scored(-9.0), 1e-2)
    assert not unknown.passed and unknown.value is None and "nothing tells which weights" in unknown.message


LEARNT = {"held_out": 20, "held_out_prompts": 10, "ce_plain": 1.5, "entropy": 2.0, "agreement": 0.3}
NOTHING = "not below its labels' entropy, 2.00: it knows how frequent they are, no more.*The judge learnt nothing$"


@pytest.mark.parametrize(
    ("spearman", "last", "bound", "passed", "said"),
    [
        ((0.5, 0.2, 0.7), 1.5, None, True, r"Spearman \+0\.50 \[\+0\.20, \+0\.70\]; its last .* 1\.50 nats, is below"),
        ((0.5, 0.2, 0.7), 2.1, None, True, "is not below"),
        ((0.1, -0.3, 0.5), 1.5, None, True, "not told from chance"),
        ((0.1, -0.3, 0.5), 2.1, None, False, NOTHING),
        ((0.1, -0.3, 0.5), 2.1, 0.05, True, "is not below"),
        ((-0.1, -0.5, 0.3), 1.5, None, False, "not above 0, not told from chance.*The judge learnt nothing$"),
        ((0.2, 0.1, 0.3), 1.5, 0.25, False, r"not above 0\.25;"),
        (None, 1.5, None, True, "cannot be told from 20 held-out examples of 10 prompts"),
        (None, 2.1, None, False, NOTHING),
    ],
)
def test_judge_learnt_gate_wants_a_correlation_or_else_a_cross_entropy_below_the_labels_own(
    spearman: tuple[float, float, float] | None, last: float, bound: float | None, passed: bool, said: str
) -> None:
    found = dict(zip(("value", "low", "high"), spearman, strict=True)) if spearman else None
    verdict = gates.judge_learnt({**LEARNT, "spearman": found, "ce_plain": last}, bound)
    assert verdict.passed == passed
    assert re.search(said, verdict.message), verdict.message


def test_weights_moved_gate_wants_another_digest_and_other_log_probs() -> None:
    assert gates.weights_moved("a", "b", [-1.0, -2.0], [-1.0, -1.5]).passed
    same_digest = gates.weights_moved("a", "a", [-1.0], [-2.0])
    assert not same_digest.passed and "digest" in same_digest.message
    for after in ([-1.0, -2.0], [-1.0000001, -2.0]):  # equal, or equal but for rounding
        same_scores = gates.weights_moved("a", "b", [-1.0, -2.0], after)
        assert not same_scores.passed and "log-probs" in same_scores.message


# ---- consistency


@pytest.mark.parametrize(
    ("weight", "mean", "values", "passed"),
    [
        ("avg", 0.51, [0.9, 0.1], True),
        ("avg", 0.5, [0.9, 0.1], False),
        ("avg", None, [None], False),
        ("dyn", 0.2, [0.1, None, 0.6], True),
        ("dyn", 0.4, [0.3, 0.5], False),
        ("dyn", None, [None], False),
        ("constant", 0.1, [0.1], True),
    ],
)
def test_consistency_gate_fires_where_the_loss_would_prefer_the_rejected_response(
    weight: str, mean: float | None, values: list[float | None], passed: bool
) -> None:
    verdict = gates.consistent_enough(weight, mean, values)
    assert verdict.passed is passed
    assert passed or "first_round" in verdict.message


# ---- leaks, judges, degeneration


def test_no_leak_gate_names_the_item() -> None:
    assert gates.no_leak(["Say cat 1"], ["Name cat"]).passed
    verdict = gates.no_leak(["Say dog", "name  CAT!"], ["Name cat", "Name sun"])
    assert not verdict.passed and verdict.value == 1 and "Name cat" in verdict.message


@pytest.mark.parametrize(
    ("figures", "key"),
    [((0.6, 0.0), "max_missing"), ((0.0, 0.95), "max_ties")],
)
def test_judge_health_gate_fires_for_each_bound(figures: tuple[float, float], key: str) -> None:
    assert gates.judge_health(0.1, 0.2, BOUNDS).passed
    verdict = gates.judge_health(*figures, BOUNDS)
    assert not verdict.passed and f"gates.{key}" in verdict.message and verdict.bound == BOUNDS[key]


def test_response_health_is_what_it_says() -> None:
    groups = [
        [response(0, 5, 6, 7), response(1, 5, 6, 7), response(2, 8, finish="length")],
        [response(0, 5, 6, finish="length")],
    ]
    health = gates.response_health(groups)
    assert health["duplicate_rate"] == 1 / 4
    assert health["truncation_rate"] == 2 / 4
    assert health["mean_length"] == (3 + 3 + 1 + 2) / 4
    assert health["distinct_2"] == 2 / 5  # (5,6) three times and (6,7) twice
    assert gates.response_health([[response(0, 5)]])["distinct_2"] == 1.0


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"duplicate_rate": 0.99}, "max_duplicates"),
        ({"truncation_rate": 0.95}, "max_truncated"),
        ({"mean_length": 250.0}, "max_length_growth"),
        ({"mean_length": 1.5}, "max_length_growth"),
        ({"distinct_2": 0.04}, "min_distinct"),
    ],
)
def test_degeneration_gate_fires_for_each_bound(changed: dict[str, float], key: str) -> None:
    first = {"duplicate_rate": 0.1, "truncation_rate": 0.1, "mean_length": 20.0, "distinct_2": 0.5}
    assert gates.degeneration(first, first, BOUNDS).passed
    assert gates.degeneration({**first, "mean_length": 100.0, "distinct_2": 0.1}, first, BOUNDS).passed
    verdict = gates.degeneration({**first, **changed}, first, BOUNDS)
    assert not verdict.passed and f"gates.{key}" in verdict.message


# ---- through a run

MakeRecipe = Callable[..., Recipe]
# With this SFT the tiny model moves so far from M0 that its rewards oppose M0's likelihood: C is about 0.23.
FAR = {"sft": {"learning_rate": 3e-2, "epochs": 10}, "seed": 1, "rounds": 1, "evaluate": []}


def go(recipe: Recipe) -> list[dict[str, Any]]:
    """Runs it quietly; the events."""
    return run(recipe, Progress(Console(file=io.StringIO()))).events


def events_of(recipe: Recipe) -> list[dict[str, Any]]:
    return read_events(Path(recipe.output) / "metrics.jsonl")


def verdicts(events: list[dict[str, Any]], gate: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "gate" and event["gate"] == gate]


def test_consistency_gate_stops_a_run_whose_labels_would_turn_round(tiny_recipe: MakeRecipe) -> None:
    options = {**FAR, "cream": {"first_round": "likelihood"}, "sampling": {"n": 4, "max_new_tokens": 6}}
    recipe = tiny_recipe("cream", **options, gates={"disabled": ["degeneration"]})
    with pytest.raises(GateError, match="gate consistency in round 1"):
        go(recipe)
    (verdict,) = verdicts(events_of(recipe), "consistency")
    assert not verdict["passed"] and verdict["value"] < 0.5
    assert not [event for event in events_of(recipe) if event["event"] == "training" and event["stage"] == "dpo"]
    # Disabled it reports, and the run goes on from the steps that were made.
    events = go(tiny_recipe("cream", **options, gates={"disabled": ["degeneration", "consistency"]}))
    assert not verdicts(events, "consistency")[0]["passed"]
    assert any("gate consistency (not enforced)" in event.get("text", "") for event in events)
    assert [event["stage"] for event in events if event["event"] == "training"] == ["sft", "dpo"]
    assert events[-1]["event"] == "done"


def test_no_leak_gate_stops_a_run_before_its_first_step(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    (tiny_data / "items.jsonl").write_text('{"prompt": "say CAT 1", "answer": "cat"}\n')
    recipe = tiny_recipe("cream", data={"prompts_per_round": 12})
    with pytest.raises(GateError, match="no_leak"):
        go(recipe)
    assert not Path(recipe.output).exists(), "refused before anything was written"


@pytest.mark.parametrize(("changes", "found"), [({}, "log-probs"), ({"lora": None}, "digest of its start")])
def test_weights_moved_gate_stops_a_run_whose_training_changed_nothing(
    tiny_recipe: MakeRecipe, changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(GateError, match=f"weights_moved.*{found}"):
        go(tiny_recipe("sft", training={"learning_rate": 1e-30, "weight_decay": 0.0, **changes}, evaluate=[]))


def test_degeneration_gate_stops_a_run_whose_answers_never_end(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe("srlm", evaluate=[], gates={"disabled": []})
    with pytest.raises(GateError, match=r"gates\.max_truncated"):
        go(recipe)
    # The same run with the bound raised passes it.
    raised = tiny_recipe("srlm", rounds=1, evaluate=[], gates={"disabled": [], "max_truncated": 1.0})
    assert all(verdict["passed"] for verdict in verdicts(go(raised), "degeneration"))


def test_sampler_agrees_gate_takes_its_bound_from_the_recipe(tiny_recipe: MakeRecipe) -> None:
    # Sampler and scorer differ by rounding, about 1e-7 nats: a bound below that fires.
    with pytest.raises(GateError, match="sampler_agrees"):
        go(tiny_recipe("srlm", evaluate=[], gates={"sampler_agrees": 1e-15}))


def test_dpo_start_gate_stops_no_training_when_it_is_disabled_and_still_reports(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe("dpo", evaluate=[], gates={"disabled": ["dpo_start"]})
    go(recipe)
    (made,) = [step for step in Store(Path(recipe.output) / "steps").all() if step.manifest["step"] == "dpo"]
    assert made.manifest["execution"]["gate_dpo_start"] is False
    assert (made.folder / "first-batch.json").exists()
    lines = (Path(recipe.output) / "metrics.jsonl").read_text().splitlines()
    assert "dpo_start" in [event.get("gate") for event in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("loss", "margin", "same", "passed"),
    [(0.6931, 0.0, True, True), (0.70, 0.1, True, False), (0.9, 0.4, False, True), (0.6931, 1e-7, False, False)],
)
def test_dpo_start_gate_knows_a_wrong_reference(loss: float, margin: float, same: bool, passed: bool) -> None:
    verdict = gates.dpo_start({"loss": loss, "mean_abs_margin": margin}, same, "float32")
    assert verdict.passed is passed


def first_word_only(prompt: str, response: str) -> float | None:
    """A judge that has an opinion on two of twelve words (for the test below)."""
    return float(len(response)) + math.sin(sum(map(ord, response))) if "cat" in prompt or "dog" in prompt else None


def test_judge_health_gate_stops_a_run_whose_judge_mostly_fails(tiny_recipe: MakeRecipe) -> None:
    judge = {"kind": "function", "function": "test_gates:first_word_only"}
    recipe = tiny_recipe(
        "iterative_dpo", rounds=1, evaluate=[], data={"prompts_per_round": 24},
        iterative_dpo={"judge": judge, "sft": False},
    )  # fmt: skip
    with pytest.raises(
        GateError, match=r"gates\.max_missing.*It is the judge: 60 x the function returned None"
    ) as found:
        go(recipe)
    assert Path(str(found.value).split("what it answered: ")[1].split("\n")[0]).is_dir()
    assert not [event for event in events_of(recipe) if event["event"] == "training"], "before pairs are made"


def test_a_run_without_a_usable_pair_says_what_to_do(tiny_recipe: MakeRecipe) -> None:
    judge = {"kind": "exact_match"}  # the tiny model is never right: every score is 0
    recipe = tiny_recipe("iterative_dpo", rounds=1, evaluate=[], iterative_dpo={"judge": judge, "sft": False})
    with pytest.raises(RunFailed, match=r"no preference pair is left.*sampling\.temperature"):
        go(recipe)
