"""Steps are found by what can change their result and by nothing else; finished shards outlive a crash.

`python -m tests.test_steps` writes `golden/step_sources.json` anew, after a step's version was raised (or after a
change that alters no result).
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from pydantic import BaseModel
from rich.console import Console

from selfimprove.artefacts import Artefact, Store, read_rows, write_json
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Response, Responses
from selfimprove.data.sources import DataSource
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import ask_server
from selfimprove.judging.judges import judge_responses
from selfimprove.loop.loop import Loop
from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.models.loading import ModelPool
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import JudgeOptions, Prices, Reader
from selfimprove.recipe.recipe import Recipe
from selfimprove.recipe.sections import Lora, Optimisation, Sampling, ServerOptions, Sft, Training, model_of
from selfimprove.registry import FOUND, OURS, find
from selfimprove.report.terminal import Progress
from selfimprove.steps import run as steps
from selfimprove.steps.kind import step_kind, step_versions
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step
from selfimprove.steps.worker import worker

GOLDEN = Path(__file__).parent / "golden" / "step_sources.json"
MakeRecipe = Callable[..., Recipe]


# ---- which options of the recipe are in which steps' keys

TRAINS = {"sft", "dpo"}
BY_POLICY = {"sample", "log_probs", "sft", "dpo"}  # all but the reward model, which is not the policy

# option: (a change of it, the steps whose key it changes)
CHANGES_KEYS: dict[str, tuple[dict[str, Any], set[str]]] = {
    # A word that the tiny model's template has, else it is refused.
    "chat_template_kwargs": ({"chat_template_kwargs": {"role": "x"}}, BY_POLICY | {"reward_model"}),
    "seed": ({"seed": 1}, {"sample", "sft", "dpo"}),
    "model": ({"model": "OTHER"}, BY_POLICY),
    "data.seed": ({"data": {"seed": "pairs-as-seed.jsonl"}}, {"sft"}),
    "data.seed_limit": ({"data": {"seed_limit": 5}}, {"sft"}),
    "sampling.backend": ({"sampling": {"backend": "vllm"}}, {"sample"}),
    "sampling.n": ({"sampling": {"n": 4}}, {"sample"}),
    "sampling.temperature": ({"sampling": {"temperature": 0.9}}, {"sample"}),
    "sampling.top_p": ({"sampling": {"top_p": 0.9}}, {"sample"}),
    "sampling.top_k": ({"sampling": {"top_k": 9}}, {"sample"}),
    "sampling.min_p": ({"sampling": {"min_p": 0.1}}, {"sample"}),
    "sampling.repetition_penalty": ({"sampling": {"repetition_penalty": 1.1}}, {"sample"}),
    "sampling.max_new_tokens": ({"sampling": {"max_new_tokens": 9}}, {"sample"}),
    # the SFT stage of these methods has a learning rate and epochs of its own
    "training.learning_rate": ({"training": {"learning_rate": 2e-3}}, {"dpo"}),
    "training.epochs": ({"training": {"epochs": 2}}, {"dpo"}),
    "training.batch_size": ({"training": {"batch_size": 2}}, TRAINS),
    "training.warmup_ratio": ({"training": {"warmup_ratio": 0.2}}, TRAINS),
    "training.weight_decay": ({"training": {"weight_decay": 0.2}}, TRAINS),
    "training.max_grad_norm": ({"training": {"max_grad_norm": 0.2}}, TRAINS),
    "training.scheduler": ({"training": {"scheduler": "linear"}}, TRAINS),
    "training.beta": ({"training": {"beta": 0.2}}, {"dpo"}),
    "training.dtype": ({"training": {"dtype": "bfloat16"}}, BY_POLICY | {"reward_model"}),
    "training.lora": ({"training": {"lora": None}}, TRAINS),
    "training.lora.r": ({"training": {"lora": {"r": 5, "alpha": 8, "dropout": 0.0}}}, TRAINS),
    "training.lora.alpha": ({"training": {"lora": {"r": 4, "alpha": 9, "dropout": 0.0}}}, TRAINS),
    "training.lora.dropout": ({"training": {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}}}, TRAINS),
    "training.lora.target_modules": (
        {"training": {"lora": {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj"]}}},
        TRAINS,
    ),
    "training.accelerate": (
        {
            "training": {"accelerate": "data/accelerate/fsdp-2gpu.yaml", "processes": 2, "dtype": "auto"},
            "device": "cpu",
        },
        TRAINS,
    ),
    "sft.learning_rate": ({"sft": {"learning_rate": 2e-3}}, {"sft"}),
    "sft.epochs": ({"sft": {"epochs": 2}}, {"sft"}),
    "sft.batch_size": ({"sft": {"batch_size": 2}}, {"sft"}),
    "sft.warmup_ratio": ({"sft": {"warmup_ratio": 0.2}}, {"sft"}),
    "sft.weight_decay": ({"sft": {"weight_decay": 0.2}}, {"sft"}),
    "sft.max_grad_norm": ({"sft": {"max_grad_norm": 0.2}}, {"sft"}),
    "sft.scheduler": ({"sft": {"scheduler": "linear"}}, {"sft"}),
}

JUDGE = {"iterative_dpo": {"judge": {"kind": "random"}}, "method": "iterative_dpo"}

PRICES = {"input": 1, "output": 1}
SERVER = {"base_url": "http://127.0.0.1:1/v1", "model": "tiny"}

# How a step is done, where its result lies, and what is checked: never what the result is.
CHANGES_NO_KEY: dict[str, dict[str, Any]] = {
    "output": {"output": "elsewhere"},
    "store": {"store": "elsewhere"},
    "device": {"device": "cpu"},
    "trust_remote_code": {"trust_remote_code": True},
    "sampling.batch_tokens": {"sampling": {"batch_tokens": 64}},
    "sampling.vllm.adapters": {"sampling": {"vllm": {"adapters": "hot"}}},
    "sampling.vllm.gpu_memory": {"sampling": {"vllm": {"gpu_memory": 0.5}}},
    "sampling.vllm.max_model_len": {"sampling": {"vllm": {"max_model_len": 256}}},
    "sampling.server.base_url": {"sampling": {"server": SERVER | {"base_url": "http://127.0.0.1:2/v1"}}},
    "sampling.server.model": {"sampling": {"server": SERVER | {"model": "other"}}},
    "sampling.server.api_key_env": {"sampling": {"server": SERVER | {"api_key_env": "KEY"}}},
    "sampling.server.timeout_s": {"sampling": {"server": SERVER | {"timeout_s": 1}}},
    "sampling.server.retries": {"sampling": {"server": SERVER | {"retries": 1}}},
    "sampling.server.concurrency": {"sampling": {"server": SERVER | {"concurrency": 1}}},
    "training.micro_batch_size": {"training": {"micro_batch_size": 1}},
    "training.checkpoint_steps": {"training": {"checkpoint_steps": 1}},
    "training.gradient_checkpointing": {"training": {"gradient_checkpointing": True}},
    "training.processes": {"training": {"processes": 2}},
    "training.report_to": {"training": {"report_to": ["tensorboard"]}},
    "gates.disabled": {"gates": {"disabled": ["weights_moved", "dpo_start"]}},
    "gates.sampler_agrees": {"gates": {"sampler_agrees": 0.5}},
    "gates.max_missing": {"gates": {"max_missing": 0.1}},
    "gates.max_ties": {"gates": {"max_ties": 0.1}},
    "gates.max_truncated": {"gates": {"max_truncated": 0.1}},
    "gates.max_duplicates": {"gates": {"max_duplicates": 0.1}},
    "gates.max_length_growth": {"gates": {"max_length_growth": 2}},
    "gates.min_distinct": {"gates": {"min_distinct": 0.2}},
    "gates.max_first_attempt_drop": {"gates": {"max_first_attempt_drop": 0.2}},
    "gates.min_change_rate": {"gates": {"min_change_rate": 0.2}},
    "gates.max_copy_rate": {"gates": {"max_copy_rate": 0.2}},
    "gates.max_kl": {"gates": {"max_kl": 0.2}},
    "gates.min_telling": {"gates": {"min_telling": 0.2}},
    "gates.max_sampler_kl": {"gates": {"max_sampler_kl": 0.2}},
}

# These choose which steps are asked for and which rows they are given. The same rows have the same key, so what
# still fits is reused.
CHOOSES_INPUTS: dict[str, dict[str, Any]] = {
    "method": {"method": "srlm"},
    "rounds": {"rounds": 1},
    "data.prompts": {"data": {"prompts": ["prompts.jsonl", "seed.jsonl"]}},
    "data.pairs": {"data": {"pairs": None}},
    "data.prompts_per_round": {"data": {"prompts_per_round": 2}},
    "training.max_length": {"training": {"max_length": 300}},
    "training.truncated": {"training": {"truncated": "drop"}},
    "cream.measure": {"cream": {"measure": "spearman"}},
    "cream.weight": {"cream": {"weight": "dyn"}},
    "cream.constant": {"cream": {"constant": 0.7}},
    "cream.first_round": {"cream": {"first_round": "none"}},
    "cream.floor": {"cream": {"floor": True}},
    "iterative_dpo.judge": JUDGE,
    "iterative_dpo.judge.kind": JUDGE,
    "iterative_dpo.judge.version": {"iterative_dpo": {"judge": {"kind": "majority", "version": 2}}},
    "iterative_dpo.judge.model": {"iterative_dpo": {"judge": {"kind": "majority", "model": "x"}}},
    "iterative_dpo.judge.rubric": {"iterative_dpo": {"judge": {"kind": "rubric", "rubric": "five-points"}}},
    "iterative_dpo.judge.function": {"iterative_dpo": {"judge": {"kind": "function", "function": "operator:eq"}}},
    "iterative_dpo.judge.options": {
        "iterative_dpo": {
            "judge": {"kind": "function", "function": "third_party.mine:agreement", "options": {"letters": 2}}
        }
    },
    **{
        f"iterative_dpo.judge.{name}": {"iterative_dpo": {"judge": judge}}
        for name, judge in {
            "normalize": {"kind": "exact_match", "normalize": ["strip"]},
            "tests": {"kind": "majority", "tests": "mbpp"},
            "seconds": {"kind": "majority", "seconds": 3.0},
            "right_from": {"kind": "majority", "right_from": 0.9},
            "rate": {"kind": "random", "rate": 0.5},
            "of": {"kind": "random", "of": {"kind": "exact_match"}},
        }.items()
    },
    **{
        f"expert_iteration.{name}": {"method": "expert_iteration", "expert_iteration": change}
        for name, change in {
            "accept": {"accept": "best"},
            "top_share": {"accept": "top_share", "top_share": 0.1},
            "most_per_prompt": {"most_per_prompt": 1},
            "distinct": {"distinct": False},
            "mixed_only": {"mixed_only": True},
            "restart": {"restart": "current"},
            "replay": {"replay": 1.0},
            "rows": {"rows": "first_round"},
            "pairs": {"pairs": True},
        }.items()
    },
    "iterative_dpo.dpo_reference": {"iterative_dpo": {"dpo_reference": "initial"}},
    "iterative_dpo.sft": {"iterative_dpo": {"sft": False, "judge": {"kind": "likelihood"}}},
    "iterative_dpo.judge.log_probs": {
        "iterative_dpo": {"judge": {"kind": "rubric", "rubric": "five-points", "log_probs": 5}}
    },
    **{
        f"iterative_dpo.judge.server.{name}": {
            "iterative_dpo": {"judge": {"kind": "rubric", "rubric": "five-points", "server": SERVER | {name: value}}}
        }
        for name, value in {
            **{"base_url": "http://127.0.0.1:2/v1", "model": "other", "api_key_env": "PATH"},
            **{"timeout_s": 1, "retries": 1, "concurrency": 1},
        }.items()
    },
    **{
        f"iterative_dpo.judge.prices.{name}": {
            "iterative_dpo": {"judge": {"kind": "rubric", "rubric": "five-points", "prices": PRICES | {name: value}}}
        }
        for name, value in {"input": 2, "output": 2, "currency": "EUR"}.items()
    },
    "evaluate.suite": {"evaluate": []},
    "evaluate.change": {"evaluate": [{"suite": "suite.yaml", "max_new_tokens": 3}]},
    "policies": {},  # method evaluate alone has it
    "evaluate_limit": {"evaluate_limit": 2},
    "development.suite": {"evaluate": [], "development": "suite.yaml"},
    "development.change": {"evaluate": [], "development": {"suite": "suite.yaml", "max_new_tokens": 3}},
    "keep": {"evaluate": [], "development": "suite.yaml", "keep": "best"},
    "stop.patience": {"evaluate": [], "development": "suite.yaml", "stop": {"patience": 1}},
    **{f"stop.{name}": {"stop": {name: 0.5}} for name in ("distinct", "entropy", "length")},
}
# `judge` of cream and srlm, and of expert_iteration, have the keys of iterative_dpo's.
_JUDGES = {option: change for option, change in CHOOSES_INPUTS.items() if option.startswith("iterative_dpo.judge")}
CHOOSES_INPUTS |= {
    option.removeprefix("iterative_dpo."): {"judge": change["iterative_dpo"]["judge"]}
    for option, change in _JUDGES.items()
}
CHOOSES_INPUTS |= {
    option.replace("iterative_dpo", "expert_iteration"): {
        "method": "expert_iteration",
        # a random judge at a rate goes with a threshold, others need not have one
        "expert_iteration": {
            **({} if {"rate", "of"} & set(change["iterative_dpo"]["judge"]) else {"accept": "best"}),
            **change["iterative_dpo"],
        },
    }
    for option, change in _JUDGES.items()
}


class Captured(Exception):
    """Carries a step's request out of the loop instead of doing the step."""

    def __init__(self, request: StepRequest) -> None:
        self.request = request


