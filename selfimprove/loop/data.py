"""A run's data as token ids: seed examples, each round's prompts, given pairs. What does not fit is counted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfimprove.data.rows import Pair, RenderedPrompt, Response, Responses
from selfimprove.data.sources import DataSource, Prompt, content, load_examples, load_preferences, load_prompts
from selfimprove.errors import InputError
from selfimprove.judging.asking import under
from selfimprove.judging.checkers.code_tasks import QUESTIONS
from selfimprove.models.chat import append_turn, render_example, render_prompt
from selfimprove.recipe.recipe import Recipe


@dataclass
class RunData:
    """Renders a recipe's data for one tokenizer. `room`: tokens that prompt and answer may have together."""

    recipe: Recipe
    tokenizer: Any
    room: int
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        search = self.recipe.search_folders()
        self.seed_texts: list[str] = []
        self.pair_texts: list[str] = []
        with under("data.seed"):
            self.seed_examples = self._seed_examples(search) if self.recipe.data.seed else []
        uses_prompts = self.recipe.contract.needs.prompts and self.recipe.data.prompts
        with under("data.prompts"):
            self.round_prompts = self._round_prompts(search) if uses_prompts else []
        with under("data.pairs"):
            self.pairs = self._given_pairs(search) if self.recipe.contract.needs.pairs else []

    def training_texts(self) -> list[str]:
        """Every text that is trained on and known before the run, for the leak gate."""
        prompts = [prompt for prompts in self.round_prompts for prompt in prompts]
        asked = [turn["content"] for prompt in prompts for turn in prompt.messages if turn["role"] != "system"]
        return [*self.seed_texts, *asked, *self.pair_texts]

    def new_tokens(self) -> int:
        """Tokens that may follow a prompt: a response, or the first attempt, the instruction and the second one."""
        recipe, once = self.recipe, self.recipe.sampling.max_new_tokens
        turns = recipe.contract.turns(recipe.options) if recipe.contract.turns else ()
        return once + sum(once + len(append_turn(self.tokenizer, [], turn)) for turn in turns)

    def rendered(self, prompts: Sequence[Prompt], new_tokens: int, what: str = "prompts") -> list[RenderedPrompt]:
        """Prompts as token ids; those that leave no room for an answer are dropped and counted, never cut;
        for a method that needs them whole (`Needs.whole`) one is refused."""
        found = []
        for prompt in prompts:
            ids = render_prompt(self.tokenizer, list(prompt.messages))
            if self.recipe.contract.needs.whole and len(ids) + new_tokens > self.room:
                fits = self.room - len(ids)
                raise InputError(
                    f"prompt {prompt.id!r} is too long: its {len(ids):,} tokens and sampling.max_new_tokens="
                    f"{new_tokens} do not fit {self.room:,} tokens (the model's context and training.max_length); "
                    + (f"max_new_tokens={fits} does, or leave it out" if fits > 0 else "shorten it, or leave it out")
                )
            if len(ids) + new_tokens <= self.room:
                asked, group, turns = content(prompt), prompt.group, prompt.messages
                found.append(RenderedPrompt(prompt.id, tuple(ids), asked, prompt.answer, group, turns, prompt.row))
        self._dropped(len(prompts) - len(found), len(prompts), f"{what} (with {new_tokens} new tokens)")
        if prompts and not found:
            raise InputError(
                f"all {len(prompts)} {what} are too long: prompt + {new_tokens} new tokens must fit {self.room} tokens "
                "(the model's context and training.max_length); lower sampling.max_new_tokens"
            )
        return found

    def _seed_examples(self, search: Sequence[Path]) -> list[dict[str, list[int]]]:
        examples = [
            e
            for source in self.recipe.data.seed or ()
            for e in load_examples(source, search, note=self._said_of("data.seed"))
        ]
        examples = examples[: self.recipe.data.seed_limit]
        self.seed_texts = [text for one in examples for text in (*_turns(one.prompt), one.response)]
        rows = []
        for example in examples:
            prompt_ids, response_ids = render_example(self.tokenizer, list(example.prompt.messages), example.response)
            if len(prompt_ids) + len(response_ids) <= self.room:
                rows.append({"prompt_ids": prompt_ids, "response_ids": response_ids})
        self._dropped(len(examples) - len(rows), len(examples), "seed examples")
        if not rows:
            raise InputError(f"data.seed: all {len(examples)} examples are longer than {self.room} tokens")
        return rows

    def _round_prompts(self, search: Sequence[Path]) -> list[list[RenderedPrompt]]:
        """Each round's own slice of the prompts, shuffled once by the recipe's seed."""
        recipe = self.recipe
        reward, judges = recipe.rewarded_by(), recipe.judges()
        deciding = [*judges, *([reward] if reward else [])]
        tests = next((one.tests for one in deciding if one.found.needs == "tests"), None)
        by_row = tests or any(one.found.reads_rows for one in deciding)
        found = prompts_of(recipe.data.prompts or (), search, None if by_row else self._said_of("data.prompts"))
        if tests:
            found = [_as_task(prompt, tests) for prompt in found]
        if found and any(one.found.compares for one in judges) and all(prompt.answer is None for prompt in found):
            raise InputError(
                "data.prompts: no prompt has an `answer`, and the judge compares with it: give the column "
                "(`fields: {answer: NAME}`), or another judge"
            )
        for check in filter(None, (one.found.check_row for one in judges)):
            for prompt in found:
                check(prompt.row, f"data.prompts: prompt {prompt.id!r}")
        prompts = self.rendered(found, self.new_tokens())
        random.Random(f"prompts|{recipe.seed}").shuffle(prompts)
        self.spare_prompts: list[RenderedPrompt] = []
        rounds = recipe.rounds if recipe.contract.needs.rounds else 1
        each = recipe.data.prompts_per_round or len(prompts) // rounds
        if each < 1 or each * rounds > len(prompts):
            raise InputError(
                f"data.prompts: {len(prompts)} usable prompts are not enough for {rounds} rounds of {each or 1} "
                "(every round has its own prompts); lower `rounds` or data.prompts_per_round, or add prompts"
            )
        self.spare_prompts = prompts[each * rounds :]
        return [prompts[i * each : (i + 1) * each] for i in range(rounds)]

    def _given_pairs(self, search: Sequence[Path]) -> list[Pair]:
        given = [
            p
            for source in self.recipe.data.pairs or ()
            for p in load_preferences(source, search, self._said_of("data.pairs"))
        ]
        self.pair_texts = [text for one in given for text in (*_turns(one.prompt), one.chosen, one.rejected)]
        pairs = []
        for number, one in enumerate(given):
            prompt_id = f"{number}:{one.prompt.id}"
            messages = list(one.prompt.messages)
            prompt_ids, chosen_ids = render_example(self.tokenizer, messages, one.chosen)
            _, rejected_ids = render_example(self.tokenizer, messages, one.rejected)
            if len(prompt_ids) + max(len(chosen_ids), len(rejected_ids)) > self.room or chosen_ids == rejected_ids:
                continue
            prompt = RenderedPrompt(prompt_id, tuple(prompt_ids), content(one.prompt))
            chosen = Response(prompt_id, 0, tuple(chosen_ids), "stop", one.chosen)
            rejected = Response(prompt_id, 1, tuple(rejected_ids), "stop", one.rejected)
            pairs.append(Pair(prompt, chosen, rejected, 0.0, 0.0, one.confidence))
        self._dropped(len(given) - len(pairs), len(given), "pairs (or equal on both sides)")
        if not pairs:
            raise InputError(f"data.pairs: none of {len(given)} pairs is usable (too long, or equal on both sides)")
        return pairs

    def _said_of(self, key: str) -> Callable[[str], None]:
        return lambda text: self.note(f"{key}: {text}")

    def _dropped(self, dropped: int, total: int, what: str) -> None:
        if dropped:
            self.note(f"{dropped} of {total} {what} are too long for {self.room} tokens and are left out")


