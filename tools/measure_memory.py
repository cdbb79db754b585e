"""Peak memory of single steps against selfimprove/steps/memory.py: `python tools/measure_memory.py MODEL [CASE ...]`.

MODEL is a built-in name, a model folder, or `random:CONFIG.json` (random weights of that configuration, kept in
SELFIMPROVE_CACHE). Every case runs in a process of its own on random token ids, since a process never gives back its
peak. Prints the rows of the second table of docs/scaling.md.
"""

from __future__ import annotations

import io
import json
import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfimprove.artefacts import Store
from selfimprove.models.builtin import cache_folder
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.terminal import Progress
from selfimprove.steps.memory import GIB, Memory, Plan, Shape, dpo, sampling, score, scoring, sft
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step

LORA = {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"}
PLAN = Plan(half=False, gpu=False, prompt=48, response=16, example=64, micro_batch=8, lora_rank=16)
LONG = replace(PLAN, prompt=128, response=128, example=256, micro_batch=4)
CASES: dict[str, tuple[str, Plan]] = {
    "sample": ("sample", PLAN),
    "log_probs": ("log_probs", PLAN),
    "SFT, LoRA": ("sft", PLAN),
    "SFT, LoRA, long": ("sft", LONG),
    "SFT, LoRA, dropout 0.1": ("sft", replace(PLAN, dropout=True)),
    "SFT, LoRA, long, checkpointing": ("sft", replace(LONG, checkpointing=True)),
    "DPO, LoRA, long": ("dpo", LONG),
    "SFT, full weights": ("sft", replace(PLAN, lora_rank=None)),
    "DPO, full weights": ("dpo", replace(PLAN, lora_rank=None)),
    "SCoRe, LoRA": ("score", replace(PLAN, n=4, seconds=1, between=16)),
    "SCoRe, LoRA, long": ("score", replace(LONG, n=4, seconds=1, between=16)),
    "SCoRe, full weights": ("score", replace(PLAN, n=4, seconds=1, between=16, lora_rank=None, reference=True)),
}
ESTIMATES = {"sample": sampling, "log_probs": scoring, "sft": sft, "dpo": dpo, "score": score}
# A stage's options that change no memory, and a reward that samples earn now and then.
SCORE: dict[str, Any] = {
    **{"stage": 2, "updates": 2, "passes": 1, "turns": 2, "alpha": 10.0, "beta1": 0.01, "beta2": 0.0, "kl": "exact"},
    **{"kl_reduction": "mean", "policy_reduction": "sum", "whiten": False, "second_baseline": "prompt"},
    **{"clip_range": None, "truncated": "wrong", "keep": "last", "base_first_attempts": 0.0, "right_from": 0.5},
    **{"instruction": "Look again, and answer once more.", "temperature": 1.0, "backend": "transformers"},
    "reward": {"kind": "function", "function": "measure_memory:fair", "version": 1},
}


def fair(prompt: str, response: str, answer: str | None) -> float:
    return float(len(response) % 2)


def model_folder(model: str) -> str:
    """The model's name or folder; makes the random one."""
    kind, _, config = model.partition(":")
    if kind != "random":
        return model
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = cache_folder() / "models" / f"random-{Path(config).stem}"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config), dtype=torch.float32).save_pretrained(
            folder
        )
        # The steps read ids, so any tokenizer does.
        AutoTokenizer.from_pretrained(resolve_policy("smollm2-135m-instruct").base).save_pretrained(folder)
    return str(folder)


