"""What a measurement was made on, who else was working there, and models of any size with random weights."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from selfimprove.models.builtin import fetch_builtin
from selfimprove.steps.run import environment

# hidden, intermediate, layers, heads, key-value heads: about the parameters their names say, with 49,152 tokens.
SHAPES = {
    "10M": (128, 384, 4, 4, 2),
    "360M": (960, 2560, 32, 15, 5),
    "1B": (2048, 8192, 16, 32, 8),
    "3B": (3072, 8192, 28, 24, 8),
    "8B": (4096, 14336, 32, 32, 8),
}
# Above this share of the cores' time in other programs' hands, a measurement is called disturbed.
QUIET = 0.05


def description() -> dict[str, Any]:
    """The machine and the versions, for the result's file."""
    here = Path(__file__).parent
    dirty = subprocess.run(
        ["git", "-C", str(here), "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpus,
        "cuda": torch.version.cuda,
        "allocator": os.environ.get("LD_PRELOAD", "") or "system",
        "uncommitted_changes": bool(dirty.stdout.strip()),
        "versions": environment(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


class Neighbours:
    """How much of the cores' time other programs took between `start` and `report`."""

    def __init__(self) -> None:
        self.load_before = os.getloadavg()[0]
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def report(self) -> dict[str, Any]:
        passed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy - (_own_seconds() - self._own)) / passed
        return {
            "load_before": self.load_before,
            "load_after": os.getloadavg()[0],
            "others_share_of_cores": max(0.0, others),
            "quiet": others < QUIET,
        }


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own_seconds() -> float:
    own = psutil.Process().cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):  # an engine's own process
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return float(total)


def random_model(name: str, folder: Path, dtype: str) -> Path:
    """A Llama of the size `name` with random weights and the built-in model's tokenizer, saved once in `folder`.

    The head is drawn wide enough that a few tokens have most of the mass, as in a trained model: with a flat
    distribution, top-p would look through the whole vocabulary. Its answers never end by themselves.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    made = folder / f"random-{name}-{dtype}"
    if (made / "config.json").is_file() and (made / "tokenizer.json").is_file():
        return made
    hidden, intermediate, layers, heads, kv_heads = SHAPES[name]
    tokenizer = AutoTokenizer.from_pretrained(fetch_builtin("smollm2-135m-instruct"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.nn.init.normal_(model.lm_head.weight, std=8 / hidden**0.5)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made
