"""`check`, `status` and `doctor`: what will happen, what has happened, what is installed."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from selfimprove.artefacts import Store
from selfimprove.errors import InputError
from selfimprove.models.builtin import BUILTINS, cache_folder
from selfimprove.models.chat import append_turn, render_example
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import is_code_file
from selfimprove.report.events import EventLog
from selfimprove.report.text import printable
from selfimprove.runs.folder import Run
from selfimprove.steps.cost import Preview


def check_recipe(recipe: Recipe, out: Console) -> None:
    """Loads the data, checks what can be checked before a run, and prints examples and an estimate."""
    from selfimprove.cli.estimate import needs_of, table_of, verdict
    from selfimprove.loop.loop import Loop
    from selfimprove.quiet import quiet_libraries
    from selfimprove.report.terminal import Progress
    from selfimprove.training.accelerate_file import find_accelerate_file, missing_here, read_accelerate_file
    from selfimprove.training.stages import batch_split

    if recipe.contract.over == "inference":
        raise InputError(f"check: method {recipe.method!r} trains nothing; run it: it says first what is wrong")
    quiet_libraries()
    batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, recipe.training.processes)
    events = EventLog(Path(recipe.output), wait=True)  # never opened: `check` writes nothing
    try:
        loop = Loop(recipe, Store(Path(recipe.output) / "steps"), events, Progress())
    except InputError:
        for line in _keys(recipe):  # a model or data of a hub that is out of reach, or of a run that is not there yet
            out.print(line, highlight=False, soft_wrap=True, markup=False)
        raise
    loop.check_leaks()
    preview, needs = _preview(loop), needs_of(loop)
    said, fits = verdict(loop, needs)
    out.print(said, style=None if fits else "red", highlight=False, soft_wrap=True, markup=False)
    if code := _code_of(recipe):
        out.print(f"this recipe runs your code: {', '.join(code)}", highlight=False, soft_wrap=True)
    out.print(
        f"recipe: method {recipe.method}, model {recipe.model}, {loop.backend} sampler on {loop.device}",
        highlight=False,
    )
    for line in preview.lines:
        out.print(line, highlight=False, soft_wrap=True)
    if recipe.training.accelerate:
        path = find_accelerate_file(recipe)
        out.print(f"accelerate file: {path}", highlight=False, soft_wrap=True)
        for problem in missing_here(read_accelerate_file(path), loop.device):
            out.print(f"cannot run here: {problem}", style="red", highlight=False)
    for title, ids in _examples(loop, preview):
        out.print(f"\n{title} ({len(ids)} tokens):", highlight=False)
        out.print(printable(loop.tokenizer.decode(ids)), soft_wrap=True, highlight=False)
    out.print()
    out.print(table_of(loop, needs, preview))


def _keys(recipe: Recipe) -> list[str]:
    """What a recipe says by its keys alone, where not all that it names is here."""
    sampling, training, data = recipe.sampling, recipe.training, recipe.data
    lines = [f"recipe: method {recipe.method}, model {recipe.model}; its keys are right"]
    for role in ("seed", "prompts", "pairs", "held_out"):
        named = [str(one.hub or one.path) for one in getattr(data, role) or ()]
        lines += [f"data.{role}: {', '.join(named)}"] if named else []
    if recipe.contract.needs.prompts:
        rounds = f"{recipe.rounds} rounds, each of " if recipe.contract.needs.rounds else ""
        each = f"{data.prompts_per_round:,}" if data.prompts_per_round else "a share of the"
        many = f"{rounds}{each} prompts" if rounds else "all prompts"
        lines.append(f"{many}, {sampling.n} responses to each of at most {sampling.max_new_tokens:,} tokens")
    if recipe.contract.trains:
        what = f"LoRA of rank {training.lora.r}" if training.lora else "all weights"
        lines.append(
            f"training: {what}, {training.batch_size} rows an update ({training.micro_batch_size} at once), at most "
            f"{training.max_length:,} tokens, {training.processes} process{'es' * (training.processes > 1)}"
        )
    if suites := [one.suite for one in recipe.evaluate]:
        lines.append(f"evaluated by: {', '.join(suites)}")
    return lines


def _code_of(recipe: Recipe) -> list[str]:
    """Every name of the user's code that a recipe has: its judge's or reward's, its suites', its data's."""
    judge, reward = recipe.ranked_by(), recipe.rewarded_by()
    named: list[Any] = [recipe.method] if ":" in recipe.method else []
    named += [one.function for one in (judge, judge.of if judge else None, reward) if one]
    sources = [one for role in ("seed", "prompts", "pairs", "held_out") for one in getattr(recipe.data, role) or ()]
    paths = [one.path for one in sources]
    for choice in [*recipe.evaluate, *([recipe.development] if recipe.development else [])]:
        data = choice.change.get("data")
        paths.append(data.get("path") if isinstance(data, dict) else data)
        named.append(choice.change.get("function"))
    named += [path for path in paths if isinstance(path, str) and is_code_file(path)]
    return list(dict.fromkeys(name for name in named if name))


def _preview(loop: Any) -> Preview:
    """What the method shows of itself; of one with a second turn that is how it is read."""
    contract, options = loop.recipe.contract, loop.recipe.options
    found = contract.preview(loop, options) if contract.preview else Preview()
    turns = contract.turns(options) if contract.turns else ()
    if not turns:
        return found
    prompt = loop.data.round_prompts[0][0]
    ids, answer = render_example(loop.tokenizer, list(prompt.messages), "(the first attempt, as it was sampled)")
    second = ("turn 2, as it is sampled", append_turn(loop.tokenizer, [*ids, *answer], turns[0]))
    return replace(found, examples=[*found.examples, second])