class NoEvents:
    def emit(self, event: str, id: str, **fields: Any) -> None:
        return

    def adopt_inputs(self, inputs: dict[str, str]) -> list[str]:
        return []


def silent() -> Progress:
    return Progress(Console(file=io.StringIO()))


def make_loop(recipe: Recipe) -> Loop:
    return Loop(recipe, Store(Path(recipe.output) / "steps"), NoEvents(), silent())  # type: ignore[arg-type]


PROMPTS = [RenderedPrompt(f"p{i}", (1, 40 + i, 50), f"question {i}") for i in range(3)]
ANSWERS = {p.id: tuple(Response(p.id, i, (60 + i, 70, 2), "stop", f"{i}!") for i in range(2)) for p in PROMPTS}
RESPONSES = Responses({prompt.id: prompt for prompt in PROMPTS}, ANSWERS)
PAIRS = [Pair(p, *ANSWERS[p.id], chosen_reward=1.0, rejected_reward=0.0) for p in PROMPTS]
SCORED = LogProbs("M9", "9" * 64, {(p.id, i): -3.0 - i for p in PROMPTS for i in range(2)}, {})


@pytest.fixture
def requests_of(
    tiny_model: Path, other_model: Path, tiny_recipe: MakeRecipe, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, StepRequest]]:
    """The request for each step that a loop with this recipe makes of the same prompts, responses and pairs."""
    rows = (tiny_data / "pairs.jsonl").read_text().replace('"chosen"', '"response"')
    (tiny_data / "pairs-as-seed.jsonl").write_text(rows)

    def capture(store: Store, request: StepRequest, progress: Progress) -> NoReturn:
        raise Captured(request)

    monkeypatch.setattr("selfimprove.inference.run_step", capture)
    monkeypatch.setattr(ModelPool, "free", lambda self: None)  # no model is loaded, and collecting garbage is slow
    # What counts here is that another sampler's name is in the key, wherever vLLM is installed.
    monkeypatch.setattr(
        "selfimprove.inference.choose_backend", lambda wanted, device: (wanted.replace("auto", "transformers"), None)
    )

    def make(method: str = "cream", **changes: Any) -> dict[str, StepRequest]:
        if "model" in changes:
            changes["model"] = str(other_model)
        changes["training"] = {"dtype": "float32", **changes.get("training", {})}
        loop = make_loop(tiny_recipe(method, **changes))
        base = loop.base_policy
        calls: dict[str, Callable[[], object]] = {
            "sample": lambda: loop.sample(base, PROMPTS),
            "log_probs": lambda: loop.log_probs(RESPONSES, base),
            "reward_model": lambda: judge_responses(
                loop, JudgeOptions(kind="reward_model", model=str(tiny_model)), RESPONSES, base
            ),
            "sft": lambda: loop.sft(base),
            "dpo": lambda: loop.dpo(base, PAIRS, SCORED),
        }
        found = {}
        for step, call in calls.items():
            with pytest.raises(Captured) as caught:
                call()
            found[step] = caught.value.request
        return found

    return make


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


