"""A server that speaks OpenAI's protocol: where it is, how it is asked, and what is said of it when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from selfimprove.errors import InputError, RunFailed

TOKEN_IDS_NEEDED = (
    "training on a policy's own samples needs the token ids. vLLM (0.10.2 or newer) and SGLang (since July 2026) give "
    "them for the option `return_token_ids`; without such a server set sampling.backend to vllm or transformers"
)


class Trouble(Exception):
    """What a server did wrong. `status` is None where it did not answer; a `garbled` answer may come right."""

    def __init__(self, said: str, status: int | None = 200, garbled: bool = False) -> None:
        super().__init__(said)
        self.status, self.garbled = status, garbled

    @property
    def passing(self) -> bool:
        """Whether it is not the fault of what was asked, so that waiting may help."""
        return self.garbled or self.status in (None, 408, 409, 429) or self.status >= 500


@dataclass(frozen=True)
class Server:
    """Where the server is and how it is asked.

    `model` is the name it serves the policy under; `api_key_env` NAMES the environment variable with the key, which is
    itself in no file, message or repr. `timeout_s` (seconds) bounds the wait for one answer. `retries` follow what may
    pass (no connection, time-out, 408, 409, 429, 5xx, an answer that cannot be read), after 0.5 s doubling to 8 s with
    jitter, or after the server's Retry-After. `concurrency` requests are under way at a time. `where` is the recipe's
    key, for messages.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout_s: float = 600.0
    retries: int = 5
    concurrency: int = 16
    where: str = "sampling.server"

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.username or url.password or url.query:
            raise InputError(f"{self.where}.base_url: no place for a key; name its variable in api_key_env")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(f"{self.where}.base_url: {self.base_url!r} is not of the form http://host:port/v1")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # What stands there is not shown: it may be the key itself.
            raise InputError(f"{self.where}.api_key_env: give the NAME of an environment variable, not the key")
        if self.timeout_s <= 0 or self.retries < 0 or self.concurrency < 1:
            raise InputError(f"{self.where}: timeout_s and concurrency must be above 0, retries 0 or more")

    def key(self) -> str | None:
        """The key, None where the server wants none."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(
                f"{self.where}.api_key_env: the environment variable {self.api_key_env} "
                f"{'holds no usable key' if key else 'is not set'}; export it and run again"
            )
        return key

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """The client for `send`."""
        import openai

        async with openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.key() or "none",  # left out, the client would send OPENAI_API_KEY to whatever server this is
            timeout=openai.Timeout(self.timeout_s, connect=min(10.0, self.timeout_s)),
            max_retries=self.retries,
        ) as client:
            yield client

    async def send(self, client: Any, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON, or its text where it is none. The client retries what may pass; then `Trouble`."""
        import openai

        try:
            if body is None:
                return await client.get(path, cast_to=object)
            return await client.post(path, body=body, cast_to=object)
        except openai.APIStatusError as error:
            inner = error.body if isinstance(error.body, dict) else {}
            said = inner.get("message") or inner.get("detail") or error.response.text
            raise Trouble(f"answered {error.status_code}: {self.line(said)}", error.status_code) from None
        except openai.APITimeoutError:
            raise Trouble(f"did not answer within {self.timeout_s:g} s", None) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Trouble(f"cannot be reached ({self.line(str(cause) or type(cause).__name__)})", None) from None
        except (ValueError, RecursionError) as error:
            raise Trouble(f"answered with damaged JSON ({self.line(str(error))})", garbled=True) from None

    def line(self, value: Any) -> str:
        """The first line of what the server said, without the key and without what could steer a terminal."""
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        if key := self.key():
            text = text.replace(key, "[key]")
        first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        return "".join(c for c in first if c.isprintable())[:200]

    def explain(
        self, trouble: Trouble, state: str, first: bool = False, strange: str | None = None
    ) -> InputError | RunFailed:
        """The error for a person. `first`: nothing was asked before, so that a refusal is the recipe's fault.
        `strange`: what to think of where it does not know what it is asked for."""
        strange = strange or f"if it does not know an option: {TOKEN_IDS_NEEDED}"
        key = f"set {self.where}.api_key_env to the variable that holds the right key"
        by_status: dict[int | None, str] = {
            None: f"see whether it runs, and {self.where}'s base_url and timeout_s",
            400: strange,
            422: strange,
            401: key,
            403: key,
            404: f"see {self.where}'s base_url (it ends before /completions or /chat, mostly in /v1) and model",
            429: f"lower {self.where}.concurrency, or wait",
        }
        advice = by_status.get(trouble.status, "look into the server's log")
        refused = first and not trouble.passing and trouble.status != 200
        message = f"{self.where}: {self.base_url} {trouble}; {state}. Before you run it again: {advice}"
        return (InputError if refused else RunFailed)(message)


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, in a thread of its own where a loop already runs here (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def tracked() -> None:
        started.append((asyncio.get_running_loop(), asyncio.ensure_future(work)))
        await started[0][1]

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, tracked())
        try:
            future.result()
        except KeyboardInterrupt:
            for loop, task in started:
                loop.call_soon_threadsafe(task.cancel)
            raise
