"""Times one round of CREAM, stage by stage: as the product does it, and as a plain script does.

    python benchmarks/round.py                              # SmolLM2-135M, its CREAM recipe, 2 cores: ten minutes
    OMP_NUM_THREADS=1 python benchmarks/round.py --clock cpu      # on a machine that others use
    python benchmarks/round.py --device cuda --random-model 1B --prompts 512 sampling.max_new_tokens=128

A round begins with nothing loaded and M1 on disk, and ends with M2 on disk; its evaluation is timed apart, an engine's
start too. The two sides take turns. Floors (see `selfimprove/steps/floor.py`) are measured in the same process. Let
nothing else run meanwhile: the result says whether the machine was quiet.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from machine import Neighbours, description, random_model
from our_round import Start, our_round, prepare
from plain_round import Plain, PlainRound, tuned
from rich.console import Console
from stages import CLOCKS, RoundTimes, summary, table

from selfimprove.artefacts import write_json
from selfimprove.models.policy import load_tokenizer, pick_device
from selfimprove.quiet import quiet_libraries
from selfimprove.recipe.recipe import Recipe, load_recipe
from selfimprove.steps.floor import machine_speed, model_size
from selfimprove.training.stages import batch_split

RESULTS = Path(__file__).parent / "results"


def benchmark(
    recipe: Recipe,
    work: Path,
    repeats: int,
    ours: bool = True,
    plain: bool = True,
    tune: bool = True,
    clock: str = "wall",
) -> dict[str, Any]:
    """All measurements of one recipe; `work` keeps M1 for the next time."""
    quiet_libraries()
    now = CLOCKS[clock]
    start = prepare(recipe, work / "m1", now)
    script = plain_settings(recipe, start) if plain else None
    if script and tune:
        script = replace(script, **tuned(script))
    dtype, device = effective(recipe)
    neighbours, speeds, size = Neighbours(), [], model_size(start.base.base)
    found: dict[str, list[RoundTimes]] = {"ours": [], "plain": []}
    engines = []
    for number in range(repeats):
        machine_speed.cache_clear()
        speeds.append(machine_speed(dtype, device, now))
        for side in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
            if side == "ours" and ours:
                folder = work / f"repeat-{number}"
                shutil.rmtree(folder, ignore_errors=True)
                times, engine = our_round(recipe, start, folder, now)
                found[side].append(times)
                engines.append(engine)
                shutil.rmtree(folder)
            elif side == "plain" and script:
                pairs = found["ours"][0].notes["pairs"] if found["ours"] else None
                found[side].append(PlainRound(script, now).run(pairs))
            if device != "cpu":
                torch.cuda.empty_cache()
    # The machine's best: a floor measured in a disturbed moment would flatter.
    speed = replace(speeds[0], large=max(s.large for s in speeds), decode=max(s.decode for s in speeds))
    results: dict[str, Any] = {
        "machine": description(),
        "neighbours": neighbours.report(),
        "settings": {
            "model": recipe.model,
            "body_parameters": size.body,
            "head_parameters": size.head,
            "backend": recipe.sampling.backend,
            "device": device,
            "dtype": dtype,
            "clock": clock,
            "repeats": repeats,
            "prompts": len(start.prompts),
            "recipe": recipe.model_dump(mode="json", exclude={"output", "store"}),
        },
        "speed": {
            "large_flops": speed.large,
            "large_rows": speed.large_rows,
            "decode_flops": speed.decode,
            "decode_rows": speed.decode_rows,
        },
        "engine_start_seconds": engines,
    }
    for side, times_found in found.items():
        if times_found:
            results[side] = summary(times_found, size, speed)
    if script and found["plain"]:
        results["plain"]["settings"] = script.settings()
    if found["ours"] and found["plain"]:
        results["ratio"] = {
            name: results["plain"][key]["median"] / results["ours"][key]["median"]
            for name, key in (("round", "round_seconds"), ("round_and_evaluation", "round_and_evaluation_seconds"))
        }
    return results


def effective(recipe: Recipe) -> tuple[str, str]:
    """(dtype, device) behind a recipe's `auto`."""
    device, given = pick_device(recipe.device), recipe.training.dtype
    return given if given != "auto" else ("bfloat16" if device.startswith("cuda") else "float32"), device


