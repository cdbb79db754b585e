"""Asking a judge: a policy or a server reads questions, and what it answers is a verdict or missing with a reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import digest_of
from selfimprove.data.rows import Response, Responses
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.digits import DIGITS, digit_tokens
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.rubric import Rubric, load_rubric
from selfimprove.models.chat import Message, render_example
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import Prices, Reader
from selfimprove.steps.request import StepRequest

if TYPE_CHECKING:
    from selfimprove.inference import Inference, Written


_OWN = "its own model"


@dataclass(frozen=True)
class Judge:
    """A rubric and who reads it: `policy`, or else the server of `reader`."""

    rubric: Rubric
    reader: Reader
    policy: Policy | None

    @property
    def digest(self) -> str:
        """Of the rubric and its reader; of a server only its model's name and the recipe's `version` are known."""
        reader, server = self.reader, self.reader.server
        by = self.policy.digest if self.policy else [server and server.model, reader.version, reader.log_probs]
        return digest_of([self.rubric.digest, by])

    @property
    def name(self) -> str:
        """For people: `alpaca-eval by gpt-4-1106-preview`."""
        if self.policy and self.policy.name == _OWN:
            return self.rubric.name
        by = self.policy.name if self.policy else self.reader.server.model if self.reader.server else "nobody"
        return f"{self.rubric.name} by {by}"


@dataclass(frozen=True)
class Cost:
    """What asking took. Tokens as the server counts them, or as they were rendered; `cost` by the reader's prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    currency: str | None = None


@dataclass(frozen=True)
class Asked:
    """By question id: the verdict and the text that it was read from (empty where only labels were scored)."""

    verdicts: Mapping[str, Verdict]
    texts: Mapping[str, str]
    cost: Cost


def find_judge(loop: Inference, reader: Reader | None, rubric: str, policy: Policy | None = None) -> Judge:
    """The judge that a recipe or a suite names; a rubric with a model of its own is read by that, and by `policy` where
    no one is named. Nothing is asked yet.

    Raises InputError for a rubric, a policy or a server that is not to be had, and where nobody reads.
    """
    reader = reader or Reader()
    found = load_rubric(reader.rubric or rubric, loop.recipe.search_folders())
    if reader.server:
        reader.server.connection().key()  # said now if it is missing
        return Judge(found, reader, None)
    policy = named_reader(reader, found, "judge", loop.recipe.opening) or policy
    if policy is None:
        raise InputError(
            "judge: nobody reads the rubric; give a judge (`--judge`, or `judge:` in the suite): `model`, a policy "
            "that is read here, or `server`, with its base_url and model"
        )
    return Judge(found, reader, policy)


def rating_rubric(name: str, search: Sequence[Path], where: str) -> Rubric:
    """A rubric that rates one response. InputError, naming the recipe's key `where`, for one that is not there or
    compares two."""
    with under(where):
        rubric = load_rubric(name, search)
    if rubric.options.of != "one":
        raise InputError(f"{where}.rubric: {name} compares two responses; one that rates is needed")
    return rubric


def named_reader(reader: Reader, rubric: Rubric, where: str, opening: Opening = PLAIN) -> Policy | None:
    """The policy that a section (at the key `where`) names to read its rubric, or else the rubric's own; None where
    there is neither, or a server reads. InputError where it is not to be had, or has no tokens for digits."""
    if reader.model is not None:
        with under(where):
            policy = resolve_policy(reader.model, short_name(reader.model), opening)
    elif rubric.policy is None or reader.server is not None:
        return None
    else:
        try:
            policy = resolve_policy(rubric.policy, _OWN, opening)
        except InputError as error:
            raise InputError(f"{where}.rubric: the judge {rubric.name} cannot be read: {error}") from error
    if rubric.options.parser == "digits":
        digit_tokens(load_tokenizer(policy))
    return policy


