"""Self-J end to end on a tiny model: what is asked, what is learned, and the judge folder that others load."""

from __future__ import annotations

import html
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from rich.console import Console

import selfimprove
from selfimprove.data.rows import RenderedPrompt, Response
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.judging.digit_questions import question_ids
from selfimprove.judging.digits import digit_tokens
from selfimprove.judging.rubric import load_rubric
from selfimprove.methods.self_judge.labels import combined_labels
from selfimprove.methods.self_judge.learning import entropy, held_out_prompts, hold_out, last_figures
from selfimprove.methods.self_judge.similarity import cosines, find_embedding
from selfimprove.methods.self_judge.trainer import JudgeTrainer, QuestionCollator
from selfimprove.methods.self_judge.training import Example
from selfimprove.models.policy import load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.outcome import outcome_sentences
from selfimprove.report.terminal import Progress

pytest.importorskip("sentence_transformers")
SHIPPED = Path(__file__).parent.parent / "eval" / "judges" / "self-judge"


@pytest.fixture
def judge_recipe(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> Callable[..., Recipe]:
    rows = [{"prompt": f"Say {word} {n}", "answer": f"{word} {n}"} for word in ("cat", "dog", "sun") for n in range(4)]
    write_jsonl(tiny_data / "labelled.jsonl", rows)

    def make(**changes: Any) -> Recipe:
        given: dict[str, Any] = {
            "data": {"prompts": "labelled.jsonl", "prompts_per_round": 6},
            "sampling": {"n": 2, "max_new_tokens": 6},
            "rounds": 1,
            "self_judge": {"held_out": 0.0},  # the few are trained on
            "training": {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-3, "epochs": 3, "max_length": 512},
            "gates": {"disabled": ["degeneration"]},
            "evaluate": [],
        }
        for name, value in changes.items():
            given[name] = {**given[name], **value} if isinstance(given.get(name), dict) else value
        return tiny_recipe("self_judge", **given)

    return make


def run(recipe: Recipe) -> Any:
    return selfimprove.run(recipe, Progress(Console(quiet=True)))


def events_of(result: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == kind]


def test_a_judge_is_trained_and_anyone_can_load_it(judge_recipe: Callable[..., Recipe]) -> None:
    recipe = judge_recipe()
    result = run(recipe)
    (labels,) = events_of(result, "labels")
    assert labels["responses"] == 12 and sum(labels["labels"]) == labels["examples"] > 0
    (training,) = events_of(result, "training")
    first, last = training["history"][0], training["history"][-1]
    assert last["ce_reference"] < first["ce_reference"]
    assert last["error/plain"] < first["error/plain"]
    folder = Path(recipe.output) / "judge"
    judge = load_rubric(str(folder), [])
    assert judge.digest == load_rubric("self-judge", []).digest
    assert judge.policy is not None
    assert resolve_policy(judge.policy).digest == result.policy.digest
    assert json.loads((folder / "judge.json").read_text())["policy_digest"] == result.policy.digest
    assert "What did the judge learn from?" in Path(result.report).read_text()
    again = run(recipe)
    assert all(event["reused"] for event in events_of(again, "step")[len(events_of(result, "step")) :])


def test_what_the_judge_learnt_is_said_with_its_path(judge_recipe: Callable[..., Recipe]) -> None:
    """Of 12 prompts 3 are held out: too few to rank, so the gate looks at the training."""
    recipe = judge_recipe(data={"prompts_per_round": 12}, self_judge={"held_out": 0.25})
    result = run(recipe)
    (learnt,), (labels,) = events_of(result, "learnt"), events_of(result, "labels")
    (training,) = events_of(result, "training")
    assert learnt["trained"] + learnt["held_out"] == labels["examples"] and learnt["held_out_prompts"] == 3
    assert training["examples"] == learnt["trained"]
    assert learnt["spearman"] is None and learnt["agreement"] == labels["agreement"]
    last = training["history"][-max(1, len(training["history"]) // 4) :]
    assert learnt["ce_plain"] == pytest.approx(sum(row["ce_plain"] for row in last) / len(last), abs=1e-3)
    assert learnt["learnt"] == (learnt["ce_plain"] < learnt["entropy"])
    assert not any(event["gate"] == "judge_learnt" for event in events_of(result, "gate"))
    notes = " ".join(event["text"] for event in events_of(result, "note"))
    assert learnt["learnt"] or f"judge M1: {learnt['message']}" in notes
    (said,) = [one for one in outcome_sentences(result.events) if one.startswith("Judge ")]
    assert said.startswith(f"Judge {Path(recipe.output) / 'judge'}: what it learnt cannot be told from 6 held-out")
    assert "below its labels' entropy" in said
    assert said in " ".join(html.unescape(Path(result.report).read_text()).split())


def test_a_judge_whose_scores_say_nothing_stops_a_run_that_sets_a_bound(judge_recipe: Callable[..., Recipe]) -> None:
    given = {"data": {"prompts_per_round": 12}, "training": {"learning_rate": 1e-6}}
    result = run(judge_recipe(**given, self_judge={"held_out": 0.5}))
    (learnt,) = events_of(result, "learnt")
    assert -1 <= learnt["spearman"]["low"] <= learnt["spearman"]["value"] <= learnt["spearman"]["high"] <= 1
    assert result.policy is not None
    with pytest.raises(GateError, match=r"judge_learnt.*Spearman .* not above 0\.99"):
        run(judge_recipe(**given, self_judge={"held_out": 0.5, "min_correlation": 0.99}))


def test_responses_to_a_prompt_are_held_out_together_and_most_stay_out_in_other_rounds() -> None:
    ids = [f"p{number}" for number in range(100) for _ in range(2)]
    apart = held_out_prompts(ids, 0.1, 0)
    assert len(apart) == 10 and apart < set(ids)
    assert held_out_prompts(ids[::-1], 0.1, 0) == apart != held_out_prompts(ids, 0.1, 1)
    assert apart - {"p99"} <= held_out_prompts(ids[:-2], 0.11, 0)
    assert held_out_prompts(ids, 0.0, 0) == held_out_prompts(["p"], 0.9, 0) == set()


def test_where_one_label_would_be_left_nothing_is_held_out() -> None:
    def example(number: int, label: int) -> Any:
        return Example(RenderedPrompt(f"p{number}", (1,), ""), Response(f"p{number}", 0, (2,), "stop", ""), label, {})

    examples = [example(0, 3), example(1, 3), example(2, 5)]
    apart = held_out_prompts([one.prompt.id for one in examples], 0.34, 0)
    one_left = [example(number, 5 if f"p{number}" in apart else 3) for number in range(3)]
    assert hold_out(one_left, 0.34, 0) == (one_left, [])
    kept, held = hold_out([example(number, number) for number in range(3)], 0.34, 0)
    assert (len(kept), [one.prompt.id for one in held]) == (2, list(apart))


def test_the_labels_entropy_and_the_last_figures_by_hand() -> None:
    assert entropy([3, 3, 5, 5]) == pytest.approx(math.log(2)) and entropy([7] * 4) == 0
    assert entropy([1, 2, 2, 2]) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    history = [{"ce_plain": float(number)} for number in range(8)]
    assert last_figures(history) == {"ce_plain": 6.5} and last_figures([]) == {}


def test_only_the_signal_that_counts_is_needed_for_a_label(judge_recipe: Callable[..., Recipe]) -> None:
    both, alone = run(judge_recipe()), run(judge_recipe(self_judge={"self_evaluation": 0.0}))
    told = [
        {(one["response"], one["prompt"]): one for one in events_of(run, "labels")[-1]["shown"]}
        for run in (both, alone)
    ]
    similar = [one["similarity"] for one in told[1].values()]
    by_label = [one["label"] for one in told[1].values()]
    assert sorted(zip(similar, by_label, strict=True)) == sorted(zip(sorted(similar), sorted(by_label), strict=True))


def test_rounds_are_graded_by_the_judge_before(judge_recipe: Callable[..., Recipe]) -> None:
    result = run(judge_recipe(rounds=2))
    steps = [event["label"] for event in events_of(result, "step")]
    assert "self-evaluation with the reference (M0)" in steps and "self-evaluation with the reference (M1)" in steps
    starts = [event["start_digest"] for event in events_of(result, "training")]
    assert starts[0] == starts[1]  # restart: every judge begins as the judged model
    assert result.policy.name == "M2"


def test_labels_survive_the_cut_off(judge_recipe: Callable[..., Recipe], tiny_model: Path) -> None:
    tokenizer, rubric = load_tokenizer(resolve_policy(str(tiny_model))), load_rubric("self-judge", [])
    values = {"instruction": "Say cat", "response": "cat " * 400, "reference": "cat"}
    whole = question_ids(tokenizer, rubric, values, "reference", 10**6)
    assert whole is not None and not whole.cut
    empty = question_ids(tokenizer, rubric, {**values, "response": ""}, "reference", 10**6)
    for most in (len(whole.ids), len(whole.ids) - 1, len(empty.ids) + 40):
        found = question_ids(tokenizer, rubric, values, "reference", most)
        assert found is not None and len(found.ids) <= most and found.cut == (most < len(whole.ids))
        assert found.ids[-20:] == whole.ids[-20:]  # what asks for the digit is still the end
        assert found.ids[:30] == whole.ids[:30]
    assert question_ids(tokenizer, rubric, values, "reference", len(empty.ids) - 1) is None


def test_a_digit_is_the_first_token_that_is_predicted(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(resolve_policy(str(tiny_model)))
    digits = digit_tokens(tokenizer)
    assert [tokenizer.decode([one]).strip() for one in digits.ids] == list("0123456789")


def test_the_trainers_loss_is_the_plain_one_row_by_row(tiny_model: Path, tmp_path: Path) -> None:
    """Padding, the two questions in one forward and the weights change nothing: an unbatched forward says the same."""
    from transformers import AutoModelForCausalLM, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = [
        {"reference_ids": [1, 5, 6, 7, 8, 9], "plain_ids": [1, 5, 9], "label": 3, "weight": 1.0},
        {"reference_ids": [1, 9, 7], "plain_ids": [1, 7], "label": 0, "weight": 1.0},
        {"reference_ids": [1, 9, 7], "plain_ids": [1, 7], "label": 0, "weight": 0.0},
    ]
    digit_ids, weights = list(range(20, 30)), {"ce_reference": 1.0, "ce_plain": 0.3, "distillation": 2.0}
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = JudgeTrainer(model=model, args=arguments, digit_ids=digit_ids, weights=weights)
    loss = trainer.compute_loss(model, QuestionCollator(0)(rows))
    total = torch.zeros(())
    for row in rows[:2]:
        reference, plain = (
            model(torch.tensor([row[name]])).logits[0, -1].log_softmax(dim=0) for name in ("reference_ids", "plain_ids")
        )
        target = digit_ids[row["label"]]
        kl = sum(reference[i].exp() * (reference[i] - plain[i]) for i in range(len(plain)))
        total = total - reference[target] - 0.3 * plain[target] + 2 * kl
    torch.testing.assert_close(loss, total / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"self_judge": {"rubric": "five-points"}}, "self_judge.rubric: five-points has parser 'score'"),
        ({"self_judge": {"embedding": "./nowhere"}}, "self_judge.embedding: './nowhere' is no folder"),
        ({"self_judge": {"ce_plain": 0.0, "distillation": 0.0}}, "nothing would teach the judge"),
        ({"data": {"prompts": "unanswered.jsonl", "prompts_per_round": 4}}, r"data\.prompts: prompt .* has no answer"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sampled(
    judge_recipe: Callable[..., Recipe], tiny_data: Path, changes: dict[str, Any], said: str
) -> None:
    write_jsonl(tiny_data / "unanswered.jsonl", [{"prompt": f"Say {n}"} for n in range(4)])
    with pytest.raises(InputError, match=said):
        run(judge_recipe(**changes))


def test_one_label_for_all_is_nothing_to_learn(judge_recipe: Callable[..., Recipe], tiny_data: Path) -> None:
    write_jsonl(tiny_data / "one.jsonl", [{"prompt": "Say cat", "answer": "cat"}])
    with pytest.raises(RunFailed, match="not two different ones"):
        run(judge_recipe(data={"prompts": "one.jsonl", "prompts_per_round": 1}, sampling={"temperature": 1e-3}))


def test_equal_texts_are_equally_near_and_cut_ones_are_counted(
    judge_recipe: Callable[..., Recipe], tiny_data: Path
) -> None:
    """In fp32 they have cosines of 1 up to 2e-7, which differ from text to text: ranks would order exact matches."""
    folder, _ = find_embedding("all-minilm-l6-v2")
    words = [f"{a}{b}" for a in ("cat", "dog", "sun", "map", "seventeen") for b in ("s", " and a hat", ", who ran off")]
    found = cosines(folder, [(word, word) for word in words] + [("cat", "seventeen"), ("", "cat")], "cpu")
    assert {one.cosine for one in found[: len(words)]} == {1.0} and all(-1 <= one.cosine < 1 for one in found[-2:])
    assert not any(one.cut for one in found)
    own = [float(number) for number in range(len(words) + 1)]
    labels = combined_labels(own, [one.cosine for one in found[: len(words) + 1]], 0.0, "ranks")
    assert len(set(labels[: len(words)])) == 1 and labels[-1] == 0
    long = "A long text goes on. " * 100
    assert [one.cut for one in cosines(folder, [(long, "cat"), ("cat", long), ("cat", "dog")], "cpu")] == [
        True,
        True,
        False,
    ]
    recipe = judge_recipe()
    rows = [{"prompt": f"Say {n}", "answer": long if n < 2 else f"cat {n}"} for n in range(6)]
    write_jsonl(tiny_data / "labelled.jsonl", rows)
    notes = [event["text"] for event in events_of(run(recipe), "note")]
    assert "4 of 12 responses, or their references, are longer than all-minilm-l6-v2 reads" in " ".join(notes)


def test_a_rubric_that_changed_sets_old_figures_aside(judge_recipe: Callable[..., Recipe], tiny_data: Path) -> None:
    shutil.copytree(SHIPPED, tiny_data / "own")
    recipe = judge_recipe(self_judge={"rubric": "own"})
    run(recipe)
    prompt = tiny_data / "own" / "prompt.txt"
    prompt.write_text(prompt.read_text() + "\nBe strict.")
    result = run(recipe)
    assert len(events_of(result, "labels")) == len(events_of(result, "training")) == 1
