"""How much memory and disk a run takes: pure functions of a model's shape and of how the work is done.

Bytes everywhere. The formulas are those of dense decoders with gated MLPs (Llama, Qwen, Mistral, SmolLM) as
Transformers 5.19, PEFT 0.21 and TRL 1.16 run them; docs/scaling.md has the table made from them and what was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from selfimprove.steps.request import StepRequest

GIB = 2**30
# Python, torch, Transformers and TRL themselves: 0.9 GB of main memory, or a GPU's context and workspaces.
RUNTIME = GIB
# On a CPU whole runs peaked at up to 1.25 times the estimate of their largest step (docs/scaling.md).
CPU_MARGIN = 1.25
# TRL's fused LM head works on tiles of this many positions and tokens of the vocabulary.
_TILE_POSITIONS, _TILE_VOCABULARY = 4096, 32768
# The fused head's backward without Triton (the CPU) holds 8.25 fp32 tensors of a tile's size at once.
_TILE_BYTES_CPU = 33
# The scorer's own bound on the logits of a batch, in numbers.
_LOGIT_BUDGET = 2**27
# The most that the engine's cache of keys and values takes on the CPU (VLLM_CPU_KVCACHE_SPACE, sampling/vllm.py).
_ENGINE_CACHE = 4 * GIB
# The trainer keeps two checkpoints and writes the third before it removes the first.
_CHECKPOINTS = 3


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory. `query` and `key_value`: heads x head size."""

    parameters: int
    layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    vocabulary: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], parameters: int | None = None) -> Self:
        """From a config.json; `parameters` (of the weight files) replaces the count made from it."""
        config = config.get("text_config", config)
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        size = config.get("head_dim") or hidden // heads
        query, key_value = heads * size, (config.get("num_key_value_heads") or heads) * size
        layers, intermediate, vocabulary = (
            config[name] for name in ("num_hidden_layers", "intermediate_size", "vocab_size")
        )
        if parameters is None:
            biases = query + 2 * key_value if config.get("attention_bias", config.get("model_type") == "qwen2") else 0
            layer = 2 * hidden * (query + key_value) + 3 * hidden * intermediate + 2 * hidden + biases
            embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
            parameters = embeddings + layers * layer + hidden
        return cls(parameters, layers, hidden, query, key_value, intermediate, vocabulary)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a model's folder: parameters counted in its weight files. KeyError: a configuration of another family."""
        return cls.from_config(json.loads((folder / "config.json").read_text()), count_parameters(folder) or None)

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer's seven matrices."""
        return 2 * self.hidden * (self.query + self.key_value) + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.vocabulary * self.hidden

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on all linear layers."""
        ends = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key_value)
        return self.layers * rank * (ends + 3 * (self.hidden + self.intermediate))


def count_parameters(folder: Path) -> int:
    """Numbers in the weight files of a model's folder."""
    from safetensors import safe_open

    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return parameters


@dataclass(frozen=True)
class Plan:
    """How a run does its work. Lengths in tokens: the longest `prompt`, `response` and SFT `example`.

    half: bf16 (else fp32). sharded: FSDP or ZeRO-3 over the processes, not one copy in each. Where there are two
    turns (`score`, `star`): seconds: second attempts that share a first one; between: tokens of the instruction's turn.
    reference: a frozen copy of the weights that are trained stands beside them.
    """

    half: bool
    gpu: bool
    prompt: int
    response: int
    example: int
    n: int = 5
    batch_tokens: int = 16384
    micro_batch: int = 8
    lora_rank: int | None = None
    dropout: bool = False
    checkpointing: bool = False
    processes: int = 1
    sharded: bool = False
    seconds: int = 0
    between: int = 0
    reference: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number in the model's own type."""
        return 2 if self.half else 4

    @property
    def answers(self) -> int:
        """Tokens of a row's attempts."""
        return self.response * (2 if self.seconds else 1)

    @property
    def row(self) -> int:
        """Tokens of a whole row: the prompt, the attempts, the instruction."""
        return self.prompt + self.between + self.answers


@dataclass(frozen=True)
class Memory:
    """What one process holds at its peak, part by part."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        return RUNTIME + sum(int(getattr(self, field.name)) for field in fields(self))


def cache_per_token(shape: Shape, width: int) -> int:
    """Keys and values of one token in all layers; also what a vLLM engine's cache is counted in."""
    return 2 * shape.layers * shape.key_value * width


