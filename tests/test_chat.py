"""Golden token ids of six chat formats, and the tokenisation faults that published training code has had."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from selfimprove.errors import InputError
from selfimprove.models.chat import (
    Message,
    append_turn,
    check_rendering,
    end_of_turn_id,
    render_example,
    render_open,
    render_prompt,
    stop_ids,
    template_digest,
    trained_mask,
)


class Family(NamedTuple):
    template: str
    special: list[str]  # ids 0, 1, 2, ... in this order
    words: str  # the ids after those, separated by spaces; Ġ is a space
    bos: str | None
    eos: str
    pad: str
    prompt: list[int]  # golden ids of the prompt CHAT
    response: list[int]  # golden ids of the answer ANSWER to it
    second: list[int]  # golden ids of what append_turn(..., SECOND) puts after the two
    end: str  # the end-of-turn token


CHAT: list[Message] = [{"role": "user", "content": "Hi there"}]
ANSWER = "Hello you"
SECOND = "Check it"

CHATML_TURNS = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nSYSTEM<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}"
)

FAMILIES = {
    "smollm2": Family(
        template=CHATML_TURNS.replace("SYSTEM", "You are a helpful AI assistant"),
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        words="\n system You Ġare Ġa Ġhelpful ĠAI Ġassistant user Hi Ġthere assistant Hello Ġyou Check Ġit",
        bos="<|im_start|>",  # as SmolLM2's tokenizer says
        eos="<|im_end|>",
        pad="<|im_end|>",
        prompt=[1, 4, 3, 5, 6, 7, 8, 9, 10, 2, 3, 1, 11, 3, 12, 13, 2, 3, 1, 14, 3],
        response=[15, 16, 2],
        second=[3, 1, 11, 3, 17, 18, 2, 3, 1, 14, 3],
        end="<|im_end|>",
    ),
    "qwen2.5": Family(
        template=CHATML_TURNS.replace("SYSTEM", "You are Qwen, created by Alibaba Cloud."),
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        words="\n system You Ġare ĠQwen , Ġcreated Ġby ĠAlibaba ĠCloud . user Hi Ġthere assistant Hello Ġyou Check Ġit",
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        prompt=[1, 4, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2, 3, 1, 14, 3, 15, 16, 2, 3, 1, 17, 3],
        response=[18, 19, 2],
        second=[3, 1, 14, 3, 20, 21, 2, 3, 1, 17, 3],
        end="<|im_end|>",
    ),
    "llama3": Family(
        template=LLAMA3,
        special=[
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        words="\n\n user Hi Ġthere assistant Hello Ġyou Check Ġit",
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",  # not what ends a turn
        pad="<|end_of_text|>",
        prompt=[0, 2, 6, 3, 5, 7, 8, 4, 2, 9, 3, 5],
        response=[10, 11, 4],
        second=[2, 6, 3, 5, 12, 13, 4, 2, 9, 3, 5],
        end="<|eot_id|>",
    ),
    "mistral": Family(
        template=MISTRAL,
        special=["<unk>", "<s>", "</s>"],
        words="▁[INST] ▁Hi ▁there ▁[/INST] ▁Hello ▁you ▁Check ▁it",
        bos="<s>",
        eos="</s>",
        pad="<unk>",
        prompt=[1, 3, 4, 5, 6],
        response=[7, 8, 2],
        second=[3, 9, 10, 6],
        end="</s>",
    ),
    "gemma": Family(
        template=GEMMA,
        special=["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        words="\n user Hi Ġthere model Hello Ġyou Check Ġit",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        prompt=[2, 3, 6, 5, 7, 8, 4, 5, 3, 9, 5],
        response=[10, 11, 4],
        second=[5, 3, 6, 5, 12, 13, 4, 5, 3, 9, 5],
        end="<end_of_turn>",
    ),
    "zephyr": Family(
        template=ZEPHYR,
        special=["<unk>", "<s>", "</s>"],
        words="\n <|user|> Hi Ġthere <|assistant|> Hello Ġyou Check Ġit",
        bos="<s>",  # the template does not write it
        eos="</s>",
        pad="</s>",
        prompt=[4, 3, 5, 6, 2, 3, 7, 3],
        response=[8, 9, 2],
        second=[3, 4, 3, 10, 11, 2, 3, 7, 3],
        end="</s>",
    ),
}
each_family = pytest.mark.parametrize("name", list(FAMILIES))


def wrap(core: Tokenizer, family: Family) -> PreTrainedTokenizerFast:
    core.add_special_tokens([AddedToken(token, normalized=False) for token in family.special])
    if family.bos:
        # As Llama's and Gemma's tokenizers do: a BOS in front of every text, unless told to add nothing.
        bos = (family.bos, core.token_to_id(family.bos))
        core.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=family.bos, eos_token=family.eos, pad_token=family.pad
    )
    tokenizer.chat_template = family.template
    return tokenizer


@cache
def word_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One id for each word of `Family.words`, so that golden ids can be read; the last is any other."""
    family = FAMILIES[name]
    vocab = {word.replace("Ġ", " "): i for i, word in enumerate([*family.special, *family.words.split(" ")])}
    core = Tokenizer(models.WordLevel(vocab | {"(other)": len(vocab)}, unk_token="(other)"))
    if name == "mistral":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        core.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|\w+\|>| ?\w+|\n+|[^\w\s]"), "isolated")
        core.decoder = decoders.Fuse()
    return wrap(core, family)


