"""Conversations as token ids: the one place where text becomes ids.

All is learned by rendering the tokenizer's own chat template; no model family is treated apart. The tokenizer
never adds special tokens of its own: with a template that writes the BOS there would be two.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from selfimprove.errors import InputError
from selfimprove.models.thoughts import answer_of, closes_thought, opens_thought, without_opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


# Stands for an answer when a template is rendered only to see what it writes around one. It stays text.
_PROBE = "selfimprove-probe-answer"
_QUESTION: Message = {"role": "user", "content": "question"}
_ANSWER: Message = {"role": "assistant", "content": _PROBE}

OPENING = 64  # tokens at a prompt's end in which a template opens a thought
_NO_THOUGHTS = (
    ": write the thought into the data's answers (`...</think>`), or have the template open none, where it can "
    "(`chat_template_kwargs: {enable_thinking: false}`)"
)

# Some templates (Llama 3.2) write today's date into the prompt. All of a run must see the same prompt, so the
# date stands still, at the one that the Llama 3.1 template falls back to.
TODAY = datetime(2024, 7, 26)


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """Token ids of the conversation followed by the generation prompt (the opening of the assistant's turn).

    Raises InputError when the tokenizer has no chat template, or when its template refuses the conversation
    (Gemma's refuses a system message).
    """
    return _encode(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


def render_example(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], response: str
) -> tuple[list[int], list[int]]:
    """(prompt_ids, response_ids) of a conversation and the answer to learn.

    prompt_ids is what `render_prompt` gives. response_ids ends with the end-of-turn token; what the template
    writes after it (ChatML: a newline) is never sampled, so it is left out. Where the template trims an
    answer, so does this; where the prompt has opened a thought, an answer that opens it again does not. A
    special token in the *text* of an answer gets its id; `check_rendering` says so.
    Raises InputError as `render_prompt` and `end_of_turn_id` do.
    """
    closing, end, _ = _closing(tokenizer)
    text = _answer_text(tokenizer, messages, response) + closing.partition(end)[0] + end
    return _encode_after_prompt(tokenizer, messages, text)


def render_choice(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str
) -> tuple[list[int], list[int]]:
    """(prompt_ids, the ids of `text` alone as it begins the answer), without the end of the turn. Raises InputError as
    `render_example` does."""
    return _encode_after_prompt(tokenizer, messages, _answer_text(tokenizer, messages, text))


def merged_system(messages: Sequence[Message]) -> list[Message]:
    """The system's text at the head of the first user's turn, for templates that refuse a system turn (Gemma's)."""
    if messages[0]["role"] != "system":
        return list(messages)
    system, user, *others = messages
    return [{"role": "user", "content": f"{system['content'].rstrip()}\n\n{user['content']}"}, *others]


def accepted_turns(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[Message]:
    """The conversation as the tokenizer's template takes it: `merged_system` where it refuses a system turn."""
    if messages[0]["role"] != "system":
        return messages
    try:
        render_prompt(tokenizer, messages)
    except InputError:
        return merged_system(messages)
    return messages


def trained_mask(prompt_ids: list[int], response_ids: list[int]) -> list[int]:
    """One number for each token of prompt_ids + response_ids: 1 is trained, 0 is only read.

    It goes by position. A mask that goes by token id loses the end of turn wherever that is also the padding.
    """
    return [0] * len(prompt_ids) + [1] * len(response_ids)


def append_turn(tokenizer: PreTrainedTokenizerBase, ids: list[int], message: str) -> list[int]:
    """`ids`, then a user's turn saying `message`, then the generation prompt (SCoRe's second turn).

    `ids` is a conversation up to and including a sampled answer; the result begins with it, untouched. An
    answer that was cut off is closed with the end-of-turn token, which was not sampled: do not train it.
    Raises InputError for a template that ends earlier answers differently from the last one.
    """
    text = _render(tokenizer, [_QUESTION, _ANSWER, {"role": "user", "content": message}], add_generation_prompt=True)
    turn = text[text.index(_PROBE) + len(_PROBE) :].lstrip()
    _, end, end_of_turn = _closing(tokenizer)
    if not turn.startswith(end):
        raise InputError(
            f"the chat template of {_name(tokenizer)} ends the last answer with {end!r} and others "
            f"with {turn[:20]!r}, so none can follow a sampled one; use a model that ends all answers alike"
        )
    # Encoded behind the end of turn even where that is dropped again: SentencePiece tokenizers put a space in
    # front of a text, but none after a special token.
    new = _encode(tokenizer, turn)
    return ids + (new[1:] if ids[-1:] == [end_of_turn] else new)


def render_open(tokenizer: PreTrainedTokenizerBase, messages: list[Message], prefix: str) -> list[int]:
    """Prompt ids, then `prefix` as the beginning of an assistant's answer that is left open.

    A prefix should not end with a space: most vocabularies have it in the next word's token, so the model
    would continue from tokens it has seldom seen. Raises InputError as `render_prompt` does.
    """
    text = prefix
    if prefix.strip():
        # Templates that trim answers would take away the end of the prefix too.
        text = _answer_text(tokenizer, messages, prefix).rstrip() + prefix[len(prefix.rstrip()) :]
    prompt_ids, prefix_ids = _encode_after_prompt(tokenizer, messages, text)
    return prompt_ids + prefix_ids


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token with which the template ends an assistant's answer (not always the tokenizer's EOS).

    Raises InputError when the template ends an answer with no special token.
    """
    return _closing(tokenizer)[2]


def stop_ids(tokenizer: PreTrainedTokenizerBase, declared: Sequence[int] = ()) -> list[int]:
    """Ids at which sampling stops: the end of turn, then the tokenizer's EOS where that is another token, then those
    that the model's generation_config.json declares beside them (`policy.declared_ends`)."""
    eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return list(dict.fromkeys([end_of_turn_id(tokenizer), *eos, *declared]))


def check_rendering(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[int],
    response_ids: list[int],
    truncated: bool = False,
) -> str | None:
    """What is wrong with one rendered example, as a sentence, or None.

    The BOS must be at the start as often as the template writes it there (never twice), and the end of turn
    among the trained tokens exactly once, at the end; not at all where the answer was truncated.
    """
    marks = _marks(tokenizer, tokenizer.chat_template, json.dumps(template_kwargs(tokenizer)))
    problem = _bos_problem(marks, prompt_ids + response_ids)
    if problem:
        return problem
    end, end_of_turn = marks.end, marks.end_id
    found = response_ids.count(end_of_turn)
    if truncated:
        return f"A truncated answer is trained to end with the end-of-turn token {end!r}." if found else None
    if response_ids[-1:] != [end_of_turn]:
        return f"The trained tokens do not end with the end-of-turn token {end!r}."
    if found > 1:
        return f"The end-of-turn token {end!r} is trained {found} times, not once at the end."
    return None


def check_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """What is wrong with the thought of a rendered answer, as a sentence, or nothing: one that the prompt opens must
    be closed in the answer, and where the prompt brings a closed one, the answer brings none."""
    prompt = tokenizer.decode(prompt_ids[-OPENING:])
    answer = tokenizer.decode(response_ids)
    if opens_thought(prompt):
        if answer_of(answer, opened=True) is None:
            return f"The chat template opens a thought in the prompt, and the answer never closes it{_NO_THOUGHTS}."
    elif closes_thought(prompt) and answer_of(answer) != answer:
        return "The chat template writes an empty thought into the prompt, and the answer brings another one."
    return ""


def template_kwargs(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What is given to the tokenizer's chat template beside the conversation (`chat_template_kwargs` of a recipe)."""
    return getattr(tokenizer, "chat_template_kwargs", {})


def check_template_kwargs(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError for one of `template_kwargs` that the chat template does not read: it would do nothing."""
    words = set(re.findall(r"[A-Za-z_]\w*", str(tokenizer.chat_template)))
    for name in template_kwargs(tokenizer):
        if name not in words:
            near = get_close_matches(name, words, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"chat_template_kwargs.{name}: the chat template of {_name(tokenizer)} does not read it{hint}"
            )


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of what decides how text becomes ids: chat template and what it is given, special tokens, tokenizer
    json.

    Padding and truncation are left out: they change no rendering, and programs set them as they go.
    """
    special = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    rules.pop("truncation", None)
    rules.pop("padding", None)
    parts = {"chat_template": tokenizer.chat_template, "special_tokens": special, "tokenizer": rules}
    if given := template_kwargs(tokenizer):
        parts["chat_template_kwargs"] = given
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__!r}"


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise InputError(
            f"{_name(tokenizer)} has no chat template, so no conversation can be written for it; use the "
            "instruction-tuned model, or put a chat_template.jinja file beside its tokenizer.json"
        )
    text = _applied(tokenizer, messages, add_generation_prompt)
    if (lost := _left_out(messages, text)) is None:
        return text
    # Vision models' templates read a list of parts only, and of a text nothing.
    parts: Any = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    with suppress(InputError):
        text = _applied(tokenizer, parts, add_generation_prompt)
        if _left_out(messages, text) is None:
            return text
    raise InputError(
        f"the chat template of {_name(tokenizer)} leaves out what the {lost['role']} says ({lost['content'][:60]!r}); "
        "use a template that renders it, or put it into the user's turn"
    )


def _left_out(messages: Sequence[Message], text: str) -> Message | None:
    """The first turn, of others than the assistant, whose text is not in the rendering."""
    asked = (turn for turn in messages if turn["role"] != "assistant")
    return next((turn for turn in asked if turn["content"].strip() not in text), None)


def _applied(tokenizer: PreTrainedTokenizerBase, messages: list[Message], add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **{"strftime_now": TODAY.strftime, **template_kwargs(tokenizer)},
        )
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise InputError(
            f"the chat template of {_name(tokenizer)} refuses a conversation (its roles: {roles}): {error}"
        ) from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # Not apply_chat_template(tokenize=True): parts of a rendering are encoded too, and alike.
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _closing(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, int]:
    """All that the template writes after a last answer; the first special token in that, or in what it writes before a
    next question where there is none (GLM 4.5 ends with the opening of the user's turn); the token's id."""
    text = _render(tokenizer, [_QUESTION, _ANSWER], add_generation_prompt=False)
    closing = text[text.index(_PROBE) + len(_PROBE) :]
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    more = "" if closing.strip() else _render(tokenizer, [_QUESTION, _ANSWER, _QUESTION], add_generation_prompt=False)
    # Without the leading space (Llama 2 has one), as some vocabularies count runs of spaces as added tokens.
    for token_id in _encode(tokenizer, (closing + more.partition(_PROBE)[2]).lstrip()):
        if token_id in special:
            return closing, tokenizer.convert_ids_to_tokens(token_id), token_id
    raise InputError(
        f"the chat template of {_name(tokenizer)} ends an answer with {closing!r}, which has no special "
        "token, so the end of an answer cannot be learned; use a chat template that writes one there"
    )


def _answer_text(tokenizer: PreTrainedTokenizerBase, messages: list[Message], answer: str) -> str:
    """The text between the prompt and the closing of the answer's turn, as the template writes it."""
    prompt = _render(tokenizer, messages, add_generation_prompt=True)
    if (rest := without_opening(prompt, answer)) is not None:
        return rest  # a thought that goes on from the prompt's: templates would write an empty one before it
    full = _render(tokenizer, [*messages, {"role": "assistant", "content": answer}], add_generation_prompt=False)
    closing = _closing(tokenizer)[0]
    text = full[len(prompt) :].removesuffix(closing)
    if full.startswith(prompt) and full.endswith(closing) and text.strip().endswith(answer.strip()):
        return text
    # Reasoning models' templates open a <think> block in the prompt only, or cut reasoning out of answers.
    # What the model would have sampled is then the answer as given, right after the prompt.
    return answer


def _encode_after_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str
) -> tuple[list[int], list[int]]:
    """(the prompt's ids, the ids of `text` as it continues the prompt)."""
    prompt = _render(tokenizer, messages, add_generation_prompt=True)
    prompt_ids, ids = _encode(tokenizer, prompt), _encode(tokenizer, prompt + text)
    if ids[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, ids[len(prompt_ids) :]
    # A token reaches over the boundary ("\n" + "\n" is one token). Sampling starts from the prompt's own ids,
    # so the text is encoded alone (behind a special token for the reason given in append_turn).
    return prompt_ids, _encode(tokenizer, _closing(tokenizer)[1] + text)[1:]


@dataclass(frozen=True)
class _Marks:
    """What a template writes around every conversation, where it is looked for in each of many examples."""

    bos_id: int | None
    bos: str | None
    expected: tuple[int, ...]  # two turns, to see whether the BOS is written elsewhere too: SmolLM2's is <|im_start|>
    end: str
    end_id: int


@lru_cache(maxsize=8)
def _marks(tokenizer: PreTrainedTokenizerBase, template: str, given: str) -> _Marks:
    _, end, end_id = _closing(tokenizer)
    expected = tuple(render_prompt(tokenizer, [_QUESTION, _ANSWER, _QUESTION]))
    return _Marks(tokenizer.bos_token_id, tokenizer.bos_token, expected, end, end_id)


def _bos_problem(marks: _Marks, ids: list[int]) -> str | None:
    bos, token, expected = marks.bos_id, marks.bos, marks.expected
    if bos is None:
        return None
    at_start = int(expected[0] == bos)
    if any(first == second == bos for first, second in pairwise(ids)):
        return f"The BOS {token!r} stands twice in a row."
    if int(ids[:1] == [bos]) != at_start:
        return f"The BOS {token!r} is {'missing' if at_start else 'written'} at the start."
    if expected.count(bos) == at_start and ids.count(bos) != at_start:
        return f"The BOS {token!r} occurs {ids.count(bos)} times; the template writes it {at_start} times."
    return None