def plain_settings(recipe: Recipe, start: Start) -> Plain:
    """The recipe in the plain script's words."""
    (dtype, device), training = effective(recipe), recipe.training
    micro, accumulation = batch_split(training.batch_size, training.micro_batch_size, 1)
    tokenizer = load_tokenizer(start.base)
    return Plain(
        base=start.base.base,
        adapter=str(start.policy.adapter),
        middle=str(start.middle.adapter),
        texts=tuple(tokenizer.decode(prompt.prompt_ids) for prompt in start.prompts),
        items=tuple(tokenizer.decode(item.prompt_ids) for item in start.items),
        n=recipe.sampling.n,
        temperature=recipe.sampling.temperature,
        top_p=recipe.sampling.top_p,
        max_new_tokens=recipe.sampling.max_new_tokens,
        item_tokens=start.item_tokens,
        beta=training.beta,
        training={
            "learning_rate": training.learning_rate,
            "num_train_epochs": training.epochs,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "lr_scheduler_type": training.scheduler,
            "warmup_steps": training.warmup_ratio,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
        },
        device=device,
        dtype=dtype,
        seed=recipe.seed,
    )


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for `selfimprove run`")] = None,
    backend: Annotated[str, typer.Option(help="the product's sampler: transformers or vllm")] = "transformers",
    device: str = "auto",
    dtype: str = "auto",
    repeats: int = 3,
    prompts: int = 66,
    model: Annotated[str, typer.Option(help="built-in name, folder or hub id")] = "smollm2-135m-instruct",
    random_model_size: Annotated[str | None, typer.Option("--random-model", help="10M, 360M, 1B, 3B or 8B")] = None,
    plain: bool = True,
    only_plain: bool = False,
    clock: Annotated[str, typer.Option(help="wall, or cpu: with OMP_NUM_THREADS=1, where others disturb")] = "wall",
    out: Path = RESULTS / "round.json",
) -> None:
    """See the module."""
    if clock == "cpu" and (backend == "vllm" or pick_device(device) != "cpu"):
        raise typer.BadParameter("the process's own time misses an engine's process and a GPU", param_hint="--clock")
    work = out.parent / ".work"
    work.mkdir(parents=True, exist_ok=True)
    (work / ".gitignore").write_text("*\n")
    quick = ["rounds=1", f"sampling.backend={backend}", f"device={device}", f"training.dtype={dtype}"]
    quick += [f"data.prompts_per_round={prompts}", f"output={work / 'run'}"]
    recipe = load_recipe("smollm2-135m/cream", [*quick, f"model={model}", *(overrides or [])])
    if random_model_size:
        # Whatever weights: what such a model answers says nothing, so what judges answers only reports.
        made = random_model(random_model_size, work, effective(recipe)[0])
        off = "gates.disabled=[consistency, degeneration, judge_health, weights_moved, dpo_start, sampler_agrees]"
        recipe = load_recipe("smollm2-135m/cream", [*quick, f"model={made}", off, *(overrides or [])])
    os.environ.setdefault("TQDM_DISABLE", "1")
    screen = Console() if sys.stdout.isatty() else Console(width=110)
    before = Neighbours().load_before
    if before > 0.5:
        screen.print(f"the load average is {before:.1f}: other programs make every figure here worthless", style="red")
    results = benchmark(recipe, work, repeats, ours=not only_plain, plain=plain or only_plain, clock=clock)
    results["command"] = sys.argv[1:]
    write_json(out, json.loads(json.dumps(results, default=str)))
    screen.print(table(results))
    if "plain" in results:
        screen.print("plain script:", json.dumps(results["plain"]["settings"]), highlight=False, soft_wrap=True)
    neighbours = results["neighbours"]
    if not neighbours["quiet"]:
        share = neighbours["others_share_of_cores"]
        screen.print(f"disturbed: other programs had {share:.0%} of the cores", style="red")
    screen.print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
