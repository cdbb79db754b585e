"""`doctor`: what is installed, what works, and the command that mends what does not."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from selfimprove.models.builtin import BUILTINS, cache_folder

Found = dict[str, Any]


def looked_at() -> list[Found]:
    """A row for each thing: `what`, `found`, `note`, and whether a run can work with it (`good`)."""
    return [*_packages(), *_samplers(), *_files()]


def _row(what: str, found: str, note: str = "", good: bool = True) -> Found:
    return {"what": what, "found": found, "note": note, "good": good}


def _packages() -> Iterator[Found]:
    import torch

    from selfimprove.cli.speed import keep_speed
    from selfimprove.models.policy import pick_device

    for package in ("torch", "transformers", "trl", "peft", "accelerate", "datasets"):
        try:
            yield _row(package, version(package))
        except PackageNotFoundError:
            yield _row(package, "missing", f"pip install {package}", good=False)
    yield _row("python", platform.python_version())
    gpu = torch.cuda.is_available()
    yield _row("GPU", torch.cuda.get_device_name(0) if gpu else "no", "" if gpu else "runs use the CPU")
    device = pick_device()
    dtype = "bfloat16" if device != "cpu" else "float32"
    speed = keep_speed(dtype, device)
    products = f"{speed.large / 1e9:,.0f} GFLOP/s, {speed.decode / 1e9:,.0f} with {speed.decode_rows} rows"
    yield _row(f"matrix products, {dtype}", products, "kept for the times that `selfimprove check` gives")


def _samplers() -> Iterator[Found]:
    from selfimprove.models.policy import pick_device
    from selfimprove.sampling.backends import choose_backend
    from selfimprove.sampling.vllm import installed

    device = pick_device()
    chosen, _ = choose_backend("auto", device)
    vllm = installed(device)
    picked = "what sampling.backend=auto picks here"
    yield _row("sampler: transformers", "works", picked if chosen == "transformers" else "")
    if vllm.problem:  # not having it is fine
        yield _row("sampler: vllm", "broken" if vllm.version else "missing", vllm.problem, good=vllm.version is None)
    else:
        yield _row("sampler: vllm", f"{vllm.version} works", vllm.untested or picked)
    client = find_spec("openai") is not None
    yield _row("sampler: openai", "works" if client else "missing", "" if client else "pip install openai")


def _files() -> Iterator[Found]:
    for builtin in BUILTINS.values():
        cached = list((cache_folder() / "models").glob(f"{builtin.name}-*/config.json"))
        note = "" if cached else "fetched on first use, 93 MB"
        yield _row(f"model {builtin.name}", "cached" if cached else "not yet", note)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache_folder()).free / 2**30
        yield _row("cache", f"{free:.0f} GB free", str(cache_folder()))
    except OSError as error:
        yield _row("cache", "not writable", f"{error}; set SELFIMPROVE_CACHE", good=False)