def _turns(prompt: Prompt) -> list[str]:
    """What is said in a prompt, without what a system turn tells the model to be."""
    return [turn["content"] for turn in prompt.messages if turn["role"] != "system"]


def responses_of(pairs: Sequence[Pair]) -> Responses:
    """The two responses of every pair, by prompt id."""
    return Responses(
        {pair.prompt.id: pair.prompt for pair in pairs},
        {pair.prompt.id: (pair.chosen, pair.rejected) for pair in pairs},
    )


def seed_responses(examples: Sequence[dict[str, list[int]]]) -> Responses:
    """Seed examples in the form that is scored."""
    prompts = {f"seed-{i}": RenderedPrompt(f"seed-{i}", tuple(e["prompt_ids"]), "") for i, e in enumerate(examples)}
    rows = {
        f"seed-{i}": (Response(f"seed-{i}", 0, tuple(e["response_ids"]), "stop", ""),) for i, e in enumerate(examples)
    }
    return Responses(prompts, rows)


def _as_task(prompt: Prompt, tests: str) -> Prompt:
    """A programming task (`tests`: humaneval or mbpp) asks its own question, and its answer is its row, as JSON."""
    try:
        question = {"role": "user", "content": QUESTIONS[tests](prompt.row)}
    except KeyError as missing:
        raise InputError(
            f"data.prompts: prompt {prompt.id!r} is no task of {tests} (reward.tests): no column {missing} among "
            f"{', '.join(prompt.row)}"
        ) from None
    return replace(prompt, messages=(question,), answer=json.dumps(prompt.row))


def prompts_of(
    sources: Sequence[DataSource], search: Sequence[Path], note: Callable[[str], None] | None = None
) -> list[Prompt]:
    """Prompts of all sources; with several, ids begin with the source's number, so that none clash."""
    if len(sources) == 1:
        return load_prompts(sources[0], search, note)
    return [
        replace(prompt, id=f"{number}:{prompt.id}")
        for number, source in enumerate(sources)
        for prompt in load_prompts(source, search, note)
    ]
