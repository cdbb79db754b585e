"""What another package brings: a method, a step kind that it uses, a kind of suites, judges, a reward, a sampler.
Written against the public names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove import (
    Col,
    Decoding,
    Loop,
    Needs,
    Options,
    Outcome,
    Part,
    Policy,
    Request,
    Responses,
    Sampled,
    Scores,
    StepKind,
    SuiteOptions,
    Table,
    judge,
    method,
    suite_kind,
)
from selfimprove.report.charts import bars


class ShortOptions(Options):
    """Section `shortest`."""

    words: int = 3


def words_part(events: list[dict[str, Any]]) -> Part:
    """What the report shows of the method, beside what every run has."""
    rows = [one for one in events if one["event"] == "figures" and one["name"] == "shortest"]
    chart = bars(
        "Words by round", [{"x": f"round {one['round']}", "y": one["figures"]["words"]} for one in rows], "", "words"
    )
    words = Table("Words", rows, [Col("round"), Col("words in all", "figures.words")])
    return Part("How short are they?", charts=[chart], tables=[words])


@method(options=ShortOptions, needs=Needs(prompts=True, responses=2), report=(words_part,))
def shortest(loop: Loop, options: ShortOptions) -> Policy:
    """Trains on each prompt's shortest response, counted in a step of its own."""
    from selfimprove.steps.request import StepRequest

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


class AgreementOptions(Options):
    """Under `options` of the judge's section."""

    letters: int = 1


@judge(AgreementOptions)
def agreement(loop: Loop, options: AgreementOptions, responses: Responses, policy: Policy) -> Scores:
    """The share of a prompt's responses that begin with the same letters; of an empty one nothing is known."""
    found: dict[str, list[float | None]] = {}
    for prompt, its_responses in responses:
        begins = [one.text[: options.letters].lower() for one in its_responses]
        found[prompt.id] = [begins.count(one) / len(begins) if one else None for one in begins]
    return found


class Plain:
    """A sampler: one response after the other, one token after the other."""

    name = "plain"

    def __init__(self, options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> None:
        self.device, self.model = execution["device"], None

    def set_weights(self, policy: Policy, model: Any = None) -> None:
        """The policy as it stands in memory, or from its folder."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self.model = model or AutoModelForCausalLM.from_pretrained(policy.base, dtype="float32")
        if model is None and policy.adapter:
            self.model = PeftModel.from_pretrained(self.model, policy.adapter)
        self.model.to(self.device).eval()

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        """n responses for each request, in order."""
        found = []
        for request in requests:
            found.append([self._one(request, request.seed + place, decoding) for place in range(request.n)])
            advance(request.n)
        return found

    def _one(self, request: Request, seed: int, decoding: Decoding) -> Sampled:
        import torch

        noise, ids, total = torch.Generator().manual_seed(seed), list[int](), 0.0
        while len(ids) < decoding.max_new_tokens:
            with torch.inference_mode():
                logits = self.model(torch.tensor([[*request.prompt_ids, *ids]])).logits[0, -1].float()
            drawn = torch.softmax(logits / (decoding.temperature or 1.0), -1)
            greedy = decoding.temperature == 0
            ids.append(int(logits.argmax() if greedy else torch.multinomial(drawn, 1, generator=noise)))
            total += float(torch.log_softmax(logits, -1)[ids[-1]])
            if ids[-1] in decoding.stop_ids:
                return Sampled(ids, "stop", total)
        return Sampled(ids, "length", total)


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