_base: dict[str, str] = {}  # keys do not depend on folders, so one test's are every test's


def changed_steps(requests_of: Callable[..., dict[str, StepRequest]], changes: dict[str, Any]) -> set[str]:
    if not _base:
        _base.update({step: request.key() for step, request in requests_of().items()})
    changes = dict(changes)
    method = changes.pop("method", "iterative_dpo" if "iterative_dpo" in changes else "cream")
    return {step for step, request in requests_of(method, **changes).items() if request.key() != _base[step]}


@pytest.mark.parametrize("option", CHANGES_KEYS)
def test_an_option_that_changes_results_changes_keys(
    option: str, requests_of: Callable[..., dict[str, StepRequest]]
) -> None:
    changes, expected = CHANGES_KEYS[option]
    assert changed_steps(requests_of, changes) == expected


@pytest.mark.parametrize("option", [*CHANGES_NO_KEY, *CHOOSES_INPUTS])
def test_an_option_that_changes_no_result_makes_nothing_again(
    option: str, requests_of: Callable[..., dict[str, StepRequest]]
) -> None:
    assert changed_steps(requests_of, (CHANGES_NO_KEY | CHOOSES_INPUTS)[option]) == set()


def test_a_served_judge_s_key_is_its_model_version_and_questions(
    requests_of: Callable[..., dict[str, StepRequest]], tiny_recipe: MakeRecipe
) -> None:
    del requests_of  # its fixture lets every request out
    loop = make_loop(tiny_recipe("evaluate"))

    def key(text: str = "good?", tokens: int = 1, log_probs: int = 5, version: int = 1, **server: Any) -> str:
        judge = Reader(server=ServerOptions(**(SERVER | server)), version=version, prices=Prices(**PRICES))
        with pytest.raises(Captured) as caught:
            ask_server(loop, judge, {"q": [{"role": "user", "content": text}]}, tokens, log_probs, "judge")
        return caught.value.request.key()

    others = [key("bad?"), key(tokens=2), key(log_probs=0), key(version=2), key(model="other")]
    assert len({key(), *others}) == 6
    assert key(base_url="http://127.0.0.1:9/v1", timeout_s=1, concurrency=2, retries=0, api_key_env="PATH") == key()