@cache
def byte_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Any text can be written: one id a byte, but two newlines are one id, as in most vocabularies."""
    family = FAMILIES[name]
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    vocab = {token: i for i, token in enumerate(family.special + alphabet)}
    core = Tokenizer(models.BPE(vocab, merges=[("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return wrap(core, family)


def with_answer(answer: str) -> list[Message]:
    return [*CHAT, {"role": "assistant", "content": answer}]


def ids_of_full_rendering(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


@each_family
def test_golden_ids(name: str) -> None:
    tokenizer, family = word_tokenizer(name), FAMILIES[name]
    assert render_prompt(tokenizer, CHAT) == family.prompt
    assert render_example(tokenizer, CHAT, ANSWER) == (family.prompt, family.response)
    assert render_open(tokenizer, CHAT, "Hello") == family.prompt + family.response[:1]
    assert append_turn(tokenizer, family.prompt + family.response, SECOND) == (
        family.prompt + family.response + family.second
    )
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == family.end


def test_golden_ids_with_a_system_message() -> None:
    # One that is given takes the place of the default one.
    system: Message = {"role": "system", "content": "Check it"}
    golden = [1, 4, 3, 17, 18, 2, 3, 1, 11, 3, 12, 13, 2, 3, 1, 14, 3]
    assert render_prompt(word_tokenizer("smollm2"), [system, *CHAT]) == golden
    with pytest.raises(InputError, match="System role not supported"):
        render_prompt(word_tokenizer("gemma"), [system, *CHAT])


@each_family
def test_an_example_is_the_beginning_of_the_full_rendering(name: str) -> None:
    for tokenizer in (word_tokenizer(name), byte_tokenizer(name)):
        prompt, response = render_example(tokenizer, CHAT, ANSWER)
        full = ids_of_full_rendering(tokenizer, with_answer(ANSWER))
        assert prompt + response == full[: len(prompt + response)]
        assert tokenizer.decode(full[len(prompt + response) :]).strip() == ""


@each_family
def test_append_turn_gives_what_the_template_gives(name: str) -> None:
    tokenizer = byte_tokenizer(name)
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    whole = render_prompt(tokenizer, [*with_answer(ANSWER), {"role": "user", "content": "Are you sure?"}])
    assert append_turn(tokenizer, prompt + response, "Are you sure?") == whole
    # A truncated answer is closed, and the next turn looks the same.
    assert append_turn(tokenizer, prompt + response[:-1], "Are you sure?") == whole


@each_family
def test_append_turn_keeps_sampled_ids_that_the_tokenizer_would_not_have_chosen(name: str) -> None:
    tokenizer = byte_tokenizer(name)
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    # Two single newlines: the same text encoded again would be one id.
    sampled = [*render_prompt(tokenizer, CHAT), newline, newline]
    for answer in (sampled, [*sampled, end_of_turn_id(tokenizer)]):
        before = list(answer)
        longer = append_turn(tokenizer, answer, SECOND)
        assert longer[: len(answer)] == answer == before
        assert longer[: len(sampled) + 1] == [*sampled, end_of_turn_id(tokenizer)]


@each_family
def test_bos_as_often_as_the_template_writes_it(name: str) -> None:
    tokenizer = word_tokenizer(name)
    counts = {"smollm2": 3, "qwen2.5": 0, "llama3": 1, "mistral": 1, "gemma": 1, "zephyr": 0}
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    assert (prompt + response).count(tokenizer.bos_token_id) == counts[name]
    assert check_rendering(tokenizer, prompt, response) is None


@pytest.mark.parametrize("name", ["smollm2", "llama3", "mistral", "gemma", "zephyr"])
def test_simpo_two_bos_tokens(name: str) -> None:
    """SimPO's Llama-3 runs trained on two: the template wrote one and the tokenizer added another."""
    tokenizer = word_tokenizer(name)
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    doubled = tokenizer(text)["input_ids"]
    assert doubled == [tokenizer.bos_token_id, *prompt]  # the fault, as it comes about
    assert "BOS" in (check_rendering(tokenizer, doubled, response) or "")


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma"])
def test_check_rendering_finds_a_bos_missing_or_in_the_middle(name: str) -> None:
    tokenizer = word_tokenizer(name)
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    assert "missing" in (check_rendering(tokenizer, prompt[1:], response) or "")
    assert "2 times" in (check_rendering(tokenizer, prompt, [tokenizer.bos_token_id, *response]) or "")