@contextmanager
def under(where: str) -> Iterator[None]:
    """An InputError is said with the recipe's key that it is about: `where`, or `where.model` where it begins with
    `model: `; one that begins with `where`'s section has its key already."""
    try:
        yield
    except InputError as error:
        text = str(error)
        if text.startswith(where.partition(".")[0] + "."):
            raise
        part = text.startswith(("model: ", "rubric: "))
        raise InputError(f"{where}{'.' if part else ': '}{text}") from error


def short_name(model: str) -> str:
    """A model string as a name in tables: the end of a path."""
    return model.rstrip("/").split("/")[-1]


def ask_judge(loop: Inference, judge: Judge, questions: Mapping[str, Sequence[Message]], label: str = "judge") -> Asked:
    """Verdicts on all questions, in durable steps."""
    if judge.policy is None:
        return _by_server(loop, judge, questions, label)
    if judge.rubric.options.parser in ("labels", "digits"):
        return _by_first_tokens(loop, judge, judge.policy, questions, label)
    written = loop.ask(judge.policy, questions, judge.rubric.max_new_tokens, label)
    verdicts = {id: _parsed(judge.rubric, written.get(id)) for id in questions}
    tokens = [sum(counts) for counts in zip(*((w.prompt_tokens, w.tokens) for w in written.values()), strict=True)]
    return Asked(verdicts, {id: one.text for id, one in written.items()}, Cost(len(written), *tokens))


_TOO_LONG = "longer than the judge's context"


def _parsed(rubric: Rubric, one: Written | None) -> Verdict:
    return (None, _TOO_LONG) if one is None else rubric.parse(one.text, cut=one.cut)


def _by_first_tokens(
    loop: Inference, judge: Judge, policy: Policy, questions: Mapping[str, Sequence[Message]], label: str
) -> Asked:
    """The probabilities of the two labels, or of the ten digits, as the beginning of the policy's answer: what a server
    would list of its first token, without sampling anything. A label of several tokens counts as a whole."""
    tokenizer, labels = load_tokenizer(policy), judge.rubric.options.labels or tuple(DIGITS)
    probe: list[Message] = [{"role": "user", "content": "question"}]
    opening: tuple[int, ...] = ()
    if judge.rubric.options.labels:
        ids = [tuple(render_example(tokenizer, probe, one)[1][:-1]) for one in labels]  # without the end of turn
    else:
        opening, digits = digit_tokens(tokenizer)
        ids = [(digit,) for digit in digits]
    rendered = loop.rendered_for(policy, questions, len(opening) + max(map(len, ids)), label)
    rendered = [replace(prompt, prompt_ids=prompt.prompt_ids + opening) for prompt in rendered]
    by_prompt = {
        prompt.id: [
            Response(prompt.id, i, one, "stop", text) for i, (one, text) in enumerate(zip(ids, labels, strict=True))
        ]
        for prompt in rendered
    }
    verdicts: dict[str, Verdict] = dict.fromkeys(questions, (None, _TOO_LONG))
    if rendered:
        scored = loop.log_probs(Responses({p.id: p for p in rendered}, by_prompt), policy, f"{label} ({policy.name})")
        for id, responses in by_prompt.items():
            verdicts[id] = judge.rubric.parse("", {one.text: scored.of(one) for one in responses})
    read = sum(len(prompt.prompt_ids) for prompt in rendered)
    return Asked(verdicts, {}, Cost(requests=len(rendered), input_tokens=read))


