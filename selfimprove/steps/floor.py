"""The floor of a step: the seconds that its unavoidable matrix products take at this machine's speed.

Pure arithmetic but for `machine_speed`, which measures. What is counted, for a model with `body` parameters in its
layers and `head` in its LM head:

- a token through the layers is 2 x body operations, a position through the LM head 2 x head; the look-up in the
  embedding table is free, also where the head shares its weights.
- training with LoRA is two such passes (forward, and the gradients of the activations), with full weights three.
- a prompt is computed once for all its responses, equal responses are scored once, a response's last token is fed to
  nothing, and only positions that predict a response token need the head.

Not counted: attention itself (2% at 60 tokens), the adapter's own products (5% at rank 16 on 135M), norms, sampling,
optimizer, padding, loading and writing. So the floor is not reached, but by a sampler that decodes more rows at once
than `Speed.decode_rows`; a stage's share of it says what is to be had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """Parameters that do arithmetic: those of the layers, and those of the LM head (tied or not)."""

    body: int
    head: int


@dataclass(frozen=True)
class Speed:
    """Operations per second that matrix products reach here: `large` with `large_rows` rows at once (a prompt, a
    training batch), `decode` with `decode_rows` (one token of each of so many responses)."""

    large: float
    decode: float
    large_rows: int
    decode_rows: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Work:
    """What a step cannot avoid: tokens through the layers and positions through the LM head, many at once or (the
    `decoded` ones) one token per response at a time. `passes`: 1 forward, 2 training with LoRA, 3 all weights."""

    body: float = 0
    head: float = 0
    decoded_body: float = 0
    decoded_head: float = 0
    passes: int = 1

    def __add__(self, other: Work) -> Work:
        if self.passes != other.passes:
            raise ValueError(f"work of {self.passes} and of {other.passes} passes has no common sum")
        return Work(
            self.body + other.body,
            self.head + other.head,
            self.decoded_body + other.decoded_body,
            self.decoded_head + other.decoded_head,
            self.passes,
        )


def floor_seconds(work: Work, size: Size, speed: Speed) -> float:
    """Seconds of `work` on a model of `size` at `speed`."""
    many = work.body * size.body + work.head * size.head
    few = work.decoded_body * size.body + work.decoded_head * size.head
    return 2 * work.passes * (many / speed.large + few / speed.decode)


def sampling_work(prompts: Sequence[int], responses: Sequence[int]) -> Work:
    """Sampling: lengths (tokens) of the prompts and of all responses. A prompt's last position gives the first token
    of all its responses; every further token is a decoding step."""
    further = sum(responses) - len(responses)
    return Work(body=sum(prompts), head=len(prompts), decoded_body=further, decoded_head=further)


def scoring_work(groups: Sequence[tuple[int, Sequence[int]]]) -> Work:
    """Scoring: per prompt its length and those of its distinct responses (tokens)."""
    further = sum(sum(lengths) - len(lengths) for _, lengths in groups)
    return Work(body=sum(prompt for prompt, _ in groups) + further, head=len(groups) + further)


def training_work(groups: Sequence[tuple[int, Sequence[int]]], epochs: float, lora: bool) -> Work:
    """Training on the responses of each prompt: one for SFT, chosen and rejected for a pair."""
    once = scoring_work(groups)
    return Work(body=epochs * once.body, head=epochs * once.head, passes=2 if lora else 3)


def step_work(
    step: str, options: Mapping[str, Any], inputs: Mapping[str, Sequence[Row]], rows: Sequence[Row]
) -> Work | None:
    """The work of a durable step from its kind, options, input rows and (for sampling) the rows it made; None for
    kinds that run no causal model."""
    if step == "sample":
        return sampling_work([len(row["prompt_ids"]) for row in inputs["prompts"]], [len(row["ids"]) for row in rows])
    if step == "log_probs":
        prompts: dict[str, int] = {}
        distinct: dict[str, set[tuple[int, ...]]] = {}
        for row in inputs["responses"]:
            prompts[row["prompt_id"]] = len(row["prompt_ids"])
            distinct.setdefault(row["prompt_id"], set()).add(tuple(row["ids"]))
        return scoring_work([(prompts[id], [len(ids) for ids in distinct[id]]) for id in prompts])
    if step in ("sft", "dpo"):
        names = ("response_ids",) if step == "sft" else ("chosen_ids", "rejected_ids")
        groups = [
            (len(row["prompt_ids"]), [len(row[name]) for name in names])
            for row in inputs["examples" if step == "sft" else "pairs"]
        ]
        return training_work(groups, options["epochs"], bool(options["lora"]))
    if step == "judge":  # of each question the LM head sees the last position
        asked = [(len(row[name]), [1]) for row in inputs["examples"] for name in ("reference_ids", "plain_ids")]
        return training_work(asked, options["epochs"], bool(options["lora"]))
    return None


def step_floor(
    step: str,
    options: Mapping[str, Any],
    inputs: Mapping[str, Sequence[Row]],
    rows: Sequence[Row],
    base: str | Path,
    device: str,
    processes: int = 1,
) -> float | None:
    """Floor (seconds) of a durable step on this machine, or None if its kind has none.

    Args:
        base: folder of the policy's base model.
        device: "cpu" or "cuda...". On GPUs every one of `processes` has one of its own; on the CPU they share it.
    """
    import torch

    work = step_work(step, options, inputs, rows)
    if work is None or options.get("backend") == "openai":  # a server's speed is its own
        return None
    try:  # a figure for the report is not worth a run
        speed, size = machine_speed(str(options["dtype"]), device), model_size(str(base))
    except (torch.OutOfMemoryError, KeyError):  # an engine may hold all of a GPU; a configuration of another form
        return None
    return floor_seconds(work, size, speed) / (processes if device != "cpu" else 1)


@lru_cache(maxsize=8)
def model_size(folder: str) -> Size:
    """Body and head of a model's folder, from its configuration and the headers of its safetensors files.

    A matrix with one row per token of the vocabulary is the embedding table or the head; all else is body.
    """
    from safetensors import safe_open

    config = json.loads((Path(folder) / "config.json").read_text())
    vocabulary = config.get("text_config", config)["vocab_size"]
    body = head = 0
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shape = tensors.get_slice(name).get_shape()
                count = 1
                for length in shape:
                    count *= length
                if len(shape) == 2 and shape[0] == vocabulary:
                    head = max(head, count)
                else:
                    body += count
    return Size(body, head)


@lru_cache(maxsize=8)
def machine_speed(dtype: str, device: str, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Measures matrix products of this machine, the best of several, in about half a second.

    Large: 1,024 to 4,096 rows. Decoding: 64 rows (on a GPU 256), through enough matrices in turn that no cache holds
    them, as the layers of a model are. Remembered for the process. Where other programs keep the cores busy it is too
    low: a share of the floor is worth something on a quiet machine only.
    """
    import torch

    gpu = device != "cpu"
    width, decode_rows = (4096, 256) if gpu else (1024, 64)
    kind = getattr(torch, dtype)
    by_rows = {}
    with torch.inference_mode():
        weights = [torch.randn(width, width, device=device).to(kind) for _ in range(4 if gpu else 16)]
        for rows in (decode_rows, 1024, 2048, 4096):
            x = torch.randn(rows, width, device=device).to(kind)
            used = weights if rows == decode_rows or gpu else weights[:1]
            seconds = _best_time(partial(_products, x, used), device, 0.12, clock)
            by_rows[rows] = 2 * rows * width * width * len(used) / seconds
    decode = by_rows.pop(decode_rows)
    best = max(by_rows, key=lambda rows: by_rows[rows])
    return Speed(by_rows[best], decode, best, decode_rows, dtype, device)


def _products(x: Any, weights: Sequence[Any]) -> None:
    for weight in weights:
        x @ weight


def _best_time(work: Callable[[], object], device: str, budget: float, clock: Callable[[], float]) -> float:
    """Shortest time (seconds) of `work` in about `budget` seconds, after one that warms up."""
    import torch

    times: list[float] = []
    while len(times) < 2 or sum(times) < budget:
        before = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(clock() - before)
    return min(times[1:])
