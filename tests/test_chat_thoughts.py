"""Templates of reasoning models, as TRL ships them, by the very ids: one thought, opened once, and an answer."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import trl
from conftest import byte_tokenizer, save_tiny_model

from selfimprove import gates
from selfimprove.artefacts import read_rows
from selfimprove.cli import app as cli
from selfimprove.data.rows import Pair, RenderedPrompt, Response
from selfimprove.models.chat import check_rendering, render_example, render_prompt, template_digest
from selfimprove.models.opening import NOT_THE_TEMPLATES, Opening
from selfimprove.models.policy import load_tokenizer
from selfimprove.models.resolve import resolve_policy

_MARKS = re.compile(r"<[|｜][^<>{}'\"]*?[|｜]>|</?think>|\[/?THINK\]")
_ASKED: list[dict[str, str]] = [{"role": "user", "content": "Q?"}]
_THOUGHT = "<think>\nhm\n</think>\n\n4"
_EMPTY = "<think>\n\n</think>\n\n4"


def tokenizer_of(name: str, **given: Any) -> Any:
    """Bytes, and the template's own marks as special tokens. TRL has none of Qwen3-Thinking-2507, which is Qwen3's
    with a prompt that always opens the thought."""
    file = "qwen3" if name == "qwen3_thinking_2507" else name
    template = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text(encoding="utf-8")
    if file != name:
        head, mark, _ = template.rpartition("{%- if add_generation_prompt %}")
        template = head + mark + "{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
    tokenizer = byte_tokenizer(template)
    tokenizer.add_tokens(sorted(set(_MARKS.findall(template))), special_tokens=True)
    tokenizer.chat_template_kwargs = given
    return tokenizer


_OFF = {"enable_thinking": False}
GOLDEN: list[tuple[str, dict[str, Any], str, dict[str, str]]] = [
    # The model opens its thoughts itself.
    (
        "qwen3",
        {},
        "<|im_start|>assistant\n",
        {"4": f"{_EMPTY}<|im_end|>", _THOUGHT: f"{_THOUGHT}<|im_end|>", _EMPTY: f"{_EMPTY}<|im_end|>"},
    ),
    (
        "qwen3",
        _OFF,
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        {"4": "4<|im_end|>", _EMPTY: "4<|im_end|>"},
    ),
    ("qwen3_instruct_2507", {}, "<|im_start|>assistant\n", {"4": "4<|im_end|>"}),
    # The template opens them.
    (
        "qwen3_5_think",
        {},
        "<|im_start|>assistant\n<think>\n",
        {
            "4": "\n</think>\n\n4<|im_end|>",
            _THOUGHT: "hm\n</think>\n\n4<|im_end|>",
            "hm\n</think>\n\n4": "hm\n</think>\n\n4<|im_end|>",
        },
    ),
    (
        "qwen3_thinking_2507",
        {},
        "<|im_start|>assistant\n<think>\n",
        {
            _THOUGHT: "hm\n</think>\n\n4<|im_end|>",
            "hm\n</think>\n\n4": "hm\n</think>\n\n4<|im_end|>",
        },
    ),
    ("qwen3_5_think", _OFF, "<think>\n\n</think>\n\n", {"4": "4<|im_end|>", _EMPTY: "4<|im_end|>"}),
    ("qwen3_8", {}, "<think>\n", {_THOUGHT: "hm\n</think>\n\n4<|im_end|>"}),
    ("deepseek_r1_distill", {}, "<｜Assistant｜><think>\n", {_THOUGHT: "hm\n</think>\n\n4<｜end▁of▁sentence｜>"}),
    ("deepseekv3", {}, "<｜Assistant｜><think>\n", {_THOUGHT: "hm\n</think>\n\n4<｜end▁of▁sentence｜>"}),
    ("nemotron_3_nano", {}, "<think>\n", {_THOUGHT: "hm\n</think>\n\n4<|im_end|>"}),
    ("nemotron_3_nano", _OFF, "<think></think>", {"4": "4<|im_end|>", _EMPTY: "4<|im_end|>"}),
    # Channels: what is not the answer is another message.
    ("gptoss", {}, "<|start|>assistant", {"4": "<|channel|>final<|message|>4<|return|>"}),
    # Nothing ends an answer but the user's next turn.
    ("glm4moe", {}, "<|assistant|>", {"4": "\n<think></think>\n4<|user|>"}),
]


@pytest.mark.parametrize(("name", "given", "opening", "answers"), GOLDEN, ids=[f"{n}-{len(g)}" for n, g, *_ in GOLDEN])
def test_the_ids_of_prompt_and_answer(name: str, given: Any, opening: str, answers: dict[str, str]) -> None:
    tokenizer = tokenizer_of(name, **given)
    for answer, expected in answers.items():
        prompt_ids, response_ids = render_example(tokenizer, _ASKED, answer)
        assert prompt_ids == render_prompt(tokenizer, _ASKED)
        assert tokenizer.decode(prompt_ids).endswith(opening)
        assert response_ids == tokenizer(expected, add_special_tokens=False)["input_ids"]
        assert check_rendering(tokenizer, prompt_ids, response_ids) is None
        assert tokenizer.decode([*prompt_ids, *response_ids]).count("<think>") <= 1
        assert gates.rendering(tokenizer, [(prompt_ids, response_ids)], answers=True).passed


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3", "nemotron_3_nano"])
def test_an_answer_that_closes_no_thought_is_said(name: str) -> None:
    tokenizer = tokenizer_of(name)
    bad, good = (render_example(tokenizer, _ASKED, answer) for answer in ("4", _THOUGHT))
    verdict = gates.rendering(tokenizer, [good] * 40 + [bad], answers=True)  # every row, not the first batch
    assert not verdict.passed and "never closes it" in verdict.message and "enable_thinking" in verdict.message
    prompt = RenderedPrompt("p", tuple(bad[0]), "Q?")
    chosen, rejected = (Response("p", i, tuple(ids), "stop", "4") for i, (_, ids) in enumerate((good, bad)))
    verdict = gates.rendered_pairs(tokenizer, [Pair(prompt, chosen, rejected, 0.0, 0.0, 1.0)], [good[1][-1]])
    assert not verdict.passed and "never closes it" in verdict.message


def test_a_thought_after_a_closed_one_is_said() -> None:
    row = render_example(tokenizer_of("qwen3", **_OFF), _ASKED, _THOUGHT)
    verdict = gates.rendering(tokenizer_of("qwen3", **_OFF), [row], answers=True)
    assert not verdict.passed and "brings another one" in verdict.message


@pytest.fixture
def reasoner(tmp_path: Path) -> Path:
    """A tiny model whose template reads `enable_thinking`."""
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    return save_tiny_model(tmp_path / "reasoner", template=template)


def test_what_the_template_is_given_is_part_of_the_policy(reasoner: Path) -> None:
    plain = resolve_policy(str(reasoner))
    off = resolve_policy(str(reasoner), opening=Opening(chat_template_kwargs=_OFF))
    assert plain.base_digest == off.base_digest and plain.digest != off.digest
    assert "</think>" in load_tokenizer(off).decode(render_prompt(load_tokenizer(off), _ASKED))
    assert "</think>" not in load_tokenizer(plain).decode(render_prompt(load_tokenizer(plain), _ASKED))
    bare = byte_tokenizer()
    before = template_digest(bare)
    bare.chat_template_kwargs = {}
    assert template_digest(bare) == before  # keys of runs without any stay


def test_what_transformers_takes_itself_is_no_template_s() -> None:
    own = set(inspect.signature(byte_tokenizer().apply_chat_template).parameters)
    assert own - {"tools", "documents", "kwargs"} <= NOT_THE_TEMPLATES


def test_a_recipe_gives_it_and_a_typo_is_named(
    reasoner: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["selfimprove", *arguments])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        return int(ending.value.code or 0)

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n{"prompt": "Ho"}\n')
    recipe = tmp_path / "recipe.yaml"
    text = (
        f"method: iterative_dpo\nmodel: {reasoner}\noutput: {tmp_path / 'out'}\nrounds: 1\n"
        "data: {prompts: [{path: prompts.jsonl}]}\niterative_dpo: {sft: false, judge: {kind: likelihood}}\n"
        "sampling: {max_new_tokens: 8, n: 4, backend: transformers}\ntraining: {batch_size: 2}\n"
        "chat_template_kwargs: {%s}\n"
    )
    recipe.write_text(text % "enable_thinking: false")
    main("run", str(recipe))  # random answers never end, so it stops there: what was asked is what matters
    (sampled,) = (tmp_path / "out" / "steps").glob("sample*")
    for row in read_rows(sampled / "inputs" / "prompts.arrow"):
        assert byte_tokenizer().decode(row["prompt_ids"]).endswith("<think>\n\n</think>\n\n")
    for given, said in (
        ("enable_thinkin: false", "did you mean 'enable_thinking'"),
        ("tokenize: true", "chat_template_kwargs.tokenize"),
    ):
        recipe.write_text(text % given)
        assert main("check", str(recipe)) == 2
        assert said in capsys.readouterr().err