def request(step: str, plan: Plan, policy: Policy) -> StepRequest:
    """Rows of exactly the plan's lengths: two optimizer steps, or one full batch and a little."""
    dice = random.Random(0)

    def ids(count: int) -> list[int]:
        return [dice.randrange(3, 40000) for _ in range(count)]

    execution: dict[str, Any] = {"device": "cpu", "batch_tokens": plan.batch_tokens}
    if step in ("sample", "log_probs"):
        count = plan.batch_tokens // (plan.n * (plan.prompt + plan.response)) + 1
        prompts = [{"prompt_id": f"p{i}", "prompt_ids": ids(plan.prompt)} for i in range(count)]
        options: dict[str, Any] = {"dtype": "float32"}
        if step == "sample":
            options |= {"n": 5, "temperature": 0.1, "top_p": 0.95, "max_new_tokens": plan.response}
            options |= {"stop_ids": [1], "backend": "transformers"}
            return StepRequest(step, step, options, {"prompts": prompts}, {"policy": policy}, 0, execution)
        rows = [{**row, "index": i, "ids": ids(plan.response)} for row in prompts for i in range(5)]
        return StepRequest(step, step, options, {"responses": rows}, {"policy": policy}, 0, execution)
    options = {"learning_rate": 1e-5, "epochs": 1.0, "batch_size": plan.micro_batch, "warmup_ratio": 0.0}
    options |= {"weight_decay": 0.0, "max_grad_norm": 1.0, "scheduler": "constant", "dtype": "float32"}
    options["lora"] = {**LORA, "dropout": 0.1 if plan.dropout else 0.0} if plan.lora_rank else None
    execution |= {"micro_batch_size": plan.micro_batch, "checkpoint_steps": 50, "report_to": []}
    execution |= {"gradient_checkpointing": plan.checkpointing, "gate_dpo_start": False}
    if step == "score":
        options |= SCORE | {"n": plan.n, "first_attempts": plan.n, "max_new_tokens": plan.response, "stop_ids": []}
        execution |= {"share_prompt": not plan.checkpointing, "gates": {"disabled": [], "base_accuracy": None}}
        execution["gates"] |= {"base_n": 0, "bounds": {}}
        execution["reward"] = {"device": "cpu", "batch_tokens": 0, "server": None}
        del options["epochs"]
        count = 2 * plan.micro_batch // plan.n
        rows = [{"prompt_id": f"p{i}", "prompt_ids": ids(plan.prompt), "text": "", "answer": ""} for i in range(count)]
        policies = {"start": policy, "base": policy}
        return StepRequest(step, step, options, {"prompts": rows}, policies, 0, execution)
    count = 2 * plan.micro_batch
    if step == "sft":
        rows = [
            {"prompt_ids": ids(plan.example - plan.response), "response_ids": ids(plan.response)} for _ in range(count)
        ]
        return StepRequest(step, step, options, {"examples": rows}, {"start": policy}, 0, execution)
    options |= {"beta": 0.1, "reference_is_start": False}
    scores = {"reference_chosen_log_prob": -1.0, "reference_rejected_log_prob": -1.0, "confidence": 1.0}
    rows = [
        {
            "prompt_id": f"p{i}",
            "prompt_ids": ids(plan.prompt),
            "chosen_ids": ids(plan.response),
            "rejected_ids": ids(plan.response),
            **scores,
        }
        for i in range(count)
    ]
    return StepRequest(step, step, options, {"pairs": rows}, {"start": policy}, 0, execution)


def measure(model: str, case: str) -> None:
    """Runs one case in this process and prints its peak."""
    from rich.console import Console

    step, plan = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        run_step(Store(Path(folder)), request(step, plan, resolve_policy(model)), Progress(Console(file=io.StringIO())))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main() -> None:
    """Every case, or the one that `--one` names."""
    if sys.argv[1] == "--one":
        return measure(sys.argv[2], sys.argv[3])
    model = model_folder(sys.argv[1])
    shape = Shape.read(Path(resolve_policy(model).base))
    for case in sys.argv[2:] or CASES:
        step, plan = CASES[case]
        found: Memory = ESTIMATES[step](shape, plan)
        done = subprocess.run(
            [sys.executable, __file__, "--one", model, case], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"| {case} | failed: {done.stderr.strip().splitlines()[-1]} |")
            continue
        peak = int(done.stdout.strip().splitlines()[-1])
        print(f"| {case} | {peak / GIB:.2f} | {found.total / GIB:.2f} | {peak / found.total:.2f} |", flush=True)


if __name__ == "__main__":
    main()