def _by_server(loop: Inference, judge: Judge, questions: Mapping[str, Sequence[Message]], label: str) -> Asked:
    log_probs = judge.reader.log_probs if judge.rubric.options.parser in ("labels", "digits") else 0
    # Equal questions (an instruction that is there twice, with equal outputs) are asked and paid for once.
    written = {id: json.dumps([dict(turn) for turn in messages]) for id, messages in questions.items()}
    asked_as: dict[str, str] = {}
    for id, text in written.items():
        asked_as.setdefault(text, id)
    distinct = {id: questions[id] for id in asked_as.values()}
    rows = ask_server(loop, judge.reader, distinct, judge.rubric.max_new_tokens, log_probs, label)
    _require_same_model(loop, judge, {row["model"] for row in rows if row["model"]})
    found: dict[str, tuple[Verdict, str]] = {}
    for row in rows:
        listed = json.loads(row["log_probs"]) if log_probs and row["log_probs"] else None
        verdict = (
            (None, row["missing"])
            if row["missing"]
            else judge.rubric.parse(row["text"], listed, cut=bool(row.get("cut")))
        )
        found[row["prompt_id"]] = verdict, row["text"]
    plain = sum(not row["log_probs"] for row in rows if not row["missing"])
    if log_probs and plain:
        loop.note(
            f"{label}: {judge.name} gave no log-probs for {plain} of {len(rows)} questions; there the verdict is what "
            "it wrote, and not weighted"
        )
    tokens = [sum(row[name] for row in rows) for name in ("input_tokens", "output_tokens")]
    by_id = {id: found[asked_as[text]] for id, text in written.items()}
    return Asked(
        {id: verdict for id, (verdict, _) in by_id.items()},
        {id: text for id, (_, text) in by_id.items()},
        priced(Cost(len(rows), *tokens), judge.reader.prices),
    )


def _require_same_model(loop: Inference, judge: Judge, names: set[str]) -> None:
    """RunFailed where the server answered as one model for one policy and as another for the next."""
    known = loop.judges_answer_as.setdefault(judge.digest, set())
    known |= names
    if len(known) > 1:
        raise RunFailed(
            f"judge.server: this evaluation's answers are of several models, {', '.join(sorted(known))}, and cannot be "
            "compared; raise the judge's `version` to have all of them judged by the one that is served now"
        )


def priced(cost: Cost, prices: Prices | None) -> Cost:
    """The same with what it cost, where prices are known."""
    if prices is None:
        return cost
    paid = (cost.input_tokens * prices.input + cost.output_tokens * prices.output) / 1e6
    return replace(cost, cost=paid, currency=prices.currency)


def as_event(cost: Cost) -> dict[str, Any]:
    """The cost as an event's field."""
    return {name: getattr(cost, name) for name in Cost.__dataclass_fields__}


def ask_server(
    loop: Inference,
    judge: Reader,
    questions: Mapping[str, Sequence[Message]],
    new_tokens: int,
    log_probs: int,
    label: str,
) -> list[dict[str, Any]]:
    """Answers of the judge's server, one row for each question: see `judging/chat_server.py`."""
    assert judge.server is not None
    if not questions:
        return []
    artefact = loop.step(
        StepRequest(
            step="ask_server",
            label=f"{label} ({judge.server.model})",
            options={
                "model": judge.server.model,
                "judge_version": judge.version,
                "max_new_tokens": new_tokens,
                "log_probs": log_probs,
            },
            inputs={
                "questions": [
                    {"prompt_id": id, "messages": json.dumps([dict(turn) for turn in messages])}
                    for id, messages in questions.items()
                ]
            },
            policies={},
            seed=0,
            execution={"server": judge.server.model_dump(), "paid": str(_paid(loop, judge))},
        )
    )
    return artefact.rows()


def _paid(loop: Inference, judge: Reader) -> Path:
    """All answers of a served judge: in the recipe's `store`, else beside the runs (`runs/.judgements`), so that
    another limit, policy or folder finds them; in the run's own folder where nothing can be written beside it."""
    beside = Path(loop.recipe.store or Path(loop.recipe.output).absolute().parent)
    folder = beside if loop.recipe.store or os.access(beside, os.W_OK) else loop.store.folder
    model = judge.server.model if judge.server else ""
    name = re.sub(r"[^\w.-]+", "-", model)[-60:].strip("-.")
    return folder.absolute() / ".judgements" / f"{name}-{digest_of([model, judge.version])[:12]}.jsonl"
