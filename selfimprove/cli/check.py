"""`check`, `status` and `doctor`: what will happen, what has happened, what is installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from selfimprove.artefacts import Store
from selfimprove.errors import InputError
from selfimprove.judging.rubric import Rubric, RubricOptions, load_rubric
from selfimprove.models.chat import accepted_turns, append_turn, render_example, render_prompt
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import is_code_file
from selfimprove.report.events import EventLog
from selfimprove.report.summary import duration
from selfimprove.report.text import printable
from selfimprove.steps.cost import Preview, Tokens, tokens_of

if TYPE_CHECKING:
    from selfimprove.steps.cost import Tokens


def check_recipe(recipe: Recipe, out: Console) -> None:
    """Loads the data, checks what can be checked before a run, and prints examples and an estimate."""
    from selfimprove.loop.loop import Loop
    from selfimprove.quiet import quiet_libraries
    from selfimprove.report.terminal import Progress
    from selfimprove.training.accelerate_file import find_accelerate_file, missing_here, read_accelerate_file
    from selfimprove.training.stages import batch_split

    if recipe.contract.over == "inference":
        raise InputError(f"check: method {recipe.method!r} trains nothing; run it: it says first what is wrong")
    quiet_libraries()
    batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, recipe.training.processes)
    if code := _code_of(recipe):
        out.print(f"this recipe runs your code: {', '.join(code)}", highlight=False, soft_wrap=True)
    events = EventLog(Path(recipe.output), wait=True)  # never opened: `check` writes nothing
    loop = Loop(recipe, Store(Path(recipe.output) / "steps"), events, Progress())
    loop.check_leaks()
    out.print(
        f"recipe: method {recipe.method}, model {recipe.model}, {loop.backend} sampler on {loop.device}",
        highlight=False,
    )
    preview = _preview(loop)
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
    out.print(_estimate(loop, preview))


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
    between = len(append_turn(loop.tokenizer, [], turns[0]))
    return replace(found, examples=[*found.examples, second], between=found.between or between)


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


def _estimate(loop: Any, preview: Preview) -> Table:
    """Tokens, time, memory and disk, from the model's shape and this machine's matrix products. Upper bounds: every
    response is taken to use all of sampling.max_new_tokens."""
    if loop.recipe.contract.cost is None:
        table = Table("estimate", box=None, pad_edge=False)
        table.add_row(f"not known: method {loop.recipe.method} does not say what it takes (`cost=` of its decorator)")
        return table
    from selfimprove.steps.floor import machine_speed, model_size

    recipe, base = loop.recipe, Path(loop.base_policy.base)

    ranking = _ranking_rubric(recipe)

    def of(recipe: Recipe) -> Tokens:
        prompts = [[len(p.prompt_ids) for p in group] for group in loop.data.round_prompts]
        seed = sum(len(e["prompt_ids"]) + len(e["response_ids"]) for e in loop.data.seed_examples)
        found = tokens_of(recipe, prompts, seed, preview.between, gpu=loop.device != "cpu")
        if ranking is None:
            return found
        values = dict.fromkeys(("instruction", "response", "output_1", "output_2"), "")
        question = len(render_prompt(loop.tokenizer, accepted_turns(loop.tokenizer, ranking.messages(values))))
        return with_rubric(found, recipe, list(chain(*prompts)), ranking.options, question)

    tokens = of(recipe)
    items = sum(map(_answers, loop.evaluator.suites)) * tokens.policies
    table = Table("estimate", "at most", box=None, pad_edge=False)
    table.add_row(
        "tokens sampled / scored / trained", f"{tokens.sampled:,.0f} / {tokens.scored:,.0f} / {tokens.trained:,.0f}"
    )
    try:
        size, speed = model_size(str(base)), machine_speed(loop.dtype, loop.device)
    except KeyError as missing:
        table.add_row("time", f"not known: {base / 'config.json'} has no {missing}")
    else:
        passes, weights = 2 if recipe.training.lora else 3, 2 * (size.body + size.head)

        def time_of(tokens: Tokens) -> str:
            many = tokens.read + tokens.scored + passes * tokens.trained
            return duration(2 * weights * (many / speed.large + (tokens.sampled + 60 * items) / speed.decode))

        table.add_row("time", f"{time_of(tokens)} (at half of this machine's matrix speed)")
        if preview.at_once:
            table.add_row("time, if all passes at once", time_of(of(preview.at_once)))
    for row in _memory_and_disk(loop, base, preview):
        table.add_row(*row)
    return table


def with_rubric(tokens: Tokens, recipe: Recipe, rows: Sequence[int], rubric: RubricOptions, question: int) -> Tokens:
    """`tokens` with those of a rubric that a local model reads to rank each prompt's samples.

    Args:
        question: tokens of what the judge is asked, without the texts in it.
    """
    n, new = recipe.sampling.n, recipe.sampling.max_new_tokens
    each, texts = (n * (n - 1), 2) if rubric.of == "pair" else (n, 1)
    read = each * (sum(rows) + len(rows) * (question + texts * new))
    if rubric.parser in ("labels", "digits"):
        return replace(tokens, scored=tokens.scored + read)
    written = each * len(rows) * rubric.max_new_tokens
    return replace(tokens, read=tokens.read + read, sampled=tokens.sampled + written)


def _ranking_rubric(recipe: Recipe) -> Rubric | None:
    """The rubric by which a local model ranks the samples."""
    judge = recipe.ranked_by()
    judge = judge and (judge.of or judge)
    if judge is None or judge.kind != "rubric" or judge.server:
        return None
    return load_rubric(str(judge.rubric), recipe.search_folders())


def _answers(loaded: Any) -> int:
    """How many answers a suite has of a policy; a judge reads as many as are drawn of the model that it judges."""
    return len(loaded.items) * (loaded.suite.samples if loaded.suite.kind == "graded" else 1)


def _memory_and_disk(loop: Any, base: Path, preview: Preview) -> list[tuple[str, str]]:
    """Rows of the estimate by `selfimprove/steps/memory.py`; of an unknown model family, the free disk only."""
    from selfimprove.steps import memory as estimate
    from selfimprove.training.accelerate_file import find_accelerate_file, read_accelerate_file

    recipe, data, gpu = loop.recipe, loop.data, loop.device != "cpu"
    free = f"{shutil.disk_usage(_existing(Path(recipe.output))).free / estimate.GIB:.0f} GB free"
    try:
        shape = estimate.Shape.read(base)
    except KeyError as missing:
        return [("memory and disk", f"not known: {base / 'config.json'} has no {missing}; {free}")]
    sharded = False
    if recipe.training.accelerate:
        config = read_accelerate_file(find_accelerate_file(recipe))
        sharded = config.distributed_type.value in ("FSDP", "DEEPSPEED")
    given = [(len(p.prompt.prompt_ids), len(a.ids)) for p in data.pairs for a in (p.chosen, p.rejected)]
    prompts = [len(p.prompt_ids) for group in data.round_prompts for p in group] + [prompt for prompt, _ in given]
    prompt = max(prompts, default=0)
    example = max((len(e["prompt_ids"]) + len(e["response_ids"]) for e in data.seed_examples), default=0)
    prompt, example = preview.prompt or prompt, preview.example or example
    plan = estimate.plan_of(
        recipe,
        half=loop.dtype == "bfloat16",
        gpu=gpu,
        prompt=prompt,
        response=max((response for _, response in given), default=None),
        example=example,
        sharded=sharded,
        between=preview.between,
    )
    margin = 1.0 if gpu else estimate.CPU_MARGIN
    peaks = {step: margin * memory.total for step, memory in estimate.peaks(shape, plan, recipe).items()}
    if loop.backend == "vllm" and not gpu:
        held, loading = estimate.engine_on_cpu(shape, plan, adapter=plan.lora_rank is not None)
        peaks = {step: size + held for step, size in peaks.items()} | {"sample": held + loading}
    most = max(peaks, key=lambda step: peaks[step])
    each = " on each GPU" if gpu and plan.processes > 1 else ""
    by_step = ", ".join(f"{step} {size / estimate.GIB:.1f}" for step, size in peaks.items())
    disk = estimate.disk_of(shape, plan, recipe, len(data.round_prompts))
    rows = [
        ("parameters", f"{shape.parameters / 1e6:,.0f} M"),
        ("memory", f"{peaks[most] / estimate.GIB:.1f} GB{each}, in step {most} ({by_step})"),
        (
            "disk",
            f"{disk.kept / estimate.GIB:.2f} GB kept, {disk.while_training / estimate.GIB:.2f} GB more while it trains "
            f"({free})",
        ),
    ]
    if gpu and recipe.contract.trains:
        rows.insert(2, ("main memory to load", f"{estimate.loading(shape, plan) / estimate.GIB:.1f} GB"))
    return rows


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
