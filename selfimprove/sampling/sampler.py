"""Samplers: token ids in, token ids out. Every backend keeps the same contract, so methods never name one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfimprove.errors import RunFailed
from selfimprove.models.policy import Policy


@dataclass(frozen=True)
class Request:
    """One prompt and its n responses. The seed of response i is `seed` + i."""

    prompt_ids: tuple[int, ...]
    n: int
    seed: int


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn. `temperature` 0 is greedy. `stop_ids` end a response and are kept as its last id. `top_k`
    and `min_p` of 0, and a `repetition_penalty` of 1, are off; see `shaping.py`. `stop`: texts that end a response too;
    the tokens that made them stay in its ids."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Decoding:
        """From a sample step's options, which have what is off left out."""
        named = {name: options[name] for name in ("top_k", "min_p", "repetition_penalty") if name in options}
        return cls(
            options["temperature"],
            options["top_p"],
            options["max_new_tokens"],
            tuple(options["stop_ids"]),
            stop=tuple(options.get("stop", ())),
            **named,
        )


@dataclass(frozen=True)
class Sampled:
    """One response: `finish` is "stop" (ended its turn) or "length" (cut off: no end-of-turn token is there).

    `log_prob` is the sum over the response's tokens (nats) under the policy itself (temperature 1, no top-p),
    None where the backend does not give it. `log_probs` are its parts, one a token.
    """

    ids: list[int]
    finish: str
    log_prob: float | None
    log_probs: list[float] | None = None


class Sampler(Protocol):
    """What every backend offers."""

    name: str

    def set_weights(self, policy: Policy, model: Any = None) -> None:
        """Makes `policy` the one that is sampled from.

        `model`: the policy as it stands in this process's memory while it is trained, in evaluation mode. The
        transformers sampler samples from it, whatever the policy's folder holds; vLLM reads the folder and checks
        itself against the model.
        """

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        """n responses for each request, in order. `advance` is told of finished responses."""


def require_sampled(name: str, requests: Sequence[Request], decoding: Decoding, sampled: Any) -> None:
    """RunFailed where a sampler gave back something else than what it was asked for."""
    asked = [request.n for request in requests]
    found = [len(responses) for responses in sampled]
    if found != asked:
        raise RunFailed(
            f"sampler {name}: was asked for {sum(asked)} responses to {len(asked)} prompts and gave {sum(found)} to "
            f"{len(found)}: `n` for each request, in their order"
        )
    for one in (one for responses in sampled for one in responses):
        if one.finish not in ("stop", "length") or len(one.ids) > decoding.max_new_tokens:
            raise RunFailed(
                f"sampler {name}: a response of {len(one.ids)} tokens, of {decoding.max_new_tokens} allowed, with "
                f"finish {one.finish!r}; a finish is 'stop' (the turn was ended) or 'length'"
            )


def response_seed(run_seed: int, step_key: str, update: int, prompt_id: str, attempt: int = 0) -> int:
    """Seed of a request: H(run seed, step key, update number, prompt id, attempt), 62 bits.

    A retry and the next update draw new noise, and no two prompts share theirs.
    """
    text = f"{run_seed}|{step_key}|{update}|{prompt_id}|{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 2