_RANKED = ("", "iterative_dpo.", "expert_iteration.", "sharpening.")  # whose `judge` ranks or accepts


def every_option() -> set[str]:
    """The recipe's options, and every method's own."""
    found = set(options_of(Recipe))
    for name in OURS["method"]:
        if options := find("method", name).options:
            found |= set(options_of(options, f"{name}."))
    return found


def options_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = model_of(field.annotation)
        if prefix + name == "folder":
            continue
        leaf = inner is None or inner is DataSource or inner is model  # a judge of a judge has the same options
        if leaf or (name == "judge" and prefix in _RANKED) or prefix + name == "training.lora":
            yield prefix + name
        if not leaf:
            yield from options_of(inner, f"{prefix}{name}.")


def test_every_option_of_the_recipe_is_classified() -> None:
    import test_answer_keys  # here: `python -m tests.test_steps` does not find them
    import test_score_keys
    import test_self_judge_keys

    tables = [set(CHANGES_KEYS), set(CHANGES_NO_KEY), set(CHOOSES_INPUTS), test_score_keys.OPTIONS]
    tables += [test_self_judge_keys.OPTIONS, test_answer_keys.OPTIONS]
    # They choose what is asked and what is trained: the rows of the steps tell them apart.
    tables.append({f"self_lengthen.{name}" for name in SelfLengthen.model_fields})
    tables.append({name for name in every_option() if name.startswith("sharpening.")})
    tables.append({"sampling.stop"})  # of self_lengthen alone: tests/test_self_lengthen.py
    known = set().union(*tables)
    assert sum(map(len, tables)) == len(known), "an option is in two tables"
    new, gone = every_option() - known, known - every_option()
    assert not new, f"say in tests/test_steps.py whether {sorted(new)} can change a step's result"
    assert not gone, f"no longer options: {sorted(gone)}"
    for section, model in (("sampling", Sampling), ("training", Training), ("sft", Sft), ("training.lora", Lora)):
        sections = {name.rpartition(".")[0] for name in known}
        assert {f"{section}.{name}" for name in model.model_fields} <= known | sections
    assert set(Optimisation.model_fields) == set(Sft.model_fields), "`sft` replaces every option of a training stage"


def test_training_options_of_the_method_sft_are_those_of_training(
    requests_of: Callable[..., dict[str, StepRequest]],
) -> None:
    first = requests_of("sft")["sft"].key()
    assert requests_of("sft", training={"learning_rate": 2e-3})["sft"].key() != first
    with pytest.raises(InputError, match="its settings are under `training`"):
        requests_of("sft", sft={"learning_rate": 2e-3})


