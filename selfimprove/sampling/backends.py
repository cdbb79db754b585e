"""Which sampler a recipe means on this machine, and how it is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError
from selfimprove.models.policy import Policy
from selfimprove.registry import OURS, Code, code_at, find, load_code, said_with_place
from selfimprove.sampling.sampler import Sampler

_WHERE = "sampling.backend"
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
    meant = before if wanted == "auto" and before else wanted
    if meant not in ("auto", "vllm"):
        return meant, None
    from selfimprove.sampling.vllm import installed

    found = installed(device)
    if meant == "vllm":
        if found.problem:
            kept = "" if wanted == "vllm" else " (this run began with it)"
            raise InputError(
                f"sampling.backend: vllm{kept} cannot be used: {found.problem}; or set sampling.backend=transformers"
            )
        return "vllm", found.untested
    if found.problem or found.untested:
        # Not having it is nobody's mistake; having it and not getting it should be explained.
        return (
            "transformers",
            f"sampling with transformers: {found.problem or found.untested}" if found.version else None,
        )
    if base and (why := beyond_vllm(base, device)):
        return "transformers", f"sampling with transformers: {why}"
    return "vllm", None


def make_sampler(options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> Sampler:
    """The sampler of a sample step: its `options` and `execution` as the loop wrote them, and the step's folder.

    InputError where the user's file is another one than when the step began.
    """
    name, file, code = options["backend"], execution.get("sampler_file"), None
    if file:
        code = code_at(name, Path(file), _WHERE)
        if code.digest != options.get("sampler_digest"):
            raise InputError(f"{_WHERE}: {file} changed while it was being used; run the same command again")
    make = found_sampler(name, code)
    with nullcontext() if name in OURS["sampler"] else said_with_place(f"sampler {name}", make):
        made: Sampler = make(options, execution, folder)
        return made


def found_sampler(name: str, code: Code | None = None) -> Callable[..., Any]:
    """What makes the sampler of that name; `code`: where a file's is. InputError where it is not to be had."""
    found: Callable[..., Any] = load_code(code, _WHERE) if code else find("sampler", name, where=_WHERE)
    if not callable(found):
        raise InputError(
            f"{_WHERE}: {name!r} makes no sampler: a class or a function of (options, execution, folder) is needed"
        )
    return found


def transformers(options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> Sampler:
    """The sampler that is always there."""
    from selfimprove.models.policy import pick_device, pick_dtype
    from selfimprove.sampling.transformers import TransformersSampler

    device = pick_device(execution["device"])
    return TransformersSampler(pick_dtype(options["dtype"], device), device, execution["batch_tokens"])


def vllm(options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> Sampler:
    """One engine, in a process of its own."""
    from selfimprove.models.policy import pick_device
    from selfimprove.sampling.vllm import VllmSampler

    log, device = folder.parent / "engine.log", pick_device(execution["device"])
    return VllmSampler(options["dtype"], device, log=log, **execution["vllm"])


def openai(options: Mapping[str, Any], execution: Mapping[str, Any], folder: Path) -> Sampler:
    """A server that gives token ids."""
    from selfimprove.models.server import Server
    from selfimprove.sampling.openai import OpenAISampler

    served, server = Policy(**execution["served_policy"]), Server(**execution["server"])
    return OpenAISampler(server, served, folder / "journal.jsonl", execution["needs_log_probs"])


def close_engine() -> None:
    """Ends the vLLM engine, if this process ever had one."""
    if vllm := sys.modules.get("selfimprove.sampling.vllm"):
        vllm.ENGINE.close()
