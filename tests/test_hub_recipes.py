"""The recipes for models of the hub, which is out of reach here: checked for form, and run on a tiny model with rows in
the columns that the hub's data sets have."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from selfimprove import load_recipe, run
from selfimprove.cli.check import check_recipe
from selfimprove.data.sources import load_examples, load_prompts
from selfimprove.errors import InputError
from selfimprove.judging.checkers.math_answers import math_verdict
from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.models.builtin import BUILTINS
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress
from selfimprove.shipped import shipped_recipes, shipped_suites

# Not those that begin with the policy of a run that comes before them.
HUB = {
    name: path
    for name, path in shipped_recipes().items()
    if (model := load_recipe(path).model) not in BUILTINS and not model.startswith("runs/")
}
LENGTHEN = [name for name in HUB if load_recipe(name).method == "self_lengthen"]
SCORE = [name for name in HUB if load_recipe(name).method == "score"]
WORDS = ["cat", "dog", "sun", "map", "pen", "cup", "hat", "box", "car", "bee", "key", "jar"]
CHOICES = {"text": ["one", "two", "three"], "label": ["A", "B", "C"]}
# Data set (and configuration): a row of it, with the columns it has on the hub.
ROWS: dict[str, Any] = {
    "HuggingFaceH4/oasst1_en": lambda word: {
        "messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}]
    },
    "openai/gsm8k": lambda word: {"question": f"How many {word}s?", "answer": "2 + 2 = 4\n#### 4"},
    "allenai/ai2_arc": lambda word: {
        "id": f"A_{word}", "question": f"Which {word}?", "choices": CHOICES, "answerKey": "B"
    },
    "allenai/openbookqa": lambda word: {
        "id": f"O_{word}", "question_stem": f"What is a {word}?", "choices": CHOICES, "answerKey": "C"
    },
    "nlile/hendrycks-MATH-benchmark": lambda word: {
        "problem": f"Halve one {word}.", "solution": "It is $1 : 2 = \\boxed{\\frac12}.$", "answer": "\\frac{1}{2}",
        "subject": "Algebra", "level": 1, "unique_id": f"train/algebra/{word}.json",
    },
    "databricks/databricks-dolly-15k": lambda word: {
        "instruction": f"Name the {word}.", "context": "", "response": f"The {word} it is.",
        "category": "creative_writing",
    },
    "HuggingFaceH4/MATH-500": lambda word: {
        "problem": f"Double one {word}.", "solution": "It is $\\boxed{2}.$", "answer": "2", "subject": "Algebra",
        "level": 1, "unique_id": f"test/algebra/{word}.json",
    },
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None, split: str, revision: str | None) -> list[dict[str, Any]]:
        # Two configurations of one data set have questions of their own.
        return [ROWS[name](f"{word} {config or ''}".strip()) for word in WORDS]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def small(name: str, model: Path, output: Path, *more: str) -> Recipe:
    """A hub recipe on the tiny model: one round of 8 prompts, short answers, one process. The gates that a random model
    cannot hold only report."""
    recipe = load_recipe(name)
    overrides = ["training.batch_size=4", "training.checkpoint_steps=50", "evaluate_limit=2"]
    overrides += ["gates.disabled=[consistency, degeneration, judge_health]"]
    overrides += ["sampling.backend=transformers"]  # vLLM has no attention for heads as small
    if recipe.method == "score":
        overrides += ["sampling.n=4", "sampling.max_new_tokens=6", "training.batch_size=16", "score.probe_prompts=2"]
        overrides += ["score.stage_one.updates=2", "score.stage_two.updates=2"]
        overrides += ["evaluate=[{suite: self-correction-math, max_new_tokens: 6}]"]
    elif recipe.method == "self_lengthen":
        # A random model calls no instruction suitable, and writes no thousands of words.
        overrides += ["rounds=1", "data.prompts_per_round=4", "sampling.max_new_tokens=40", "sft.learning_rate=1e-3"]
        overrides += ["self_lengthen.instructions=0", "self_lengthen.growth=1", "self_lengthen.low=1"]
        overrides += ["self_lengthen.collect=2", "sampling.temperature=1", "sampling.top_p=1", "sampling.stop=[]"]
        overrides += ["sampling.repetition_penalty=1", "sampling.top_k=0"]  # the tiny model learnt to write freely
        overrides += ["evaluate=[{suite: longen, max_new_tokens: 6}]"]
    elif recipe.method != "sft":
        overrides += ["rounds=1", "data.prompts_per_round=8", "sampling.max_new_tokens=6", "sft.learning_rate=1e-3"]
    if recipe.training.accelerate:
        overrides += ["training.accelerate=null", "training.processes=1"]
    overrides += [f"model={model}", f"output={output}", "training.learning_rate=1e-3", "training.max_length=500"]
    return load_recipe(name, [*overrides, *more])


ODD = "{kind: function, function: 'test_hub_recipes:odd'}"


def odd(prompt: str, response: str, answer: str | None) -> float:
    """A reward that a random model earns now and then."""
    return float(len(response) % 2)


def ending(tiny_model: Path, folder: Path) -> Path:
    """The tiny model, so that it ends most of its answers within a few tokens: what is cut off is wrong."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.lm_head.weight[2] *= 4
    shutil.copytree(tiny_model, folder)
    model.save_pretrained(folder)
    return folder


