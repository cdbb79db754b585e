"""What another package brings: a method, and a step kind that the method uses. Written against the public names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove import Loop, Needs, Options, Outcome, Policy, StepKind, SuiteOptions, method, suite_kind


class ShortOptions(Options):
    """Section `shortest`."""

    words: int = 3


@method(options=ShortOptions, needs=Needs(prompts=True, responses=2))
def shortest(loop: Loop, options: ShortOptions) -> Policy:
    """Trains on each prompt's shortest response, counted in a step of its own."""
    from selfimprove.steps.run import StepRequest

    base = policy = loop.base_policy
    for round in loop.rounds():
        responses = loop.sample(base, round.prompts)
        rows = [{"prompt_id": one.prompt_id, "text": one.text} for one in responses.all()]
        request = StepRequest("count_words", "count words", {}, {"texts": rows}, {}, 0, {})
        counts = [row["words"] for row in loop.step(request).rows()]
        ended = [[one for one in its if one.finish == "stop"] for _, its in responses]
        best = [min(its, key=lambda one: len(one.ids)) for its in ended if its]
        loop.report("shortest", round, words=sum(counts), wanted=options.words)
        prompts = responses.prompts
        policy = loop.sft(
            base,
            [{"prompt_ids": list(prompts[one.prompt_id].prompt_ids), "response_ids": list(one.ids)} for one in best],
        )
        loop.evaluate(policy, round)
    return loop.kept(policy)


def _count(folder: Path, task: dict[str, Any], shard: int, advance: Any) -> None:
    from selfimprove.artefacts import read_rows, write_rows

    rows = read_rows(folder / "inputs" / "texts.arrow")
    found = [{"prompt_id": row["prompt_id"], "words": len(row["text"].split())} for row in rows]
    advance(len(found))
    write_rows(folder / f"rows-{shard:05d}.arrow", found)


COUNT_WORDS = StepKind(1, _count, "texts", None, "texts")


def vowels(prompt: str, response: str, answer: str | None) -> float:
    """A judge, and a reward."""
    return float(sum(letter in "aeiou" for letter in response) + 1)


class VowelOptions(SuiteOptions):
    """Keys of a suite of the kind `vowel_share`."""

    max_new_tokens: int = 4


@suite_kind(VowelOptions, metric="answers with a vowel", answers=False)
def vowel_share(loop: Any, loaded: Any, policy: Policy, found: Any) -> Outcome:
    """Shares of greedy answers that have a vowel."""
    questions = {item.id: item.messages for item in loaded.items}
    prompts = loop.rendered_for(policy, questions, loaded.suite.max_new_tokens, loaded.suite.name)
    drawn = loop.draw(
        policy,
        prompts,
        f"{loaded.suite.name} ({policy.name})",
        n=1,
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=loaded.suite.max_new_tokens,
    )
    texts = {one.prompt_id: one.text for one in drawn.all()}
    right = [float(any(letter in "aeiou" for letter in texts[item.id])) for item in loaded.items]
    return Outcome(policy, right)
