"""A policy's answers to a suite's items, over one turn or several, and those of the opponent it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from selfimprove.artefacts import digest_of
from selfimprove.data.rows import RenderedPrompt, Response
from selfimprove.data.sources import DataSource, Prompt, content, load_prompts
from selfimprove.errors import InputError
from selfimprove.judging.asking import short_name
from selfimprove.models.chat import append_turn
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.suites.kind import Loaded
from selfimprove.suites.outcome import Answer
from selfimprove.suites.suite_kinds import PreferenceSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference


class Decoded(Protocol):
    """The decoding options of a suite."""

    @property
    def name(self) -> str: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def temperatures(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Answers:
    """By item id: what was said in each turn; fewer turns than the item has where a prompt was too long. `truncated`:
    answers without an end of turn."""

    name: str
    texts: Mapping[str, Sequence[str]]
    truncated: int = 0


def rendered_items(loop: Inference, suite: Decoded, items: Sequence[Prompt], policy: Policy) -> list[RenderedPrompt]:
    """The items' prompts that leave room for an answer. InputError where none does: the suite asks for too much."""
    questions = {item.id: item.messages for item in items}
    prompts = loop.rendered_for(policy, questions, suite.max_new_tokens, f"items of {suite.name}")
    if not prompts:
        raise InputError(
            f"{suite.name}: all {len(items)} prompts are too long for {policy.name}: prompt + {suite.max_new_tokens} "
            "new tokens must fit the model's context; lower the suite's max_new_tokens"
        )
    return prompts


def draw_by_group(
    loop: Inference,
    suite: Decoded,
    items: Sequence[Prompt],
    prompts: Sequence[RenderedPrompt],
    policy: Policy,
    label: str,
    n: int = 1,
) -> dict[str, list[Response]]:
    """Responses by item id, each item at its group's temperature: one step for each temperature."""
    by_temperature: dict[float, list[RenderedPrompt]] = {}
    groups = {item.id: item.group for item in items}
    for prompt in prompts:
        temperature = suite.temperatures.get(groups[prompt.id] or "", suite.temperature)
        by_temperature.setdefault(temperature, []).append(prompt)
    found: dict[str, list[Response]] = {}
    for temperature, some in by_temperature.items():
        at = f", temperature {temperature:g}" if len(by_temperature) > 1 else ""
        drawn = loop.draw(
            policy,
            some,
            f"{label}{at}",
            n=n,
            temperature=temperature,
            top_p=suite.top_p,
            max_new_tokens=suite.max_new_tokens,
        )
        found |= {id: list(responses) for id, responses in drawn.by_prompt.items()}
    return found


def answer_of(responses: Sequence[Response]) -> Answer:
    """An item's first response, which is none where its prompt was too long, and has no end where it was truncated."""
    if not responses:
        return Answer("", "prompt too long")
    return Answer(responses[0].text, "truncated" if responses[0].finish == "length" else "")


def answer_items(loop: Inference, suite: Decoded, items: Sequence[Prompt], policy: Policy) -> Answers:
    """The policy's answers, turn after turn; its own earlier answers go into the next prompt token for token."""
    tokenizer, room = load_tokenizer(policy), context_tokens(policy.base)
    texts: dict[str, list[str]] = {item.id: [] for item in items}
    truncated = Counter[str]()
    prompts = rendered_items(loop, suite, items, policy)
    turns = 1 + max((len(item.later_turns) for item in items), default=0)
    for turn in range(turns):
        if not prompts:
            break
        label = f"{suite.name} with {policy.name}" + (f", turn {turn + 1}" if turns > 1 else "")
        drawn = draw_by_group(loop, suite, items, prompts, policy, label)
        ids = {prompt.id: prompt.prompt_ids for prompt in prompts}
        prompts = []
        for item in items:
            if item.id not in drawn:
                continue
            response = drawn[item.id][0]
            texts[item.id].append(response.text)
            truncated["all"] += response.finish == "length"
            if turn < len(item.later_turns):
                said = item.later_turns[turn]
                longer = append_turn(tokenizer, [*ids[item.id], *response.ids], said)
                if len(longer) + suite.max_new_tokens <= room:
                    prompts.append(RenderedPrompt(item.id, tuple(longer), said))
    return Answers(policy.name, texts, truncated["all"])