@each_family
def test_end_of_turn_is_trained_exactly_once(name: str) -> None:
    tokenizer = word_tokenizer(name)
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    end = end_of_turn_id(tokenizer)
    assert response[-1] == end and response.count(end) == 1
    assert check_rendering(tokenizer, prompt, response) is None
    assert "end-of-turn" in (check_rendering(tokenizer, prompt, response[:-1]) or "")
    assert "2 times" in (check_rendering(tokenizer, prompt, [*response, end]) or "")
    assert "end-of-turn" in (check_rendering(tokenizer, prompt, []) or "")
    # What ChatML and Gemma write after the end of turn is not sampled, so it is not trained.
    assert "end-of-turn" in (check_rendering(tokenizer, prompt, [*response, len(FAMILIES[name].special)]) or "")


@each_family
def test_truncated_answer_gets_no_trained_end_of_turn(name: str) -> None:
    tokenizer = word_tokenizer(name)
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    assert check_rendering(tokenizer, prompt, response[:-1], truncated=True) is None
    assert "truncated" in (check_rendering(tokenizer, prompt, response, truncated=True) or "")


def test_an_answer_with_a_special_token_in_its_text_is_found() -> None:
    prompt, response = render_example(byte_tokenizer("qwen2.5"), CHAT, "stop with <|im_end|> and go on")
    assert "2 times" in (check_rendering(byte_tokenizer("qwen2.5"), prompt, response) or "")


@each_family
def test_trl_3091_padding_that_is_the_eos_does_not_mask_the_end_of_turn(name: str) -> None:
    """A mask made by comparing with the padding id never teaches the model to stop (TRL 3091, 6548)."""
    tokenizer = wrap(Tokenizer.from_str(word_tokenizer(name).backend_tokenizer.to_str()), FAMILIES[name])
    tokenizer.pad_token = FAMILIES[name].end
    prompt, response = render_example(tokenizer, CHAT, ANSWER)
    assert (prompt, response) == (FAMILIES[name].prompt, FAMILIES[name].response)
    assert response[-1] == tokenizer.pad_token_id
    assert trained_mask(prompt, response) == [0] * len(prompt) + [1, 1, 1]
    assert check_rendering(tokenizer, prompt, response) is None


def test_stop_ids_are_the_end_of_turn_and_the_eos() -> None:
    assert stop_ids(word_tokenizer("llama3")) == [4, 1]
    assert stop_ids(word_tokenizer("gemma")) == [4, 1]
    assert stop_ids(word_tokenizer("mistral")) == [2]


def test_no_chat_template_is_said_plainly() -> None:
    family = FAMILIES["llama3"]
    tokenizer = wrap(Tokenizer.from_str(word_tokenizer("llama3").backend_tokenizer.to_str()), family)
    tokenizer.chat_template = None
    tokenizer.name_or_path = "some/base-model"
    with pytest.raises(InputError, match=r"some/base-model.*no chat template.*instruction-tuned"):
        render_prompt(tokenizer, CHAT)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    with pytest.raises(InputError, match="no special token"):
        end_of_turn_id(tokenizer)