def test_the_model_families_are_there() -> None:
    assert {name.split("/")[0] for name in HUB} == {
        "llama-2-13b-chat", "llama-3-8b-instruct", "llama-3.1-8b-instruct", "qwen2-7b-instruct",
        "qwen2.5-0.5b-instruct", "qwen2.5-1.5b-instruct", "qwen2.5-7b-instruct",
    }  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_a_hub_recipe_runs_on_a_tiny_model(
    name: str, hub: None, tiny_model: Path, writing_model: Path, tmp_path: Path
) -> None:
    # A random model is never right, which would leave no pair and nothing to learn.
    judge = {"iterative_dpo": ["iterative_dpo.judge.kind=random"], "score": [f"score.reward={ODD}"]}
    model = ending(tiny_model, tmp_path / "model") if name in SCORE else tiny_model
    model = writing_model if name in LENGTHEN else model
    recipe = small(name, model, tmp_path / "run", *judge.get(load_recipe(name).method, []))
    result = run(recipe, Progress(Console(file=io.StringIO())))
    stages = [event["stage"] for event in result.events if event["event"] == "training"]
    trained = {"sft": ["sft"], "score": ["score", "score"], "self_judge": ["judge"], "self_lengthen": ["sft"] * 2}
    assert stages == trained.get(recipe.method, ["sft", "dpo"])
    adapter = (result.policy_folder / "adapter_config.json").is_file()
    assert adapter == (recipe.training.lora is not None)


def test_the_verifier_of_the_qwen_recipe_has_an_answer_to_every_prompt(hub: None) -> None:
    recipe = load_recipe("qwen2.5-0.5b-instruct/iterative-dpo")
    assert recipe.data.seed and recipe.data.prompts
    (source,) = recipe.data.prompts
    prompts = load_prompts(source, [])
    assert [prompt.answer for prompt in prompts] == ["B"] * len(WORDS)
    assert "A. one\nB. two\nC. three\nAnswer with the letter" in prompts[0].messages[-1]["content"]
    (source,) = recipe.data.seed
    assert {example.response for example in load_examples(source, [])} == {"B"}


@pytest.mark.parametrize("name", SCORE)
def test_score_trains_what_its_suite_measures(name: str, hub: None) -> None:
    """The same prompt, instruction and room for an answer, and a reference answer that the checker reads."""
    recipe = load_recipe(name)
    (chosen,) = recipe.evaluate
    suite = yaml.safe_load(shipped_suites()[chosen.suite].read_text())
    (source,) = recipe.data.prompts or ()
    assert (source.template, recipe.score.instruction) == (suite["data"]["template"], suite["instruction"])
    assert (recipe.sampling.max_new_tokens, recipe.score.reward.kind) == (suite["max_new_tokens"], suite["checker"])
    # Two attempts and the instruction leave so much for the problem.
    assert recipe.training.max_length - 2 * recipe.sampling.max_new_tokens > 900
    prompt = load_prompts(source, [])[0]
    solution = prompt.row["solution"]
    for said, value in (("so \\boxed{0.5}", 1.0), ("so \\boxed{2}", 0.0), (solution, 1.0)):
        assert math_verdict(said, str(prompt.answer)) == (value, None)


def test_the_settings_of_the_paper_are_in_both_recipes_of_score() -> None:
    for recipe in map(load_recipe, SCORE):
        score, training = recipe.score, recipe.training
        assert (training.learning_rate, training.batch_size, training.scheduler) == (5e-6, 512, "constant")
        assert (training.warmup_ratio, training.weight_decay, recipe.sampling.temperature) == (0, 0, 1.0)
        assert score.stage_one.updates + score.stage_two.updates == 3000
        assert (score.alpha, score.beta1, score.beta2, score.keep) == (10, 0.01, 0.1, "highest_reward")
    assert len(SCORE) == 2


def test_the_settings_of_the_authors_are_in_both_recipes_of_self_lengthen() -> None:
    for recipe in map(load_recipe, LENGTHEN):
        options, training, sft = recipe.self_lengthen, recipe.training, recipe.sft
        assert options == SelfLengthen(collect=5000)
        assert (options.instructions, options.initial, options.extensions, options.micro_iterations) == (5000, 2, 2, 3)
        assert (options.initial_tries, options.extension_tries, options.growth) == (20, 20, 1.2)
        assert (options.low, options.high, options.step, recipe.rounds) == (2000, 8000, 1000, 3)
        assert (sft.learning_rate, sft.epochs, training.max_length) == (1e-4, 4, 16384)
        assert (training.scheduler, training.warmup_ratio) == ("cosine", 0.1)
        assert training.lora and training.lora.target_modules == "all-linear"
        assert [chosen.suite for chosen in recipe.evaluate] == ["longen"]
    assert len(LENGTHEN) == 2


@pytest.mark.parametrize("name", HUB)
def test_a_check_without_the_hub_names_the_key(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    first = "data.seed" if load_recipe(name).data.seed else "data.prompts"
    for recipe, key in (
        (load_recipe(name, [f"output={tmp_path / 'run'}"]), "model: "),
        (small(name, tiny_model, tmp_path / "run"), f"{first}: hub data set "),
    ):
        with pytest.raises(InputError, match=f"^{key}") as refused:
            check_recipe(recipe, Console(file=io.StringIO()))
        assert refused.value.exit_code == 2 and "Name or service not known" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_command_ends_with_2_where_there_is_no_hub(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-m", "selfimprove", "check", "qwen2.5-7b-instruct/cream-lora"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: model: 'Qwen/Qwen2.5-7B-Instruct' is not a local folder and could not be fetched" in done.stderr
