"""The tables of docs/scaling.md, made from selfimprove/steps/memory.py: `python tools/scaling_table.py`."""

from __future__ import annotations

from dataclasses import replace

from selfimprove.steps.memory import Plan, Shape, cache_per_token, disk, dpo, loading, sampling, scoring, sft

GB = 1e9


def _shape(layers: int, hidden: int, heads: int, kv_heads: int, mlp: int, vocabulary: int, **more: object) -> Shape:
    return Shape.from_config(
        {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": mlp,
            "vocab_size": vocabulary,
            **more,
        }
    )


_QWEN = {"model_type": "qwen2"}
MODELS = {
    "SmolLM2-135M": _shape(30, 576, 9, 3, 1536, 49152, tie_word_embeddings=True),
    "Qwen2.5-0.5B": _shape(24, 896, 14, 2, 4864, 151936, tie_word_embeddings=True, **_QWEN),
    "Qwen2.5-1.5B": _shape(28, 1536, 12, 2, 8960, 151936, tie_word_embeddings=True, **_QWEN),
    "Qwen2.5-7B": _shape(28, 3584, 28, 4, 18944, 152064, **_QWEN),
    "Llama-3-8B": _shape(32, 4096, 32, 8, 14336, 128256),
    "Llama-3-70B": _shape(80, 8192, 64, 8, 28672, 128256),
}
# On a GPU: CREAM's lengths (prompt and response within 2,048 tokens), bf16, checkpointing, four pairs at once.
GPU = Plan(
    half=True, gpu=True, prompt=1280, response=768, example=2048, micro_batch=4, lora_rank=32, checkpointing=True
)
FULL = replace(GPU, lora_rank=None)
EIGHT = {"processes": 8, "sharded": True}
# On a CPU: short answers, fp32.
CPU = Plan(half=False, gpu=False, prompt=192, response=64, example=256, lora_rank=16)
_CPU_MODELS = ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-1.5B")


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _gb(size: int) -> str:
    return f"{size / GB:,.1f}" if size < 100 * GB else f"{size / GB:,.0f}"


def main() -> None:
    """Memory on GPUs, memory on a CPU, disk."""
    print(_row("one GPU, GB", "weights", "cache per 1,000 tokens", "sample", "score", "LoRA SFT", "LoRA DPO",
               "full DPO", "full DPO, each of 8", "main memory to load, 8"))  # fmt: skip
    print(_row(*["---"] * 10))
    for name, shape in MODELS.items():
        print(
            _row(
                name,
                _gb(2 * shape.parameters),
                f"{1000 * cache_per_token(shape, 2) / GB:.2f}",
                *(_gb(step(shape, GPU).total) for step in (sampling, scoring, sft, dpo)),
                _gb(dpo(shape, FULL).total),
                _gb(dpo(shape, replace(FULL, **EIGHT)).total),
                _gb(loading(shape, replace(FULL, **EIGHT))),
            )
        )
    print()
    print(_row("CPU, GB", "sample", "score", "LoRA SFT", "LoRA DPO", "full SFT", "full DPO"))
    print(_row(*["---"] * 7))
    for name in _CPU_MODELS:
        shape, full = MODELS[name], replace(CPU, lora_rank=None)
        cells = [step(shape, CPU) for step in (sampling, scoring, sft, dpo)] + [
            step(shape, full) for step in (sft, dpo)
        ]
        print(_row(name, *(_gb(cell.total) for cell in cells)))
    print()
    print(_row("disk, GB", "an adapter (r 32)", "run of 3 rounds, LoRA", "full weights", "run of 3 rounds, full",
               "and while it trains", "under FSDP"))  # fmt: skip
    print(_row(*["---"] * 7))
    for name, shape in MODELS.items():
        lora, full = disk(shape, GPU, trainings=4), disk(shape, FULL, trainings=4)
        print(
            _row(
                name,
                f"{lora.policy / GB:.2f}",
                f"{lora.total / GB:.1f}",
                _gb(full.policy),
                _gb(full.kept),
                _gb(full.while_training),
                _gb(disk(shape, replace(FULL, **EIGHT), trainings=4).while_training),
            )
        )


if __name__ == "__main__":
    main()
