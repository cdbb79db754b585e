"""The sampler behind any server that speaks OpenAI's completions protocol and gives token ids back.

A prompt goes out as token ids and the response's ids come back as they were sampled: nothing is tokenised twice. A
server that gives none is refused before anything but one token is paid. The requests run in one asyncio loop, so that
an error or Ctrl-C ends all of them, and their waits, at once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfimprove.artefacts import digest_of
from selfimprove.errors import InputError
from selfimprove.models.journal import Journal
from selfimprove.models.loading import verify_policy
from selfimprove.models.policy import Policy
from selfimprove.models.server import TOKEN_IDS_NEEDED, Server, Trouble, run_async
from selfimprove.sampling.sampler import Decoding, Request, Sampled

__all__ = ["OpenAISampler", "Server"]

Finish = Callable[[str, str, list[Sampled]], None]


class OpenAISampler:
    """See the module. The server is taken to serve `served`, on trust: the gate `sampler_agrees` tells if it does not.

    Finished answers are kept in `journal` at once, and a request found there is not asked again.
    """

    name = "openai"

    def __init__(
        self, server: Server, served: Policy, journal: Path | None = None, needs_log_probs: bool = True
    ) -> None:
        if find_spec("openai") is None:
            raise InputError("sampling.backend: 'openai' needs the openai client: pip install openai")
        server.key()  # said now if it is missing
        self._server, self._served, self._journal = server, served, Journal(journal)
        self._policy, self._model = served, server.model
        self._answers_as: dict[str, str] = {}  # by the model asked for: its name in the server's answers
        self._needs_log_probs, self._gives_log_probs = needs_log_probs, False

    def set_weights(self, policy: Policy, model: Any = None) -> None:
        """A LoRA adapter on the served base is loaded into a vLLM server that takes adapters; other new weights are an
        `InputError`. vLLM on the CPU (0.32) mixes up an adapter and its base when both are asked at a time."""
        weights, served = ((p.base_digest, p.adapter_digest) for p in (policy, self._served))
        model = self._server.model
        if weights != served:
            model = policy.digest[:16]  # no two adapters share a name, nor what the server caches under it
            if policy.adapter is None or policy.base_digest != self._served.base_digest or self._served.adapter:
                raise InputError(self._cannot_take(policy, "it takes only adapters on the very base that it serves"))
            verify_policy(policy)
            run_async(self._load_adapter(policy, model))
        self._policy, self._model = policy, model

    def check(self, requests: Sequence[Request], decoding: Decoding) -> None:
        """Asks for one token: whether the server is there, serves the model, has room for the longest of `requests`
        and gives token ids. `sample` does this itself; call it where hours of training would come before."""

        async def alone() -> None:
            async with self._server.connect() as client:
                await self._check(client, requests, decoding)

        run_async(alone())

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        # The name and the policy both: after either was wrong and is mended, nothing of before is taken.
        keys = [digest_of([self._model, self._policy.digest, asdict(r), asdict(decoding)]) for r in requests]
        wanted = dict(zip(keys, requests, strict=True))
        kept = self._journal.read()
        earlier = {kept[key].model for key in wanted if key in kept}
        answers = {key: [Sampled(**one) for one in kept[key].responses] for key in wanted if key in kept}
        advance(sum(request.n for key, request in zip(keys, requests, strict=True) if key in answers))

        def finish(key: str, answered_as: str, responses: list[Sampled]) -> None:
            self._journal.add(key, answered_as, [asdict(response) for response in responses])
            answers[key] = responses
            advance(keys.count(key) * wanted[key].n)

        if missing := {key: request for key, request in wanted.items() if key not in answers}:
            try:
                run_async(self._fetch(missing, decoding, finish, earlier))
            except Trouble as trouble:
                done = sum(key in answers for key in keys)
                state = f"{done} of {len(keys)} requests are done{self._journal.kept}"
                raise self._server.explain(trouble, state) from None
        # Greedy responses are equal, and vLLM refuses n > 1 for them: one was asked for.
        copies = [request.n if decoding.temperature == 0 else 1 for request in requests]
        return [[*answers[key] * count] for key, count in zip(keys, copies, strict=True)]

    # ---- what is asked

    async def _fetch(
        self, missing: Mapping[str, Request], decoding: Decoding, finish: Finish, earlier: set[str]
    ) -> None:
        """Asks for all of `missing`; the first failure ends the others. `earlier`: models of the journal's answers."""
        free = asyncio.Semaphore(self._server.concurrency)

        async def one(client: Any, key: str, request: Request) -> None:
            async with free:
                responses = await self._ask(client, request, decoding)
            finish(key, self._answers_as[self._model], responses)

        async with self._server.connect() as client:
            await self._check(client, list(missing.values()), decoding)
            if others := earlier - {self._answers_as[self._model]}:
                raise Trouble(f"answers as model {self._answers_as[self._model]!r}, earlier ones were {sorted(others)}")
            try:
                async with asyncio.TaskGroup() as group:
                    for key, request in missing.items():
                        group.create_task(one(client, key, request))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _check(self, client: Any, requests: Sequence[Request], decoding: Decoding) -> None:
        """See `check`. A model is asked for a token once, its room is looked at always."""
        try:
            cards = await self._models(client)
            room = cards[self._server.model].get("max_model_len")
            longest = max(len(request.prompt_ids) for request in requests)
            if isinstance(room, int) and longest + decoding.max_new_tokens > room:
                # vLLM would not refuse but cut the responses short.
                raise InputError(
                    f"sampling.server: {self._server.base_url} has room for {room} tokens (--max-model-len), and the "
                    f"longest prompt's {longest} and sampling.max_new_tokens {decoding.max_new_tokens} are more; lower "
                    "that, drop long prompts, or start the server with more"
                )
            if self._model not in self._answers_as:
                await self._ask(client, replace(requests[0], n=1), replace(decoding, max_new_tokens=1))
                if self._needs_log_probs and not self._gives_log_probs:
                    raise InputError(
                        f"sampling.server: {self._server.base_url} gives no log-probs, and nothing else tells whether "
                        "it serves these very weights. `gates.disabled=[sampler_agrees]` samples from it all the same"
                    )
        except Trouble as trouble:
            raise self._server.explain(trouble, "nothing was sampled yet", first=True) from None

    async def _ask(self, client: Any, request: Request, decoding: Decoding) -> list[Sampled]:
        """The responses of one request; an answer that cannot be read is asked for again."""
        if decoding.temperature == 0:
            request = replace(request, n=1)
        body = {
            "model": self._model,
            "prompt": list(request.prompt_ids),
            "n": request.n,
            "seed": request.seed,  # vLLM gives response i seed + i
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "stop_token_ids": list(decoding.stop_ids),
            "ignore_eos": True,  # `stop_ids` alone end a response
            "logprobs": 0,  # of the sampled tokens alone
            "return_token_ids": True,
            # What is not said here, vLLM takes from the model's generation_config.json.
            **{"top_k": decoding.top_k or -1, "min_p": decoding.min_p},
            **{"repetition_penalty": decoding.repetition_penalty, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        }
        if decoding.stop:
            body |= {"stop": list(decoding.stop), "include_stop_str_in_output": True}
        attempt = 0
        while True:
            try:
                return self._read(await self._server.send(client, "/completions", body), request, decoding)
            except Trouble as trouble:
                if not trouble.garbled or attempt >= self._server.retries:
                    raise
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt) * random.uniform(0.75, 1))
            attempt += 1

    async def _models(self, client: Any) -> dict[str, Any]:
        """What the server says of its models, by name; ours is among them."""
        answer = await self._server.send(client, "/models")
        cards = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
            raise Trouble(f"lists no models at /models: {self._server.line(answer)}", 404)
        by_name = {str(card.get("id")): card for card in cards}
        if self._server.model not in by_name:
            raise InputError(
                f"sampling.server.model: {self._server.base_url} does not serve {self._server.model!r}; "
                f"it serves {self._server.line(', '.join(by_name))}"
            )
        return by_name

    async def _load_adapter(self, policy: Policy, name: str) -> None:
        body = {"lora_name": name, "lora_path": str(Path(policy.adapter or "").absolute())}
        async with self._server.connect() as client:
            try:
                if name in await self._models(client):
                    return
                # vLLM refuses an adapter with 500, which would be repeated for nothing.
                await self._server.send(client.with_options(max_retries=0), "/load_lora_adapter", body)
            except Trouble as trouble:
                if "already been loaded" in str(trouble):  # by another process, a moment ago
                    return
                if trouble.status in (401, 403) or (trouble.passing and trouble.status != 500):
                    state = f"the adapter of {policy.name} is not loaded"
                    raise self._server.explain(trouble, state, first=True) from None
                raise InputError(self._cannot_take(policy, str(trouble))) from None

    def _cannot_take(self, policy: Policy, why: str) -> str:
        return (
            f"sampling.server: {self._server.base_url} serves {self._served.name} and cannot take the weights of "
            f"{policy.name} ({why}). With training.lora, start vLLM with --enable-lora, --max-lora-rank and the "
            "environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it sees this file system; else set "
            "sampling.backend to vllm or transformers"
        )

    # ---- what comes back

    def _read(self, answer: Any, request: Request, decoding: Decoding) -> list[Sampled]:
        """The responses in an answer, checked one by one: they will be trained on."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices:
            raise Trouble(f"answered without choices: {self._server.line(answer)}", garbled=True)
        by_index = {str(choice.get("index")): choice for choice in choices if isinstance(choice, dict)}
        if len(choices) != request.n or set(by_index) != set(map(str, range(request.n))):
            raise Trouble(f"gave choices {list(by_index)[:20]} where {request.n} were asked for", garbled=True)
        # A server may have another name for its model, but always that one, and for an adapter none but ours.
        ours = self._model if self._model != self._server.model else answer.get("model")
        expected = self._answers_as.get(self._model, ours)
        if not isinstance(expected, str) or answer.get("model") != expected:
            named = self._server.line(answer.get("model"))
            raise Trouble(f"answered as model {named} and not as {expected}: it may serve something else now")
        responses = [self._sampled(by_index[str(i)], request, decoding) for i in range(request.n)]
        self._answers_as[self._model] = expected
        return responses

    def _sampled(self, choice: dict[str, Any], request: Request, decoding: Decoding) -> Sampled:
        ids, finish, most = choice.get("token_ids"), choice.get("finish_reason"), decoding.max_new_tokens
        if ids is None:
            raise InputError(f"sampling.server: {self._server.base_url} gives no token ids; {TOKEN_IDS_NEEDED}")
        if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
            raise Trouble(f"gave token ids that are none: {self._server.line(ids)}")
        if choice.get("prompt_token_ids") not in (None, list(request.prompt_ids)):
            raise Trouble("changed the prompt's token ids, so that its samples are of another prompt")
        log_probs = self._log_probs(choice.get("logprobs"), len(ids))
        if finish == "stop":
            if not ids or ids[-1] not in decoding.stop_ids:  # vLLM keeps the stop token; others may not
                reason = choice.get("stop_reason")
                if reason in decoding.stop and ids:
                    return Sampled(ids, finish, None if log_probs is None else math.fsum(log_probs), log_probs)
                if type(reason) is not int or reason not in decoding.stop_ids:
                    said = f"stopped at {self._server.line(reason)} after the ids {ids[-3:]}"
                    raise Trouble(f"{said}, and only {list(decoding.stop_ids)} end a turn: it has stops of its own")
                ids, log_probs = [*ids, reason], None  # the log-prob of that token is not known
        elif finish != "length":
            raise Trouble(f"ended a response for the reason {self._server.line(finish)}, neither stop nor length")
        elif len(ids) != most:
            raise Trouble(f"cut a response at {len(ids)} tokens where {most} were asked for; raise --max-model-len")
        if len(ids) > most:
            raise Trouble(f"gave {len(ids)} tokens where {most} were asked for")
        return Sampled(ids, finish, None if log_probs is None else math.fsum(log_probs), log_probs)

    def _log_probs(self, given: Any, tokens: int) -> list[float] | None:
        """The tokens' log-probs (nats), None where the server gives none. vLLM's are at temperature 1, unless it
        was started with another --logprobs-mode, which the gate `sampler_agrees` finds."""
        values = given.get("token_logprobs") if isinstance(given, dict) else None
        if values is None:
            return None
        if not isinstance(values, list) or not all(type(p) in (int, float) and math.isfinite(p) for p in values):
            raise Trouble(f"gave log-probs that are no finite numbers: {self._server.line(values)}")
        if len(values) != tokens:
            raise Trouble(f"gave {len(values)} log-probs for {tokens} tokens")
        self._gives_log_probs = True
        return [float(value) for value in values]
