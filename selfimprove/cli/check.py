"""`check`: what a recipe will do, three rendered examples, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from selfimprove.artefacts import Store
from selfimprove.errors import InputError
from selfimprove.models.chat import append_turn, render_example
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import is_code_file
from selfimprove.report.events import EventLog
from selfimprove.report.text import printable
from selfimprove.steps.cost import Preview


def check_recipe(recipe: Recipe, out: Console, json: bool = False) -> dict[str, Any]:
    """Loads the data, checks what can be checked before a run, and prints examples and an estimate. Gives what the run
    needs, and with `json` prints nothing."""
    from selfimprove.cli.estimate import figures_of, needs_of, table_of, verdict
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
        errors = Console(stderr=True)
        for line in _keys(recipe):  # a model or data of a hub that is out of reach, or of a run that is not there yet
            errors.print(line, highlight=False, soft_wrap=True, markup=False)
        raise
    loop.check_leaks()
    preview, needs = _preview(loop), needs_of(loop)
    said, fits = verdict(loop, needs)
    figures = {"outcome": said, "fits": fits, "method": recipe.method, "model": recipe.model} | figures_of(needs)
    if json:
        return figures
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
    return figures


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
    named += [one.code for one in (judge, judge.of if judge else None, reward) if one]
    named += [recipe.sampling.backend] if ":" in recipe.sampling.backend else []
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