def given_answers(path: Path, items: Sequence[Prompt], max_missing: float, what: str) -> Answers:
    """Answers from a file (`instruction` and `output`, as AlpacaEval's), found by the instruction's text.

    Raises InputError where one instruction has two different answers, or more than `max_missing` of the items have
    none: the file is then of other instructions.
    """
    rows = load_prompts(DataSource(path=str(path)), [Path()])
    return named_answers(rows, items, max_missing, f"{what}: {path}", path.stem)


def named_answers(rows: Sequence[Prompt], items: Sequence[Prompt], max_missing: float, what: str, name: str) -> Answers:
    """See `given_answers`; `rows` are what was loaded."""
    by_text: dict[str, str] = {}
    for row in rows:
        if row.output is None:
            continue
        text = content(row)
        if by_text.setdefault(text, row.output) != row.output:
            raise InputError(f"{what}: two different outputs for one instruction ({text[:60]!r}); keep one")
    if not by_text:
        raise InputError(f"{what}: has no `output` for any instruction")
    lacking = [item for item in items if content(item) not in by_text]
    if len(lacking) > max_missing * len(items):
        raise InputError(
            f"{what}: has no output for {len(lacking)} of {len(items)} instructions, for instance "
            f"{content(lacking[0])[:60]!r}: is it the file of other instructions?"
        )
    if several := [item for item in items if item.later_turns]:
        raise InputError(f"{what}: item {several[0].id!r} has several turns, and a file of outputs holds one")
    generators = {str(row.row["generator"]) for row in rows if isinstance(row.row.get("generator"), str)}
    texts = {item.id: [by_text[content(item)]] if content(item) in by_text else [] for item in items}
    return Answers(generators.pop() if len(generators) == 1 else name, texts)


@dataclass(frozen=True)
class Opponent:
    """Whom the policies are compared with: a policy, or answers that are there already."""

    name: str
    policy: Policy | None
    answers: Answers | None

    @property
    def digest(self) -> str:
        """Of the policy, or of the answers."""
        texts = self.answers and {id: list(texts) for id, texts in self.answers.texts.items()}
        return self.policy.digest if self.policy else digest_of([self.name, texts])

    def says(self, loop: Inference, suite: PreferenceSuite, items: Sequence[Prompt]) -> Answers:
        """Its answers; a policy's are drawn as the others' are."""
        if self.answers is not None:
            return self.answers
        assert self.policy is not None
        return answer_items(loop, suite, items, self.policy)


def find_opponent(loop: Inference, loaded: Loaded) -> Opponent:
    """The suite's `against`. Raises InputError where it is not to be had or answers other instructions."""
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, PreferenceSuite)
    what, against = f"{suite.name}: against", suite.against
    if against == "baseline":
        if not any(item.output for item in loaded.every):
            raise InputError(
                f"{what}: the suite's data have no `output`s to compare with; give another opponent (`--against`): "
                "`base`, a policy, or a file of outputs"
            )
        answers = named_answers(items, items, suite.max_missing, f"{what}: baseline", "baseline")
        return Opponent(answers.name, None, answers)
    if against == "base":
        assert loop.base_policy is not None
        return Opponent(loop.base_policy.name, loop.base_policy, None)
    if against.endswith((".json", ".jsonl")):
        search = loop.recipe.search_folders()
        path = next((p for folder in search if (p := folder / Path(against).expanduser()).is_file()), None)
        if path is None:
            raise InputError(f"{what}: no file {against!r}; looked in {', '.join(map(str, search))}")
        answers = given_answers(path, items, suite.max_missing, what)
        return Opponent(answers.name, None, answers)
    policy = resolve_policy(against, short_name(against), loop.recipe.opening)
    return Opponent(policy.name, policy, None)
