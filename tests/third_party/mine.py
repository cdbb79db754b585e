"""What another package brings: a method, and a step kind that the method uses. Written against the public names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove import Loop, Needs, Options, Policy, StepKind, method


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