def sampling(shape: Shape, plan: Plan) -> Memory:
    """The Transformers sampler: weights, the cache of a batch, and its rows' next-token logits.

    A batch is `batch_tokens`, or the n rows of one request where these are more. One layer's keys and values are
    repeated for its query heads while it runs; three fp32 copies of the logits stand while a token is picked.
    """
    row = plan.prompt + plan.response
    tokens = max(plan.batch_tokens, plan.n * row, plan.seconds * plan.row)
    rows = max(plan.n, plan.batch_tokens // row)
    repeated = 2 * shape.query * tokens * plan.width
    return Memory(
        weights=shape.parameters * plan.width,
        activations=repeated,
        cache=cache_per_token(shape, plan.width) * tokens,
        logits=3 * 4 * rows * shape.vocabulary,
    )


def scoring(shape: Shape, plan: Plan) -> Memory:
    """Scoring responses: only their positions have logits, and a batch's are bounded in number."""
    row = plan.prompt + plan.response
    bound = min(plan.batch_tokens, _LOGIT_BUDGET // shape.vocabulary * (1 + plan.prompt // max(1, plan.response)))
    tokens = max(bound, plan.n * row)
    positions = tokens * plan.response // row
    return Memory(
        weights=shape.parameters * plan.width,
        activations=(3 * shape.intermediate + 2 * shape.query) * tokens * plan.width,
        cache=cache_per_token(shape, plan.width) * tokens,
        logits=positions * shape.vocabulary * plan.width + 2 * 4 * 256 * shape.vocabulary,
    )


def sft(shape: Shape, plan: Plan) -> Memory:
    """The SFT stage: `micro_batch` examples at once, through TRL's fused LM head."""
    tokens = plan.micro_batch * plan.example
    tile = min(tokens, _TILE_POSITIONS) * min(shape.vocabulary, _TILE_VOCABULARY)
    return _training(shape, plan, tokens, plan.example, tile * (plan.width if plan.gpu else _TILE_BYTES_CPU))


def dpo(shape: Shape, plan: Plan) -> Memory:
    """Preference training: `micro_batch` pairs at once. On the CPU the responses' logits stand four times: as they
    are, as the copy that is scored, and twice as gradients."""
    rows, row = 2 * plan.micro_batch, plan.prompt + plan.response
    tile = min(rows * plan.response, _TILE_POSITIONS) * min(shape.vocabulary, _TILE_VOCABULARY)
    whole = 4 * 4 * rows * (plan.response + 1) * shape.vocabulary
    plan = replace(plan, dropout=False)  # it acts in the SFT only
    return _training(shape, plan, rows * row, row, tile * plan.width if plan.gpu else whole)


def score(shape: Shape, plan: Plan) -> Memory:
    """A stage of SCoRe: the larger of its training and, beside what the training keeps, its sampling.

    `micro_batch` samples at once. The logits of their trained tokens, the policy's and the reference's, stand whole;
    with the gradients they are five copies at the peak (measured, see docs/scaling.md), and in bf16 there is an fp32
    one. With full weights the frozen base is there too, in fp32.
    """
    tokens = plan.micro_batch * plan.row
    logits = plan.micro_batch * plan.answers * shape.vocabulary * (5 * plan.width + (4 if plan.half else 0))
    plan = replace(plan, dropout=False)  # the policy that is trained must be the one that sampled
    training, drawing = _training(shape, plan, tokens, plan.row, logits), sampling(shape, plan)
    frozen = 4 * shape.parameters if plan.reference else 0
    training = replace(training, weights=training.weights + frozen)
    # Between two updates there are no gradients.
    while_sampling = replace(drawing, weights=training.weights, optimizer=training.optimizer)
    return max(training, while_sampling, key=lambda memory: memory.total)


def layer_activations(shape: Shape, plan: Plan, row: int) -> int:
    """Bytes that autograd keeps of one token in one layer (counted with saved_tensors_hooks, see docs/scaling.md).

    `row`: tokens of the row it is in, since the attention mask is kept too.
    """
    h, q, i = shape.hidden, shape.query, shape.intermediate
    if plan.lora_rank is None:
        return (26 * h + 8 * q + 8 * i if plan.half else 4 * (6 * h + 4 * q + 4 * i)) + plan.width * row
    if plan.half:
        kept = 18 * h + 10 * q + 8 * i + 14 * plan.lora_rank
    else:
        kept = 4 * (4 * h + 4 * q + 4 * i + 7 * plan.lora_rank)
    dropped = (4 if plan.half else 6) * (5 * h + q + i) if plan.dropout else 0  # each matrix has an input of its own
    return kept + dropped + plan.width * row


def _training(shape: Shape, plan: Plan, tokens: int, row: int, logits: int) -> Memory:
    """Weights, gradients and Adam's two states of what is trained; activations; `logits` of the head.

    A frozen base is in the model's type; what is trained is fp32, and with it its gradients and states: 16 bytes a
    weight. Without an adapter, autocast keeps a bf16 copy of all weights, and the fused head an fp32 gradient of its
    own matrix.
    """
    trained = shape.parameters if plan.lora_rank is None else shape.adapter(plan.lora_rank)
    base = 0 if plan.lora_rank is None else shape.parameters * plan.width
    weights, gradients, optimizer = base + 4 * trained, 4 * trained, 8 * trained
    if plan.sharded:
        # Each process holds its share, and what is being computed whole: two layers and the LM head.
        whole = 2 * shape.layer_parameters * plan.width + shape.head * (4 if plan.lora_rank is None else plan.width)
        weights, gradients, optimizer = (-(-part // plan.processes) for part in (weights, gradients, optimizer))
        weights += whole
    elif plan.lora_rank is None and plan.half:
        weights += 2 * trained
    if plan.processes > 1 and not plan.sharded:
        gradients *= 2  # the buckets in which plain data parallelism averages them
    if plan.lora_rank is None:
        logits += 4 * shape.head
    layer = layer_activations(shape, plan, row) * tokens
    if plan.checkpointing:
        inputs = shape.hidden * (2 if plan.half and plan.lora_rank is not None else 4) * tokens
        activations = shape.layers * inputs + 2 * layer
    else:
        activations = (shape.layers + 1) * layer  # one more for the gradients in flight
    return Memory(weights, gradients, optimizer, activations, logits=logits)


def loading(shape: Shape, plan: Plan) -> int:
    """Main memory while training begins on GPUs: every process reads the whole model into it first; under FSDP with
    full weights TRL reads a reference model too, and frees it before the first step. SCoRe's is frozen and stays."""
    width = 4 if plan.lora_rank is None else plan.width
    models = 2 if plan.sharded and plan.lora_rank is None else 1
    frozen = plan.width if plan.reference else 0
    return plan.processes * shape.parameters * (models * width + frozen)


def engine_on_cpu(shape: Shape, plan: Plan, adapter: bool) -> tuple[int, int]:
    """A vLLM engine on the CPU, in a process of its own: what it holds all the time, beside every other step (it cannot
    sleep there), and how much more while it reads new weights (an adapter is merged into an fp32 copy of its base)."""
    held = RUNTIME + shape.parameters * plan.width + _ENGINE_CACHE
    return held, 4 * shape.parameters if adapter else 0


@dataclass(frozen=True)
class Disk:
    """What a run keeps (`kept`), and how much more there is while it trains (`while_training`)."""

    policy: int
    kept: int
    while_training: int

    @property
    def total(self) -> int:
        return self.kept + self.while_training


def disk(shape: Shape, plan: Plan, trainings: int, middle: bool = False) -> Disk:
    """Disk of a run with so many training steps. Each leaves a policy: an adapter, or all weights in fp32; `middle`:
    the SFT leaves one of its middle too. While a step trains there are up to three checkpoints, with Adam's states
    (full weights under FSDP: with the weights twice). Merged weights are never written."""
    trained = shape.parameters if plan.lora_rank is None else shape.adapter(plan.lora_rank)
    policy = 4 * trained
    checkpoint = (16 if plan.sharded else 12) * trained
    return Disk(policy, policy * (trainings + middle), _CHECKPOINTS * checkpoint)


def plan_of(request: StepRequest, *, prompt: int, response: int, example: int = 0, **more: Any) -> Plan:
    """How a step does its work. `prompt`, `response`, `example`: tokens of its longest ones; `more`: what else of a
    `Plan` its kind knows."""
    options, execution = request.options, request.execution
    lora = options.get("lora")
    plan = Plan(
        half=options["dtype"] == "bfloat16",
        gpu=execution["device"] != "cpu",
        prompt=prompt,
        response=response,
        example=example,
        batch_tokens=execution.get("batch_tokens", Plan.batch_tokens),
        micro_batch=min(
            execution.get("micro_batch_size", Plan.micro_batch),
            max(1, options.get("batch_size", Plan.micro_batch) // request.processes),
        ),
        lora_rank=lora["r"] if lora else None,
        dropout=bool(lora and lora["dropout"]),
        checkpointing=execution.get("gradient_checkpointing", False),
        processes=request.processes,
    )
    return replace(plan, **more)
