"""A tiny random Llama with its own ChatML tokenizer, and small data: whole runs in seconds."""

from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfimprove.models.chat import render_example
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe, make_recipe

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

WORDS = ["cat", "dog", "sun", "map", "pen", "cup", "hat", "box", "car", "bee", "key", "jar"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per byte, plus ChatML's markers: every text can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2} | {c: 3 + i for i, c in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def save_tiny_model(folder: Path, seed: int = 0, template: str | None = CHATML) -> Path:
    """A Llama of 2 layers and about 60 thousand parameters with large random weights, so that samples differ."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_served_model(folder: Path) -> Path:
    """A tiny model for vLLM, whose attention on the CPU wants heads of 32 at least (it dies of 8).

    The end token of config.json (3) and the decoding of generation_config.json are traps: neither must end a response
    or change its distribution.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[[2, 3]] *= 2.5  # so that responses end, and token 3 is met
    model.save_pretrained(folder)
    traps = {"do_sample": True, "top_k": 3, "repetition_penalty": 1.5, "temperature": 0.1, "max_new_tokens": 200}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **traps}))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> None:
    import trl  # noqa: F401

    quiet_libraries()
    gc.collect()
    gc.freeze()  # the libraries' million objects need not be looked through whenever a model is freed
    torch.set_num_threads(1)  # the tiny model gains nothing from more, and tests run two at a time


@pytest.fixture(autouse=True)
def _free_models() -> Any:
    yield
    if MODELS._model is not None:  # collecting garbage takes longer than most tests
        MODELS.free()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny_policy(tiny_model: Path) -> Policy:
    return resolve_policy(str(tiny_model))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """seed.jsonl (12 examples), prompts.jsonl (24), pairs.jsonl (10), and a suite suite.yaml with 6 items."""
    write_jsonl(tmp_path / "seed.jsonl", [{"prompt": f"Say {w}", "response": w} for w in WORDS])
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Say {w} {n}", "answer": w} for n in (1, 2) for w in WORDS])
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"prompt": f"Tell {w}", "chosen": w, "rejected": w[::-1] + "!", "confidence": 0.9} for w in WORDS[:10]],
    )
    write_jsonl(tmp_path / "items.jsonl", [{"prompt": f"Name {w}", "answer": w} for w in WORDS[:6]])
    (tmp_path / "suite.yaml").write_text("name: tiny\nkind: exact_match\ndata: items.jsonl\nmax_new_tokens: 6\n")
    return tmp_path


@pytest.fixture
def tiny_recipe(tiny_model: Path, tiny_data: Path) -> Callable[..., Recipe]:
    """`tiny_recipe("cream", rounds=1, training={...})`: a recipe that runs in a few seconds.

    The tiny random model has no reason to be consistent or to end its turn, so two gates only report, unless `gates` is
    given.
    """

    def make(method: str = "cream", **changes: Any) -> Recipe:
        values: dict[str, Any] = {
            "method": method,
            "model": str(tiny_model),
            "output": str(tiny_data / "run"),
            "rounds": 2,
            "data": {"seed": "seed.jsonl", "prompts": "prompts.jsonl", "prompts_per_round": 8, "pairs": "pairs.jsonl"},
            # vLLM, which `auto` may mean here, has no attention for heads as small as the tiny model's.
            "sampling": {"n": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "backend": "transformers"},
            "training": {"lora": {"r": 4, "alpha": 8, "dropout": 0.0}, "learning_rate": 1e-3, "batch_size": 4},
            "sft": {"learning_rate": 1e-3, "epochs": 1},
            "evaluate": ["suite.yaml"],
            "gates": {"disabled": ["consistency", "degeneration"]},
        }
        if method == "sft":
            del values["sft"]
        for key, value in changes.items():
            merged = (
                {**values[key], **value} if isinstance(value, dict) and isinstance(values.get(key), dict) else value
            )
            values[key] = merged
        return make_recipe(values, folder=tiny_data)

    return make


@pytest.fixture(scope="session")
def writing_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned to answer with a sentence of a few words: a random one ends none."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(0)
    dice, optimizer = random.Random(0), torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = torch.zeros(())
        for _ in range(4):
            question = [{"role": "user", "content": f"Tell of {dice.choice(WORDS)}."}]
            answer = " ".join(dice.choices(WORDS, k=dice.randint(2, 5))) + "."
            prompt, response = render_example(tokenizer, question, answer)
            labels = torch.tensor([[-100] * len(prompt) + response])
            loss = loss + model(torch.tensor([prompt + response]), labels=labels).loss / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("models") / "writing"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def lengthen_recipe(tiny_recipe: Callable[..., Recipe], tiny_data: Path, writing_model: Path) -> Callable[..., Recipe]:
    """`lengthen_recipe(self_lengthen={...})`: Self-Lengthen from 4 of 12 instructions, in a few seconds."""
    write_jsonl(tiny_data / "instructions.jsonl", [{"prompt": f"Tell of {word}."} for word in WORDS])

    def make(**changes: Any) -> Recipe:
        given: dict[str, Any] = {
            "model": str(writing_model),
            "rounds": 1,
            "data": {"prompts": "instructions.jsonl", "prompts_per_round": 4},
            "sampling": {"max_new_tokens": 40, "temperature": 1.0},
            "self_lengthen": {
                **{"instructions": 0, "initial": 2, "initial_tries": 4, "extensions": 1, "extension_tries": 4},
                **{"micro_iterations": 2, "growth": 1.0, "drop_short": False, "low": 1, "high": 200, "step": 5},
            },
            "training": {"batch_size": 4, "max_length": 600},
            "gates": {"disabled": ["degeneration"]},
            "evaluate": [],
        }
        for name, value in changes.items():
            given[name] = {**given[name], **value} if isinstance(given.get(name), dict) else value
        return tiny_recipe("self_lengthen", **given)

    return make
