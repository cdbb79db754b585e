"""Which sampler a recipe means on this machine, and how it is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError
from selfimprove.models.policy import Policy
from selfimprove.sampling.sampler import Sampler

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
    from selfimprove.models.policy import pick_device, pick_dtype

    device = pick_device(execution["device"])
    backend = options["backend"]
    if backend == "vllm":
        from selfimprove.sampling.vllm import VllmSampler

        return VllmSampler(options["dtype"], device, log=folder.parent / "engine.log", **execution["vllm"])
    if backend == "openai":
        from selfimprove.models.server import Server
        from selfimprove.sampling.openai import OpenAISampler

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
