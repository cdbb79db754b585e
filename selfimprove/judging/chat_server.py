"""A judge behind any server that speaks OpenAI's chat protocol: questions in, answers and their first token's
log-probs out.

Every answer is in the journal the moment it came, and in that of all judgements (`paid`), which other steps, runs and
folders read before they ask: nothing paid for is asked again. What the server refuses for
what it was asked (400: too long, filtered) is a missing answer with a reason, unless it answers nothing at all.

What may pass (no connection, time-out, 429, 5xx, an answer that is none) is asked again with back-off, and the other
questions meanwhile. If some are without an answer at the end, or more than a tenth before, the step ends with an error
and is not finished: a hiccup must not leave holes in a result that is kept for ever. The next start asks for those
alone. One that fails again, while the server is there and does not just ask for patience (429), is the question's own
fault and missing, so that it cannot block the step for ever.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfimprove.artefacts import digest_of
from selfimprove.models.chat import Message
from selfimprove.models.journal import Journal
from selfimprove.models.server import Server, Trouble, run_async

# What newer models or smaller servers refuse by a 400 that names it: asked for otherwise, or not at all.
_OPTIONAL = ("max_completion_tokens", "logprobs", "temperature")
_REFUSED = (400, 413, 422)
# So many refusals and not one answer: it is not the questions.
_REFUSALS = 8
# Of the questions, more than this share (and more than one) without an answer: it is not the questions.
_UNANSWERED = 0.1
# The client waits for so long at most where the server sends Retry-After.
_PATIENCE = 120.0
_NO_ANSWER = {
    "text": "", "log_probs": None, "missing": None, "model": "", "input_tokens": 0, "output_tokens": 0,
    "cut": False,
}  # fmt: skip


class ChatServer:
    """Asks `server`; see the module. `log_probs`: how many of the likeliest first tokens are wanted, 0 for none.
    `paid`: the answers that others had of this judge, to which its own are added."""

    def __init__(
        self, server: Server, max_new_tokens: int, log_probs: int, journal: Journal, paid: Journal | None = None
    ) -> None:
        self._server, self._journal, self._paid = server, journal, paid or Journal(None)
        self._options: Mapping[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0.0}
        if log_probs:
            self._options = {**self._options, "logprobs": True, "top_logprobs": log_probs}
        self._asked_for = self._options  # what stays the same in a question's key, whatever the server refuses
        self._accepted: set[tuple[str, Any]] = set()
        self._answers_as: str | None = None
        self._answered = self._heard = 0  # in all starts, in this one

    def ask(self, questions: Sequence[Sequence[Message]], advance: Callable[[int], None]) -> list[dict[str, Any]]:
        """One row for each question, in order: `text`, `log_probs` (JSON of {token: nats}, or None), `missing` (a
        reason, or None), `model` (as the server names it), `input_tokens` and `output_tokens` as the server counts,
        `cut` (whether the length limit ended the answer).

        Raises InputError where the server refuses everything, RunFailed where it leaves questions without an answer.
        """
        keys = [digest_of([self._server.model, [dict(turn) for turn in q], self._asked_for]) for q in questions]
        wanted, count = dict(zip(keys, questions, strict=True)), Counter(keys)
        kept = self._paid.read() | self._journal.read()
        found = {key: kept[key].responses[0] for key in wanted if key in kept}
        failed_before = {key for key in wanted if f"{key} failed" in kept}
        self._answers_as = next((row["model"] for row in found.values()), None)
        self._answered, self._heard = len(found), 0
        advance(sum(count[key] for key in found))
        # What failed before comes last, so that it cannot keep the others from being asked.
        left = {key: wanted[key] for key in sorted(wanted, key=failed_before.__contains__) if key not in found}
        lost: dict[str, Trouble] = {}

        def finish(key: str, row: dict[str, Any]) -> None:
            self._journal.add(key, row["model"], [row])
            self._paid.add(key, row["model"], [row])
            found[key] = row
            advance(count[key])

        try:
            if left:
                run_async(self._fetch(left, finish, lost, max(1, int(_UNANSWERED * len(wanted)))))
            for key, trouble in lost.items():
                if not self._answered or (trouble.passing and (key not in failed_before or trouble.status == 429)):
                    raise trouble
        except Trouble as trouble:
            state = f"{len(found)} of {len(wanted)} questions are answered{self._journal.kept}"
            if found:
                state += "; only the others are asked again"
                state += ", and one that fails again is then missing" if trouble.passing else ""
            strange = f"see whether it knows the model {self._server.model!r} and chat completions"
            raise self._server.explain(trouble, state, first=not self._answered, strange=strange) from None
        advance(sum(count[key] for key in lost))
        return [found.get(key) or _NO_ANSWER | {"missing": _reason(lost[key])} for key in keys]

    async def _fetch(
        self, left: dict[str, Any], finish: Callable[[str, dict[str, Any]], None], lost: dict[str, Trouble], most: int
    ) -> None:
        free = asyncio.Semaphore(self._server.concurrency)
        stopped: list[Trouble] = []

        async def one(client: Any, key: str, question: Sequence[Message]) -> None:
            async with free:
                if stopped:  # those under way are waited for all the same: they are paid for
                    return
                try:
                    row = await self._answer(client, question)
                except Trouble as trouble:
                    if trouble.passing:
                        self._journal.add(f"{key} failed", "", [])
                    if trouble.passing or trouble.status in _REFUSED:
                        lost[key] = trouble
                    if key not in lost or await self._is_hopeless(client, lost, most):
                        stopped.append(trouble)
                    return
            finish(key, row)

        async with self._server.connect() as client:
            waiting = list(left.items())  # alone at first: what the server refuses is found out once, and cheaply
            while waiting and not (self._heard or stopped or any(trouble.passing for trouble in lost.values())):
                await one(client, *waiting.pop(0))
            try:
                async with asyncio.TaskGroup() as group:
                    for key, question in waiting:
                        group.create_task(one(client, key, question))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            failed = [trouble for trouble in lost.values() if trouble.passing]
            if failed and not stopped and not await self._is_there(client):
                stopped.append(failed[0])
        if stopped:
            raise stopped[0]

    async def _is_hopeless(self, client: Any, lost: dict[str, Trouble], most: int) -> bool:
        """Whether to ask for nothing more: what went wrong so far is not the questions' fault."""
        failed = sum(trouble.passing for trouble in lost.values())
        if failed > most or (not self._answered and (failed > 1 or len(lost) >= _REFUSALS)):
            return True
        return bool(failed) and not self._heard and not await self._is_there(client)

    async def _is_there(self, client: Any) -> bool:
        """Whether the server answers a question that costs nothing, be it that it does not know it."""
        try:
            async with asyncio.timeout(min(30.0, self._server.timeout_s)):
                await self._server.send(client.with_options(max_retries=0), "/models")
            return True
        except (TimeoutError, Trouble) as error:
            return isinstance(error, Trouble) and not error.passing

    async def _answer(self, client: Any, question: Sequence[Message]) -> dict[str, Any]:
        # The client's own time-out begins anew with every byte: a server that drips them would never end.
        longest = self._server.timeout_s * (self._server.retries + 1) + _PATIENCE * self._server.retries
        attempt = 0
        while True:
            options = self._options
            body = {"model": self._server.model, "messages": [dict(turn) for turn in question], **options}
            try:
                async with asyncio.timeout(longest):
                    answer = await self._server.send(client, "/chat/completions", body)
                row = self._read(answer)
                self._answered += 1
                self._heard += 1
                self._accepted |= options.items()
                return row
            except TimeoutError:
                raise Trouble(f"did not answer within {self._server.timeout_s:g} s", None) from None
            except Trouble as trouble:
                if trouble.status in _REFUSED:
                    if self._without(str(trouble), options):
                        continue
                    if not self._accepted:
                        self._options = self._asked_for  # giving up options did not help
                    raise
                if not trouble.garbled or attempt >= self._server.retries:
                    raise
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt) * random.uniform(0.75, 1))
            attempt += 1

    def _without(self, said: str, options: Mapping[str, Any]) -> bool:
        """Gives up the option that a refusal names; whether to ask again. One that was accepted before stays: a server
        may quote a question that speaks of the temperature."""
        name = next((name for name in _OPTIONAL if name in said), None)
        if name is None:
            return False
        if options != self._options:
            return True  # another question found it out meanwhile
        old = {"max_completion_tokens": "max_tokens", "logprobs": "top_logprobs"}.get(name, name)
        if old not in options or (old, options[old]) in self._accepted:
            return False
        kept = {key: value for key, value in options.items() if key not in (old, name)}
        if name == "max_completion_tokens":
            kept[name] = options[old]
        elif name == "logprobs":  # "of 20, which is greater than max allowed: 5"
            fewer = [number for number in map(int, re.findall(r"\b\d\d?\b", said)) if 0 < number < options[old]]
            kept |= {name: True, old: max(fewer)} if fewer else {}
        self._options = kept
        return True

    def _read(self, answer: Any) -> dict[str, Any]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Trouble(f"answered without choices: {self._server.line(answer)}", garbled=True)
        message = choices[0].get("message")
        if not isinstance(message, dict):
            raise Trouble(f"answered without a message: {self._server.line(choices[0])}", garbled=True)
        model = self._clean(answer.get("model")) or self._server.model
        if self._answers_as not in (None, model):
            raise Trouble(
                f"answered as model {self._server.line(model)} and not as {self._answers_as}: it may serve "
                "something else now; raise the judge's `version` to judge everything by that one"
            )
        self._answers_as = model
        usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens = [count if type(count) is int and 0 <= count < 2**40 else 0 for count in counts]
        return {
            "text": self._clean(message.get("content")),
            "log_probs": self._first_token(choices[0].get("logprobs")),
            "missing": None,
            "model": model,
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
            "cut": choices[0].get("finish_reason") == "length",
        }

    def _first_token(self, given: Any) -> str | None:
        """The first token's likeliest ones as JSON; None where the server gives none, or numbers that are no
        log-probs: then none of them is to be trusted."""
        try:
            listed = [(self._clean(one["token"]), float(one["logprob"])) for one in given["content"][0]["top_logprobs"]]
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            return None
        if any(math.isnan(value) or value > 1e-6 for _, value in listed):
            return None
        found = {token: value for token, value in sorted(listed, key=lambda one: one[1]) if value > -math.inf}
        return json.dumps(found, sort_keys=True) if found else None

    def _clean(self, text: Any) -> str:
        """What the server wrote as text that can be kept: without the key, and without halves of characters."""
        if not isinstance(text, str):
            return ""
        if key := self._server.key():
            text = text.replace(key, "[key]")
        return text.encode(errors="replace").decode()


def _reason(trouble: Trouble) -> str:
    """Why an answer is missing, in the same words for all alike, so that they can be counted: words with digits (sizes,
    names of requests) are left out."""
    status = "" if trouble.status in (None, 200) else f" ({trouble.status})"
    said = re.sub(r"\S*\d\S*", "...", str(trouble).removeprefix(f"answered {trouble.status}: "))
    return f"the server {'refused it' if trouble.status in _REFUSED else 'gave no answer'}{status}: {said}"
