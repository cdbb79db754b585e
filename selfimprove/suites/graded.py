"""Suites of graded responses: a policy reads a rubric, and its scores are held against what the responses are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.artefacts import digest_of
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt, content
from selfimprove.errors import InputError
from selfimprove.judging.asking import Asked, Judge, as_event, ask_judge, short_name
from selfimprove.judging.checkers.checking import verified
from selfimprove.judging.checkers.exact import exact_match
from selfimprove.judging.digits import digit_tokens
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.rubric import Rubric, load_rubric
from selfimprove.models.chat import Message, render_example
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import Reader
from selfimprove.suites.calibration import calibration
from selfimprove.suites.dialogues import draw_by_group, rendered_items
from selfimprove.suites.judge_scores import Graded, less, measure_scores, with_draws
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough
from selfimprove.suites.outcome import Outcome
from selfimprove.suites.suite_kinds import GradedSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_TOO_LONG = "longer than the context of the judged model"


@dataclass(frozen=True)
class Asks:
    """What the policies of a suite are asked: the rubric that each of them reads, and whose answers it is about (their
    likelihoods are this model's too, where the data bring the answers)."""

    rubric: Rubric
    judged: Policy
    answers_digest: str  # of the answers that the data bring

    @property
    def digest(self) -> str:
        """Of all that decides a policy's figures beside the suite's own keys and items."""
        return digest_of([self.rubric.digest, self.judged.digest, self.answers_digest])


def find_asks(loop: Inference, loaded: Loaded) -> Asks:
    """The suite's rubric and the model whose answers are judged. InputError where they are not to be had, or the rubric
    cannot rate one response."""
    suite = loaded.suite
    assert isinstance(suite, GradedSuite) and loop.base_policy is not None
    rubric = load_rubric(suite.rubric, loop.recipe.search_folders())
    if rubric.options.of != "one":
        raise InputError(
            f"{suite.name}: the rubric {rubric.name} compares two responses; a graded suite needs one that rates one "
            "(parser 'digits', 'score' or 'rating'): set `rubric`"
        )
    if suite.reference and not rubric.has("reference"):
        raise InputError(
            f"{suite.name}: the rubric {rubric.name} shows no reference (prompt-reference.txt); set `reference: false`"
        )
    if rubric.options.parser == "digits":
        digit_tokens(load_tokenizer(loop.base_policy))
    judged = loop.base_policy
    if suite.answers_of != "base":
        judged = resolve_policy(suite.answers_of, short_name(suite.answers_of), loop.recipe.opening)
    return Asks(rubric, judged, digest_of([asdict(one) for one in loaded.scored]))


@dataclass(frozen=True)
class _Answers:
    """The responses to judge. `gold`: what each is worth, or None and why that is not known; `too_long`: ids of items
    whose prompts left no room for a response."""

    prompts: Mapping[str, RenderedPrompt]
    responses: Sequence[Response]
    gold: Sequence[Verdict]
    too_long: Sequence[str] = ()


def measure_judge(loop: Inference, loaded: Loaded, policy: Policy, asks: Asks) -> Outcome:
    """The policy as a judge: for each item the gold of the response that it gives the highest score (equal ones
    averaged), and under `graded` everything else, beside what needs no judge.

    Every row is over the same responses: those whose gold, score and likelihood are known. The others are counted by
    reason. Raises RunFailed where they are more than the allowed share.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, GradedSuite)
    answers = _given(loaded, asks.judged) if suite.checker == "score" else _sampled(loop, suite, items, asks.judged)
    likelihoods, tokens = _likelihoods(loop, suite, answers, asks.judged)
    asked, said = _asked(loop, suite, items, answers.responses, Judge(asks.rubric, Reader(), policy))

    reasons = [
        why or unsaid or (None if likelihood is not None else _TOO_LONG)
        for (_, why), (_, unsaid), likelihood in zip(answers.gold, said, likelihoods, strict=True)
    ]
    scores = [None if why else score for (score, _), why in zip(said, reasons, strict=True)]
    lengths = [len(one.text) for one in answers.responses]
    places = {item.id: place for place, item in enumerate(items)}
    gold = [value for value, _ in answers.gold]
    graded = Graded.of([places[one.prompt_id] for one in answers.responses], gold, lengths, len(items))
    own = measure_scores(scores, graded, suite.good_from)
    values = [float(value) if np.isfinite(value) else None for value in own.picked]
    missing = dict(Counter(filter(None, reasons)))
    if answers.too_long:
        missing[f"no response: prompt {_TOO_LONG}"] = len(answers.too_long) * suite.samples
    judgements = [*scores, *[None] * (len(answers.too_long) * suite.samples)]
    require_enough(suite.name, judgements, missing, suite.max_missing, values, least=1)

    without_judge: dict[str, Sequence[float | None]] = {
        "length": [float(one) for one in lengths],
        "shortness": [-float(one) for one in lengths],
        "likelihood": [one and one / count for one, count in zip(likelihoods, tokens, strict=True)],
        "likelihood_summed": likelihoods,
        "random": [0.0] * len(scores),
        "oracle": gold,
    }
    baselines = {
        name: measure_scores(
            [None if why else one for one, why in zip(found, reasons, strict=True)], graded, suite.good_from
        )
        for name, found in without_judge.items()
    }
    known = [value for value, why in zip(gold, reasons, strict=True) if value is not None and not why]
    low, high = asks.rubric.options.low, asks.rubric.options.high
    assert low is not None and high is not None
    gold_range = (min(known), max(known)) if suite.checker == "score" else (0.0, 1.0)
    figures = {
        "rubric": asks.rubric.name,
        "reference": suite.reference,
        "answers_of": None if suite.checker == "score" else asks.judged.name,
        "likelihood_of": asks.judged.name,
        "checker": suite.checker,
        "good_from": suite.good_from,
        "good": sum(value >= suite.good_from for value in known),
        "mean_gold": float(np.mean(known)),
        "mean_length": float(np.mean([one for one, why in zip(lengths, reasons, strict=True) if not why])),
        "truncated": sum(one.finish == "length" for one in answers.responses),
        "missing": missing,
        "scores": own.figures,
        "calibration": calibration(scores, graded, (low, high), gold_range),
        "baselines": {name: one.figures for name, one in baselines.items()},
        "less": {name: less(own, one) for name, one in baselines.items() if name != "oracle"},
        "cost": as_event(asked.cost),
    }
    return Outcome(policy, values, {}, {"graded": figures}, own.resampled["spearman"].tolist())


def correlation_change(before: Outcome, after: Outcome) -> dict[str, Any] | None:
    """The change of Spearman's correlation from one policy to another, over the same draws of prompts; None where one
    of them has none."""
    old, new = (one.figures["graded"]["scores"]["spearman"] for one in (before, after))
    if old is None or new is None:
        return None
    drawn = np.asarray(after.resampled) - np.asarray(before.resampled)
    found = with_draws(new["value"] - old["value"], drawn, new["n"])
    if found is None:
        return None
    return {"against": before.policy.name, "difference": found["value"], "low": found["low"], "high": found["high"]}


def _sampled(loop: Inference, suite: GradedSuite, items: Sequence[Prompt], judged: Policy) -> _Answers:
    """So many responses an item, and what the checker says of them: a truncated one is wrong. An item's equal texts are
    checked once."""
    prompts = rendered_items(loop, suite, items, judged)
    label = f"{suite.name}: answers of {judged.name}"
    drawn = draw_by_group(loop, suite, items, prompts, judged, label, suite.samples)
    responses = [one for item in items for one in drawn.get(item.id, ())]
    references = {item.id: str(item.answer) for item in items}
    whole = dict.fromkeys((one.prompt_id, one.text) for one in responses if one.finish != "length")
    found: dict[tuple[str, str], Verdict] = {}
    if suite.checker == "exact_match":
        for id, text in whole:
            found[id, text] = float(exact_match(text, references[id], suite.normalize)), None
    else:
        rows = {
            key: {"prompt_id": f"{key[0]}|{place}", "text": key[1], "answer": references[key[0]]}
            for place, key in enumerate(whole)
        }
        verdicts = verified(loop, "math", list(rows.values()), {}, f"check {label}")
        found = {key: verdicts[row["prompt_id"]][:2] for key, row in rows.items()}
    gold = [(0.0, None) if one.finish == "length" else found[one.prompt_id, one.text] for one in responses]
    too_long = [item.id for item in items if item.id not in drawn]
    return _Answers({prompt.id: prompt for prompt in prompts}, responses, gold, too_long)


def _given(loaded: Loaded, judged: Policy) -> _Answers:
    """The data's responses as token ids of the judged model, with their scores."""
    tokenizer, items = load_tokenizer(judged), {item.id: item for item in loaded.items}
    prompts: dict[str, RenderedPrompt] = {}
    responses: list[Response] = []
    gold: list[Verdict] = []
    count = Counter[str]()
    for one in loaded.scored:
        if one.prompt_id not in items:  # beyond the limit
            continue
        item = items[one.prompt_id]
        asked, ids = render_example(tokenizer, list(item.messages), one.text)
        prompts[item.id] = RenderedPrompt(item.id, tuple(asked), content(item))
        responses.append(Response(item.id, count[item.id], tuple(ids), "stop", one.text))
        gold.append((one.score, None))
        count[item.id] += 1
    return _Answers(prompts, responses, gold)


def _likelihoods(
    loop: Inference, suite: GradedSuite, answers: _Answers, judged: Policy
) -> tuple[list[float | None], list[int]]:
    """(summed log-probability in nats, tokens) of each response under the judged model; None where it is too long."""
    room = context_tokens(judged.base)
    by_prompt: dict[str, list[Response]] = {}
    for one in answers.responses:
        if len(answers.prompts[one.prompt_id].prompt_ids) + len(one.ids) <= room:
            by_prompt.setdefault(one.prompt_id, []).append(one)
    if not by_prompt:
        return [None] * len(answers.responses), [1] * len(answers.responses)
    asked = Responses({id: answers.prompts[id] for id in by_prompt}, by_prompt)
    found = loop.log_probs(asked, judged, f"{suite.name}: likelihood under {judged.name}")
    keys = [(one.prompt_id, one.index) for one in answers.responses]
    return [found.summed.get(key) for key in keys], [found.tokens.get(key, 1) for key in keys]


def _asked(
    loop: Inference, suite: GradedSuite, items: Sequence[Prompt], responses: Sequence[Response], judge: Judge
) -> tuple[Asked, list[Verdict]]:
    """What the judge says of each response; an item's equal texts are asked about once."""
    by_id = {item.id: item for item in items}
    questions: dict[str, list[Message]] = {}
    asked_as: dict[tuple[str, str], str] = {}
    for one in responses:
        key = (one.prompt_id, one.text)
        if key in asked_as:
            continue
        item = by_id[one.prompt_id]
        values = {"instruction": content(item), "response": one.text}
        if suite.reference:
            values["reference"] = item.references[0] if item.references else str(item.answer)
        asked_as[key] = f"{one.prompt_id}|{one.index}"
        questions[asked_as[key]] = judge.rubric.messages(values, "reference" if suite.reference else "")
    asked = ask_judge(loop, judge, questions, f"{suite.name} judge")
    return asked, [asked.verdicts[asked_as[one.prompt_id, one.text]] for one in responses]