def _examples(loop: Any, preview: Preview) -> list[tuple[str, list[int]]]:
    """Up to three rendered examples, one of each kind first."""
    found = [
        ("seed example, as it is trained", e["prompt_ids"] + e["response_ids"]) for e in loop.data.seed_examples[:2]
    ]
    found += [
        ("prompt, as it is sampled", list(p.prompt_ids)) for group in loop.data.round_prompts[:1] for p in group[:2]
    ]
    found += preview.examples
    found += [("pair, chosen", [*p.prompt.prompt_ids, *p.chosen.ids]) for p in loop.data.pairs[:1]]
    first_of_kind = [one for i, one in enumerate(found) if one[0] not in [title for title, _ in found[:i]]]
    return [*first_of_kind, *(one for one in found if one not in first_of_kind)][:3]


def _engine_of(holder: int | None) -> int | None:
    """Process id of the living vLLM engine that a process has started."""
    try:
        children = psutil.Process(holder).children() if holder else []
        return next((child.pid for child in children if "selfimprove.sampling.vllm_engine" in child.cmdline()), None)
    except psutil.Error:
        return None


def print_status(folder: Path, verify: bool, out: Console) -> None:
    """Steps finished and under way, and what SCoRe's stages came to; with `verify`, every file's digest."""
    from selfimprove.report.events import FILE_NAME, read_events
    from selfimprove.report.terminal import stages_table

    run = Run(folder)
    recipe = run.read_recipe()
    holder = run.holder()
    state = f"process {holder} is working on it" if holder else "no process is working on it"
    if engine := _engine_of(holder):
        state += f" (its vLLM engine: process {engine})"
    out.print(f"{folder}: method {recipe['method']}, model {recipe['model']}; {state}", highlight=False, soft_wrap=True)
    store = Store(Path(recipe["store"]) if recipe.get("store") else folder / "steps")
    table = Table("step", "seconds", "tokens", "files", box=None, pad_edge=False)
    damaged = []
    for artefact in store.all():
        # New times alone (a copied run) are no damage: what looks changed is read.
        problem = artefact.damage() if verify or not artefact.looks_whole() else None
        damaged += [problem] if problem else []
        figures = artefact.figures
        table.add_row(
            str(artefact.manifest.get("label", artefact.folder.name)),
            f"{figures['seconds']:.1f}" if figures else "", f"{figures['tokens']:,}" if figures else "",
            problem or ("whole (verified)" if verify else "whole"),
        )  # fmt: skip
    out.print(table)
    for partial in sorted(store.folder.glob(".partial-*")):
        done, total = len(list(partial.glob("rows-*.arrow"))), "?"
        if (partial / "step.json").is_file():
            task = json.loads((partial / "step.json").read_text())
            total, name = task["shards"], task["label"]
            out.print(f"under way: {name}: {done} of {total} shards", highlight=False)
    events = folder / FILE_NAME
    if events.is_file() and (stages := stages_table(read_events(events))).row_count:
        out.print(stages)
    if damaged:
        raise InputError("\n".join(["damaged (the next `selfimprove run` makes it again):", *damaged]))


def print_doctor(out: Console) -> bool:
    """What is installed and what is missing, with the command that mends it; True if a run can work."""
    import torch

    from selfimprove.cli.speed import keep_speed
    from selfimprove.models.policy import pick_device
    from selfimprove.sampling.backends import choose_backend
    from selfimprove.sampling.vllm import installed

    table = Table("what", "found", "note", box=None, pad_edge=False)
    good = True
    for package in ("torch", "transformers", "trl", "peft", "accelerate", "datasets"):
        try:
            table.add_row(package, version(package), "")
        except PackageNotFoundError:
            good = False
            table.add_row(package, "missing", f"pip install {package}")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no"
    table.add_row("python", platform.python_version(), "")
    table.add_row("GPU", gpu, "" if torch.cuda.is_available() else "runs use the CPU")
    device = pick_device()
    dtype = "bfloat16" if device != "cpu" else "float32"
    speed = keep_speed(dtype, device)
    products = f"{speed.large / 1e9:,.0f} GFLOP/s, {speed.decode / 1e9:,.0f} with {speed.decode_rows} rows"
    table.add_row(f"matrix products, {dtype}", products, "kept for the times that `selfimprove check` gives")
    chosen, _ = choose_backend("auto", device)
    vllm = installed(device)
    picked = "what sampling.backend=auto picks here"
    table.add_row("sampler: transformers", "works", picked if chosen == "transformers" else "")
    if vllm.problem:
        table.add_row("sampler: vllm", "broken" if vllm.version else "missing", vllm.problem)
        good &= vllm.version is None  # not having it is fine
    else:
        table.add_row("sampler: vllm", f"{vllm.version} works", vllm.untested or picked)
    client = find_spec("openai") is not None
    table.add_row("sampler: openai", "works" if client else "missing", "" if client else "pip install openai")
    for builtin in BUILTINS.values():
        cached = list((cache_folder() / "models").glob(f"{builtin.name}-*/config.json"))
        table.add_row(
            f"model {builtin.name}",
            "cached" if cached else "not yet",
            "" if cached else "fetched on first use, 93 MB",
        )
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache_folder()).free / 2**30
        table.add_row("cache", f"{free:.0f} GB free", str(cache_folder()))
    except OSError as error:
        good = False
        table.add_row("cache", "not writable", f"{error}; set SELFIMPROVE_CACHE")
    out.print(table)
    return good
