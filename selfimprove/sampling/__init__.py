"""Samplers: token ids in, token ids out. Every backend keeps the same contract, so methods never name one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from selfimprove.errors import InputError
from selfimprove.policy import Policy


@dataclass(frozen=True)
class Request:
    """One prompt and its n responses. The seed of response i is `seed` + i."""

    prompt_ids: tuple[int, ...]
    n: int
    seed: int


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn. `temperature` 0 is greedy. `stop_ids` end a response and are kept as its last id."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """One response: `finish` is "stop" (ended its turn) or "length" (cut off: no end-of-turn token is there).

    `log_prob` is the sum over the response's tokens (nats) under the policy itself (temperature 1, no top-p),
    None where the backend does not give it.
    """

    ids: list[int]
    finish: str
    log_prob: float | None


class Sampler(Protocol):
    """What every backend offers."""

    name: str

    def set_weights(self, policy: Policy) -> None:
        """Makes `policy` the one that is sampled from."""

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        """n responses for each request, in order. `advance` is told of finished responses."""


def response_seed(run_seed: int, step_key: str, update: int, prompt_id: str, attempt: int = 0) -> int:
    """Seed of a request: H(run seed, step key, update number, prompt id, attempt), 62 bits.

    A retry and the next update draw new noise, and no two prompts share theirs.
    """
    text = f"{run_seed}|{step_key}|{update}|{prompt_id}|{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 2


def choose_backend(wanted: str) -> str:
    """The backend that `sampling.backend` means on this machine."""
    if wanted in ("auto", "transformers"):
        # `auto` will mean vLLM where it is installed once the project has a vLLM sampler.
        return "transformers"
    state = "is installed, but" if wanted == "vllm" and find_spec("vllm") else "is not usable:"
    raise InputError(
        f"sampling.backend: {wanted!r} {state} this version has only the 'transformers' sampler; "
        "set sampling.backend to auto or transformers"
    )


def make_sampler(backend: str, dtype: Any, device: str, batch_tokens: int) -> Sampler:
    """The sampler of a backend that `choose_backend` returned."""
    from selfimprove.sampling.transformers import TransformersSampler

    if backend != "transformers":
        raise InputError(f"sampling.backend: unknown backend {backend!r}")
    return TransformersSampler(dtype=dtype, device=device, batch_tokens=batch_tokens)