def test_a_conversation_that_the_template_refuses() -> None:
    with pytest.raises(InputError, match=r"roles: user, user.*alternate"):
        render_prompt(word_tokenizer("mistral"), CHAT + CHAT)
    with pytest.raises(InputError, match="roles: none"):
        render_prompt(word_tokenizer("mistral"), [])


def test_a_token_over_the_boundary_leaves_the_prompt_as_sampling_saw_it() -> None:
    tokenizer = byte_tokenizer("qwen2.5")
    prompt, response = render_example(tokenizer, CHAT, "\nHello")
    full = ids_of_full_rendering(tokenizer, with_answer("\nHello"))
    assert full[: len(prompt)] != prompt == render_prompt(tokenizer, CHAT)  # "\n\n" became one id
    assert tokenizer.decode(response) == "\nHello<|im_end|>"


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_template_that_alters_the_answer_does_not_alter_what_is_trained(opening: str) -> None:
    # Reasoning models' templates show an answer without its reasoning, and some prompts open the reasoning.
    template = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{{ message['content'].split('</think>')[-1] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\nOPENING' }}{% endif %}"
    )
    family = FAMILIES["qwen2.5"]._replace(template=template.replace("OPENING", opening))
    tokenizer = wrap(Tokenizer.from_str(byte_tokenizer("qwen2.5").backend_tokenizer.to_str()), family)
    prompt, response = render_example(tokenizer, CHAT, "so</think>Hello")
    assert prompt == render_prompt(tokenizer, CHAT)
    assert tokenizer.decode(prompt).endswith("assistant\n" + opening)
    assert tokenizer.decode(response) == "so</think>Hello<|im_end|>"


@each_family
def test_render_open_leaves_the_answer_open(name: str) -> None:
    tokenizer = byte_tokenizer(name)
    ids = render_open(tokenizer, CHAT, "Score: ")
    prompt = render_prompt(tokenizer, CHAT)
    assert ids[: len(prompt)] == prompt
    assert tokenizer.decode(ids).endswith("Score: ")  # with its space, also where the template trims
    example = render_example(tokenizer, CHAT, "Score: 5")
    assert ids == (example[0] + example[1])[: len(ids)]
    assert render_open(tokenizer, CHAT, "") == prompt


def test_the_date_in_a_prompt_stands_still() -> None:
    dated = FAMILIES["qwen2.5"]._replace(template="{{ strftime_now('%d %b %Y') }}" + CHATML_TURNS)
    tokenizer = wrap(Tokenizer.from_str(byte_tokenizer("qwen2.5").backend_tokenizer.to_str()), dated)
    assert tokenizer.decode(render_prompt(tokenizer, CHAT)).startswith("26 Jul 2024<|im_start|>")


def test_template_digest_names_the_template_and_the_vocabulary() -> None:
    core, family = byte_tokenizer("llama3").backend_tokenizer.to_str(), FAMILIES["llama3"]
    tokenizer = wrap(Tokenizer.from_str(core), family)
    digest = template_digest(tokenizer)
    assert digest == template_digest(byte_tokenizer("llama3")) and len(digest) == 64
    # Use of a tokenizer leaves its padding and truncation behind in it.
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    tokenizer.pad_token = "<|eot_id|>"
    assert template_digest(tokenizer) == digest
    tokenizer.chat_template = family.template + " "
    assert template_digest(tokenizer) != digest
    digests = {template_digest(make(name)) for name in FAMILIES for make in (word_tokenizer, byte_tokenizer)}
    assert len(digests) == 2 * len(FAMILIES)


def test_template_digest_is_stable_over_processes() -> None:
    program = "import tests.test_chat as t; print(t.template_digest(t.word_tokenizer('gemma')))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == template_digest(word_tokenizer("gemma"))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(list(FAMILIES)),
    question=st.text(max_size=20),
    response=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n"), max_size=20),
)
def test_an_example_says_what_the_response_says(name: str, question: str, response: str) -> None:
    tokenizer = byte_tokenizer(name)
    messages: list[Message] = [{"role": "user", "content": question}]
    prompt, ids = render_example(tokenizer, messages, response)
    assert prompt == render_prompt(tokenizer, messages)
    assert response.strip() in tokenizer.decode(prompt + ids)
    assert check_rendering(tokenizer, prompt, ids) is None
    assert append_turn(tokenizer, prompt + ids, question)[: len(prompt + ids)] == prompt + ids
