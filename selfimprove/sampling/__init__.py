"""Samplers: token ids in, token ids out. Every backend keeps the same contract, so methods never name one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def response_seed(run_seed: int, step_key: str, update: int, prompt_id: str, attempt: int = 0) -> int:
    """Seed of a request: H(run seed, step key, update number, prompt id, attempt), 62 bits.

    A retry and the next update draw new noise, and no two prompts share theirs.
    """
    text = f"{run_seed}|{step_key}|{update}|{prompt_id}|{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 2


# What vLLM 0.32's attention on the CPU has kernels for (`get_supported_head_sizes`).
_CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def beyond_vllm(base: Path, device: str) -> str | None:
    """Why vLLM does not run the model of this folder on the CPU, as its configuration has it; None where it may."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        heads = config.get("num_attention_heads") or config.get("n_head")
        size = config.get("head_dim") or (config.get("hidden_size") or config.get("n_embd")) // heads
        layers = set(config.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    except (OSError, ValueError, TypeError, AttributeError, ZeroDivisionError):
        return None  # whoever loads it says what is wrong
    if device != "cpu":
        return None
    if layers:
        return f"vLLM on the CPU has not been tried with layers of kind {', '.join(sorted(layers))}"
    return None if size in _CPU_HEADS else f"vLLM on the CPU has no attention for heads of size {size}"


def choose_backend(
    wanted: str, device: str, before: str | None = None, base: Path | None = None
) -> tuple[str, str | None]:
    """The backend that `sampling.backend` means on this machine, and what a person should be told of the choice.

    `auto` takes vLLM where a tested version works for the device and for the model in the folder `base`, else
    `transformers`; a run that is gone on with keeps the backend it was `before`, since another one would draw other
    responses.
    """
    if wanted in ("transformers", "openai") or (wanted == "auto" and before in ("transformers", "openai")):
        return (before if wanted == "auto" and before else wanted), None
    from selfimprove.sampling.vllm import installed

    vllm = installed(device)
    if wanted == "vllm" or before == "vllm":
        if vllm.problem:
            kept = "" if wanted == "vllm" else " (this run began with it)"
            raise InputError(
                f"sampling.backend: vllm{kept} cannot be used: {vllm.problem}; or set sampling.backend=transformers"
            )
        return "vllm", vllm.untested
    if vllm.problem or vllm.untested:
        # Not having it is nobody's mistake; having it and not getting it should be explained.
        return "transformers", f"sampling with transformers: {vllm.problem or vllm.untested}" if vllm.version else None
    if base and (why := beyond_vllm(base, device)):
        return "transformers", f"sampling with transformers: {why}"
    return "vllm", None


def make_sampler(options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> Sampler:
    """The sampler of a sample step: its `options` and `execution` as the loop wrote them, and the step's folder."""
    from selfimprove.policy import Policy, pick_device, pick_dtype

    device = pick_device(execution["device"])
    backend = options["backend"]
    if backend == "vllm":
        from selfimprove.sampling.vllm import VllmSampler

        return VllmSampler(options["dtype"], device, log=folder.parent / "engine.log", **execution["vllm"])
    if backend == "openai":
        from selfimprove.sampling.openai import OpenAISampler
        from selfimprove.sampling.server import Server

        served = Policy(**execution["served_policy"])
        needs = execution["needs_log_probs"]
        return OpenAISampler(Server(**execution["server"]), served, folder / "journal.jsonl", needs)
    if backend != "transformers":
        raise InputError(f"sampling.backend: unknown backend {backend!r}")
    from selfimprove.sampling.transformers import TransformersSampler

    return TransformersSampler(pick_dtype(options["dtype"], device), device, execution["batch_tokens"])


def close_engine() -> None:
    """Ends the vLLM engine, if this process ever had one."""
    if vllm := sys.modules.get("selfimprove.sampling.vllm"):
        vllm.ENGINE.close()