def test_keeping_the_policy_of_the_middle_is_another_step(
    requests_of: Callable[..., dict[str, StepRequest]], tiny_recipe: MakeRecipe
) -> None:
    plain = requests_of()["sft"]
    loop = make_loop(tiny_recipe(training={"dtype": "float32"}))
    with pytest.raises(Captured) as caught:
        loop.sft_with_middle(loop.base_policy, middle=True)
    assert caught.value.request.key() != plain.key()


def test_the_chat_template_is_in_every_key_that_renders_with_it(
    requests_of: Callable[..., dict[str, StepRequest]], tiny_model: Path, tmp_path: Path
) -> None:
    from conftest import CHATML, byte_tokenizer

    before = requests_of()
    changed = tmp_path / "template"
    shutil.copytree(tiny_model, changed)
    byte_tokenizer(CHATML.replace("'] }}\n", "'] }}: ")).save_pretrained(changed)
    loop_policy = resolve_policy(str(changed))
    assert loop_policy.base_digest == before["sample"].policies["policy"].base_digest
    for step in BY_POLICY:
        (role,) = before[step].policies
        after = dataclasses.replace(before[step], policies={role: loop_policy})
        assert after.key() != before[step].key()


def test_the_same_model_elsewhere_has_the_same_keys(
    requests_of: Callable[..., dict[str, StepRequest]], tiny_model: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    request = requests_of()["sample"]
    policy = resolve_policy(str(moved), "another name")
    assert dataclasses.replace(request, policies={"policy": policy}).key() == request.key()


def test_a_key_is_made_of_all_that_is_given(
    requests_of: Callable[..., dict[str, StepRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = requests_of()["log_probs"]
    rows = list(request.inputs["responses"])
    changed = [{**rows[0], "ids": [*rows[0]["ids"][:-1], 99]}, *rows[1:]]
    adapted = dataclasses.replace(request.policies["policy"], adapter="x", adapter_digest="a" * 64)
    others = [
        dataclasses.replace(request, inputs={"responses": changed}),
        dataclasses.replace(request, inputs={"responses": rows[::-1]}),
        dataclasses.replace(request, inputs={"responses": rows[:-1]}),
        dataclasses.replace(request, policies={"policy": adapted}),
        dataclasses.replace(request, policies={"reward_model": request.policies["policy"]}),
        dataclasses.replace(request, seed=5),
        dataclasses.replace(request, options={**request.options, "new": None}),
        dataclasses.replace(request, step="reward_model"),
    ]
    keys = {one.key() for one in [request, *others]}
    assert len(keys) == 1 + len(others)
    assert dataclasses.replace(request, label="x", total=9, processes=3, execution={}).key() == request.key()
    monkeypatch.setitem(FOUND, ("step", "log_probs"), dataclasses.replace(step_kind("log_probs"), version=99))
    assert request.key() not in keys


# ---- doing steps


def sampling(policy: Policy, prompts: int = 5, **options: Any) -> StepRequest:
    drawn = {"n": 2, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 6, "stop_ids": [2], "dtype": "float32"}
    return StepRequest(
        step="sample",
        label="sample M0",
        options={**drawn, "backend": "transformers", **options},
        inputs={"prompts": [{"prompt_id": f"p{i}", "prompt_ids": [1, 40 + i, 50, 60 + i]} for i in range(prompts)]},
        policies={"policy": policy},
        seed=0,
        execution={"device": "cpu", "batch_tokens": 16384},
    )


def scoring(policy: Policy) -> StepRequest:
    return StepRequest(
        step="log_probs",
        label="log-probs under M0",
        options={"dtype": "float32"},
        inputs={"responses": RESPONSES.rows()},
        policies={"policy": policy},
        seed=0,
        execution={"device": "cpu", "batch_tokens": 16384},
    )


def training(policy: Policy) -> StepRequest:
    options = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "warmup_ratio": 0, "weight_decay": 0}
    return StepRequest(
        step="sft",
        label="SFT M0 to M1",
        options={**options, "max_grad_norm": 1, "scheduler": "constant", "lora": None, "dtype": "float32"},
        inputs={"examples": [{"prompt_ids": [1, 40 + i], "response_ids": [60 + i, 2]} for i in range(8)]},
        policies={"start": policy},
        seed=0,
        execution={
            "device": "cpu",
            "micro_batch_size": 4,
            "checkpoint_steps": 1,
            "gradient_checkpointing": False,
            "report_to": [],
        },
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts a shard, so that five prompts are three shards."""
    for step in ("sample", "log_probs"):
        monkeypatch.setitem(FOUND, ("step", step), dataclasses.replace(step_kind(step), shard_groups=2))


class Crash(BaseException):
    """Ends a step as a signal would: nothing on the way handles it."""


class Watched:
    """The worker, counting its shards; raises at the shard `crash_at` instead of doing it."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.crash_at, self.done = crash_at, list[int]()

    def __call__(self, step_dir: Path, shard: int, advance: Any) -> None:
        if shard == self.crash_at:
            raise Crash
        worker(step_dir, shard, advance)
        self.done.append(shard)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("make", [sampling, scoring])
def test_finished_shards_are_reused_after_a_crash(
    make: Callable[[Policy], StepRequest], tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make(tiny_policy)
    shards = -(-len({row["prompt_id"] for row in next(iter(request.inputs.values()))}) // 2)
    undisturbed, _ = run_step(Store(tmp_path / "undisturbed"), request, silent())

    monkeypatch.setattr(steps, "worker", crashing := Watched(crash_at=1))
    with pytest.raises(Crash):
        run_step(Store(tmp_path / "steps"), request, silent())
    (partial,) = (tmp_path / "steps").glob(".partial-*")
    assert crashing.done == [0]
    (partial / ".rows-00001.arrow.99999.tmp").write_bytes(b"half a shard")
    first = (partial / "rows-00000.arrow").stat()

    monkeypatch.setattr(steps, "worker", again := Watched())
    made, reused = run_step(Store(tmp_path / "steps"), request, silent())
    assert again.done == list(range(1, shards)) and not reused
    assert (made.folder / "rows-00000.arrow").stat().st_mtime_ns == first.st_mtime_ns
    assert made.rows() == undisturbed.rows()
    assert made.digest == undisturbed.digest
    assert not list((tmp_path / "steps").glob(".partial-*")) and not list(made.folder.glob(".*"))


@pytest.mark.usefixtures("small_shards")
def test_progress_counts_reused_shards(tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "worker", Watched(crash_at=2))
    with pytest.raises(Crash):
        run_step(Store(tmp_path), sampling(tiny_policy), silent())
    monkeypatch.setattr(steps, "worker", worker)
    shown = io.StringIO()
    request = dataclasses.replace(sampling(tiny_policy), total=10)
    run_step(Store(tmp_path), request, Progress(Console(file=shown)))
    assert "sample M0: done, 10 responses" in shown.getvalue()


@pytest.mark.usefixtures("small_shards")
def test_a_step_runs_from_its_folder_alone_in_another_process(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = sampling(tiny_policy)
    expected, _ = run_step(Store(tmp_path / "undisturbed"), request, silent())
    monkeypatch.setattr(steps, "worker", Watched(crash_at=0))
    with pytest.raises(Crash):
        run_step(Store(tmp_path / "steps"), request, silent())
    (partial,) = (tmp_path / "steps").glob(".partial-*")
    copied = shutil.copytree(partial, tmp_path / "far" / "away")
    shutil.rmtree(tmp_path / "steps")
    command = [sys.executable, "-m", "selfimprove.steps.worker", str(copied), "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: the number of threads changes last digits
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in copied.glob("rows-*")) == ["rows-00000.arrow"]
    assert read_rows(copied / "rows-00000.arrow") == expected.rows()[:4]


@pytest.mark.parametrize("before", ["the manifest is written", "history.json is written", "policy is whole"])
def test_a_training_that_was_killed_at_its_end_goes_on(
    before: str, tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = training(tiny_policy)
    undisturbed, _ = run_step(Store(tmp_path / "undisturbed"), request, silent())
    real_write, real_replace = write_json, Path.replace

    def write(path: Path, value: Any) -> None:
        if path.name == before.split()[0]:
            raise Crash
        real_write(path, value)

    def replace(self: Path, target: Path) -> Path:
        if target.name == before.split()[0]:
            raise Crash
        return real_replace(self, target)

    def finish(*args: Any) -> NoReturn:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("selfimprove.training.stages.write_json", write)
        patched.setattr(Path, "replace", replace)
        if before.startswith("the manifest"):
            patched.setattr(Store, "finish", finish)
        with pytest.raises(Crash):
            run_step(Store(tmp_path / "steps"), request, silent())
    made, reused = run_step(Store(tmp_path / "steps"), request, silent())
    assert not reused
    left = {path.name for path in made.folder.iterdir()} - {"resumed-from.json"}
    assert left == {"history.json", "inputs", "manifest.json", "policy", "step.json"}
    assert made.digest == undisturbed.digest != tiny_policy.base_digest


def test_two_runs_that_share_a_store_make_a_step_once(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "worker", watched := Watched())
    first, reused = run_step(Store(tmp_path), sampling(tiny_policy), silent())
    second, reused_then = run_step(Store(tmp_path), sampling(tiny_policy), silent())
    assert (reused, reused_then, watched.done) == (False, True, [0])
    assert (first.folder, first.digest) == (second.folder, second.digest)


def test_a_run_waits_for_another_that_makes_the_same_step(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, watched = threading.Event(), threading.Event(), Watched()

    def slow(step_dir: Path, shard: int, advance: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        watched(step_dir, shard, advance)

    monkeypatch.setattr(steps, "worker", slow)
    said, found = [io.StringIO(), io.StringIO()], dict[int, tuple[Artefact, bool]]()

    def one(number: int) -> None:
        progress = Progress(Console(file=said[number]))
        found[number] = run_step(Store(tmp_path), sampling(tiny_policy), progress)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    for _ in range(600):
        if "waiting" in said[1].getvalue():
            break
        time.sleep(0.05)
    assert "sample M0: another run is making this step; waiting for it" in said[1].getvalue()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert watched.done == [0]
    assert (found[0][1], found[1][1]) == (False, True)
    assert not list(tmp_path.glob(".*.lock"))


def test_a_failed_step_can_be_tried_again(tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> NoReturn:
        raise RunFailed("no luck")

    monkeypatch.setattr(steps, "worker", fail)
    with pytest.raises(RunFailed, match="no luck"):
        run_step(Store(tmp_path), sampling(tiny_policy), silent())
    monkeypatch.setattr(steps, "worker", worker)
    assert len(run_step(Store(tmp_path), sampling(tiny_policy), silent())[0].rows()) == 10


@pytest.fixture(scope="session")
def broken_policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A model whose last layer has a weight that is no number."""
    from conftest import save_tiny_model
    from safetensors.torch import load_file, save_file

    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return resolve_policy(str(folder))


def greedily(policy: Policy) -> StepRequest:
    return sampling(policy, temperature=0.0, top_p=1.0)


@pytest.mark.parametrize("make", [sampling, greedily, scoring])
def test_weights_that_are_no_numbers_are_said_and_leave_no_artefact(
    make: Callable[[Policy], StepRequest], broken_policy: Policy, tmp_path: Path
) -> None:
    with pytest.raises(RunFailed, match=r"log-probs are not finite .*the model's weights"):
        run_step(Store(tmp_path), make(broken_policy), silent())
    assert Store(tmp_path).all() == []


def test_the_manifest_says_what_a_result_was_made_of(tiny_policy: Policy, tmp_path: Path) -> None:
    request = sampling(tiny_policy)
    made, _ = run_step(Store(tmp_path), request, silent())
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert (manifest["step"], manifest["version"], manifest["seed"]) == ("sample", step_kind("sample").version, 0)
    assert manifest["options"] == dict(request.options)
    assert manifest["policy_digests"] == {"policy": tiny_policy.digest}
    assert manifest["key"] == request.key()
    rows = made.rows()
    given = sum(len(row["prompt_ids"]) for row in request.inputs["prompts"])
    assert manifest["figures"]["tokens"] == given + sum(len(row["ids"]) for row in rows)
    assert {"torch", "transformers", "python"} <= set(manifest["environment"])
    assert "inputs/prompts.arrow" in manifest["files"]


# ---- a step whose code changes has a new version

_LOADING = (
    *(
        "selfimprove.models.configuration",
        "selfimprove.models.loading:load_base",
        "selfimprove.models.policy:pick_dtype",
    ),
    "selfimprove.models.loading:ModelPool.get",
)
_PREFILL = (
    "selfimprove.models.batching:prefill",
    "selfimprove.models.batching:positions",
    "selfimprove.models.batching:pad_left",
    "selfimprove.models.log_probs:token_log_probs",
    "selfimprove.steps.shards:shard_of",
)
_SCORING = (
    *("selfimprove.models.likelihood:summed_log_probs", "selfimprove.models.likelihood:_score_batch"),
    *("selfimprove.models.whole", "selfimprove.models.context:longrope_change"),
)
_TRAINING = (
    *(
        f"selfimprove.training.stages:{name}"
        for name in (
            *("training_arguments", "trainable_model", "run_training", "padded", "batch_split", "save_policy"),
            "optimizer_steps",
        )
    ),
    "selfimprove.training.trained_parts",
)
_REWARDS = (
    *(
        f"selfimprove.judging.{name}"
        for name in ("rewarding", "answers", "rubric_judge", "reward_readers", "reward_model", "functions", "rubric")
    ),
    *(
        f"selfimprove.judging.checkers.{name}"
        for name in ("math_answers", "stated_answers", "sandbox", "sandbox_rules", "sandbox_child")
    ),
    *("selfimprove.judging.checkers.exact:exact_match", "selfimprove.judging.checkers.exact:normalized"),
    "selfimprove.judging.checkers.code_tasks",
    "selfimprove.judging.chat_server:ChatServer._answer",
    "selfimprove.judging.chat_server:ChatServer._read",
    "selfimprove.judging.chat_server:ChatServer._first_token",
    *("selfimprove.judging.digits", "selfimprove.judging.named_scores"),
    *_SCORING,
    *(
        "selfimprove.models.chat:render_prompt",
        "selfimprove.models.chat:render_example",
        "selfimprove.models.chat:merged_system",
    ),
    "selfimprove.models.chat:accepted_turns",
    *("selfimprove.sampling.transformers:TransformersSampler.sample", "selfimprove.sampling.transformers:_decode"),
    "selfimprove.models.batching:pad_right",
)
SOURCES: dict[str, Sequence[str]] = {
    "sample": (
        "selfimprove.sampling.step:_sample",
        "selfimprove.sampling.sampler:response_seed",
        "selfimprove.sampling.transformers:TransformersSampler.sample",
        "selfimprove.sampling.transformers:_decode",
        "selfimprove.sampling.transformers:pick_tokens",
        "selfimprove.sampling.transformers:uniforms",
        "selfimprove.sampling.vllm_engine:Engine.sample",
        "selfimprove.sampling.vllm_engine:Engine._load",
        "selfimprove.sampling.vllm_engine:merged_weights",
        "selfimprove.sampling.vllm_engine:_sampled",
        "selfimprove.sampling.openai:OpenAISampler._ask",
        "selfimprove.sampling.openai:OpenAISampler._sampled",
        *_PREFILL,
        *_LOADING,
    ),
    "log_probs": (
        "selfimprove.scoring.step:_log_probs",
        "selfimprove.steps.shards:by_prompt",
        *_SCORING,
        "selfimprove.models.batching:pad_right",
        *_PREFILL,
        *_LOADING,
    ),
    "reward_model": (
        "selfimprove.judging.steps:_reward_model",
        "selfimprove.steps.shards:by_prompt",
        "selfimprove.steps.shards:shard_of",
        "selfimprove.judging.reward_model:classifier_scores",
        "selfimprove.judging.reward_model:RewardModel",
        "selfimprove.models.batching:pad_right",
        "selfimprove.models.chat:render_example",
        "selfimprove.models.chat:_answer_text",
        "selfimprove.models.chat:_encode_after_prompt",
        "selfimprove.models.chat:_closing",
        "selfimprove.models.policy:pick_dtype",
    ),
    "function": ("selfimprove.judging.steps:_function", "selfimprove.judging.functions"),
    "ask_server": (
        "selfimprove.judging.steps:_ask_server",
        "selfimprove.judging.chat_server:ChatServer.__init__",
        "selfimprove.judging.chat_server:ChatServer._answer",
        "selfimprove.judging.chat_server:ChatServer._without",
        "selfimprove.judging.chat_server:ChatServer._read",
        "selfimprove.judging.chat_server:ChatServer._first_token",
        "selfimprove.judging.chat_server:ChatServer._clean",
        "selfimprove.judging.chat_server:_reason",
    ),
    "verify_math": (
        "selfimprove.judging.steps:_verify_math",
        "selfimprove.judging.steps:_write_verdicts",
        "selfimprove.judging.checkers.math_answers",
        "selfimprove.judging.checkers.stated_answers",
    ),
    "verify_code": (
        "selfimprove.judging.steps:_verify_code",
        "selfimprove.judging.steps:_write_verdicts",
        "selfimprove.judging.checkers.sandbox",
        "selfimprove.judging.checkers.sandbox_rules",
        "selfimprove.judging.checkers.sandbox_child",
    ),
    "sft": (
        "selfimprove.training.step:_sft",
        "selfimprove.training.stages:train_sft",
        "selfimprove.training.stages:Checkpoints.on_step_end",
        *_TRAINING,
        *_LOADING[:3],
    ),
    "rewards": (
        "selfimprove.judging.steps:_rewards",
        "selfimprove.steps.shards:by_prompt",
        *_REWARDS,
        *_PREFILL,
        *_LOADING,
    ),
    "score": (
        "selfimprove.training.dropout",
        "selfimprove.methods.score.step:_score",
        "selfimprove.methods.score.rollouts",
        "selfimprove.methods.score.batch",
        "selfimprove.methods.score.loss",
        "selfimprove.methods.score.stage",
        *(
            f"selfimprove.methods.score.trainer:{name}"
            for name in (
                *("ScoreTrainer.training_step", "ScoreTrainer._loss", "ScoreTrainer._collect", "batch_loss"),
                *("ScoreTrainer._reference_logits", "check_episodes", "episode_advantages"),
            )
        ),
        "selfimprove.models.chat:append_turn",
        "selfimprove.sampling.sampler:response_seed",
        "selfimprove.sampling.transformers:pick_tokens",
        "selfimprove.sampling.transformers:uniforms",
        "selfimprove.sampling.vllm_engine:Engine._load",
        *_REWARDS,
        *_TRAINING,
        *_PREFILL,
        *_LOADING,
    ),
    "similarity": (
        "selfimprove.methods.self_judge.steps:_similarity",
        "selfimprove.steps.shards:by_prompt",
        "selfimprove.methods.self_judge.similarity:cosines",
    ),
    "judge": (
        "selfimprove.methods.self_judge.steps:_judge",
        "selfimprove.methods.self_judge.trainer",
        "selfimprove.methods.self_judge.loss",
        "selfimprove.models.batching:pad_left",
        "selfimprove.models.batching:positions",
        *_TRAINING,
        *_LOADING[:3],
    ),
    "dpo": (
        "selfimprove.training.step:_dpo",
        "selfimprove.training.stages:train_preference",
        "selfimprove.training.preference",
        "selfimprove.training.dropout",
        "selfimprove.training.losses",
        "selfimprove.models.batching:pad_left",
        "selfimprove.models.batching:pad_right",
        "selfimprove.models.batching:positions",
        "selfimprove.models.log_probs:token_log_probs",
        *_TRAINING,
        *_LOADING[:3],
    ),
}


def code_of(place: str) -> str:
    """The source of `module` or `module:name` without comments, docstrings and empty lines."""
    module, _, names = place.partition(":")
    found: Any = import_module(module)
    for name in names.split(".") if names else ():
        found = getattr(found, name)
    source = textwrap.dedent(inspect.getsource(found))
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1):
                lines[number - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def step_sources() -> dict[str, dict[str, Any]]:
    return {
        step: {
            "version": step_kind(step).version,
            "sources": {place: hashlib.sha256(code_of(place).encode()).hexdigest()[:16] for place in places},
        }
        for step, places in SOURCES.items()
    }


def test_every_step_has_its_sources_listed() -> None:
    assert set(SOURCES) == set(step_versions())


@pytest.mark.parametrize("step", SOURCES)
def test_a_step_whose_source_changed_has_a_new_version(step: str) -> None:
    assert GOLDEN.is_file(), "run `python -m tests.test_steps`"
    golden, now = json.loads(GOLDEN.read_text()).get(step, {}), step_sources()[step]
    before = golden.get("sources", {})
    changed = [place for place, digest in now["sources"].items() if before.get(place) != digest]
    changed += [place for place in before if place not in now["sources"]]
    assert not changed and golden.get("version") == now["version"], (
        f"source of step {step} changed ({', '.join(changed) or 'its version'}): raise its version in worker.STEPS if "
        "its result can change, then run `python -m tests.test_steps` to refresh"
    )


def test_comments_and_docstrings_are_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = "def f(x):\n    return x\n"
    (tmp_path / "plain_step.py").write_text(plain)
    (tmp_path / "said_step.py").write_text(
        f'"""Words."""\n\n# more\n{plain}'.replace("\n    r", '\n    """W."""\n    r')
    )
    (tmp_path / "other_step.py").write_text(plain.replace("return x", "return -x"))
    assert code_of("plain_step") == code_of("said_step") != code_of("other_step")
    assert code_of("plain_step:f") == code_of("said_step:f")


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    write_json(GOLDEN, step_sources())
    print(f"{GOLDEN}: written")
