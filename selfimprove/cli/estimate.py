"""What a run needs: time, memory and disk of the steps that its method walks through, and whether that is here."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.table import Table

from selfimprove.cli.speed import speed_here
from selfimprove.loop.dry import Walk, walk
from selfimprove.report.summary import duration
from selfimprove.steps import memory as formulas
from selfimprove.steps.floor import Speed, model_size

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.steps.cost import Preview

GIB = formulas.GIB


@dataclass
class Needs:
    """An upper bound of what a run takes. `unknown`: in words, what of it is not known, by name.

    Attributes:
        seconds, memory: by what is done; memory in bytes of one process, on a GPU of that.
        loading: main memory (bytes) while a training loads on GPUs.
        kept, more: disk (bytes) at the end, and how much more there is while it trains.
    """

    walk: Walk
    unknown: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    loading: int = 0
    kept: int = 0
    more: int = 0


def needs_of(loop: Loop) -> Needs:
    """Walks the method of a prepared loop."""
    found = Needs(walk(loop))
    if found.walk.unknown:
        found.unknown["all of it"] = found.walk.unknown
    try:
        found.seconds = seconds_of(found.walk, speed_here(loop.dtype, loop.device))
    except KeyError as missing:
        found.unknown["time"] = f"{loop.base_policy.base}/config.json has no {missing}"
    try:
        _bytes(loop, found)
    except KeyError as missing:
        found.unknown["memory and disk"] = f"{loop.base_policy.base}/config.json has no {missing}"
    return found


def seconds_of(walked: Walk, speed: Speed) -> dict[str, float]:
    """Seconds at half of this machine's matrix speed, by what is done. KeyError: a configuration of another family."""
    found: dict[str, float] = {}
    for step in walked.steps:
        if step.base:
            size, passes = model_size(step.base), 3 if step.trained == "full" else 2
            many = step.tokens.read + step.tokens.scored + passes * step.tokens.trained
            each = 2 * (size.body + size.head)
            seconds = each * (many / speed.large + step.tokens.sampled / speed.decode)
            found[step.purpose] = found.get(step.purpose, 0) + 2 * seconds
    return found


def _bytes(loop: Loop, found: Needs) -> None:
    gpu = loop.device != "cpu"
    found.parameters = formulas.Shape.read(Path(loop.base_policy.base)).parameters
    margin = 1.0 if gpu else formulas.CPU_MARGIN
    for step in found.walk.steps:
        if not step.base or not step.dry.plan or not step.dry.memory:
            continue
        shape, plan = formulas.Shape.read(Path(step.base)), step.dry.plan
        held = margin * step.dry.memory(shape, plan).total
        if loop.backend == "vllm" and not gpu:
            engine, reading = formulas.engine_on_cpu(shape, plan, adapter=bool(loop.recipe.training.lora))
            held = engine + (reading if step.dry.memory is formulas.sampling else held)
        found.memory[step.purpose] = max(held, found.memory.get(step.purpose, 0))
        if step.trained:
            disk = formulas.disk(shape, plan, trainings=step.dry.policies)
            found.kept += disk.kept
            found.more = max(found.more, disk.while_training + step.dry.beside * disk.policy)
            found.loading = max(found.loading, formulas.loading(shape, plan))


def verdict(loop: Loop, needs: Needs) -> tuple[str, bool]:
    """One sentence: what the run needs, and whether that is here."""
    if "all of it" in needs.unknown:
        return f"what it needs is not known: {needs.unknown['all of it']}", True
    parts, short = [], []
    if needs.seconds:
        parts.append(f"{duration(sum(needs.seconds.values()))} at most")
    if needs.memory:
        most, total = max(needs.memory.values()), _memory_here(loop.device)
        each = " on each GPU" if loop.device != "cpu" and loop.recipe.training.processes > 1 else ""
        parts.append(f"{most / GIB:.1f} GB of memory{each}")
        if most > total:
            short.append(f"{total / GIB:.1f} GB of memory")
        disk, free = needs.kept + needs.more, disk_free(loop)
        parts.append(f"{disk / GIB:.2f} GB of disk")
        if disk > free:
            short.append(f"{free / GIB:.1f} GB of disk free")
    unknown = "".join(f"; {name} not known: {why}" for name, why in needs.unknown.items())
    fits = f": does not fit here ({' and '.join(short)})" if short else ": fits here" if needs.memory else ""
    return f"needs {', '.join(parts) or 'what is not known'}{fits}{unknown}", not short


def figures_of(needs: Needs) -> dict[str, Any]:
    """The same for programs: tokens, seconds and bytes (memory: of one process, by what is done)."""
    return {
        "tokens": asdict(needs.walk.tokens()),
        "policies evaluated": needs.walk.evaluated,
        "parameters": needs.parameters,
        "seconds": needs.seconds,
        "memory": needs.memory,
        "disk": {"kept": needs.kept, "more while it trains": needs.more},
        "not known": needs.unknown,
    }


def table_of(loop: Loop, needs: Needs, preview: Preview) -> Table:
    """Tokens, steps, time, memory and disk."""
    table = Table("estimate", "at most", box=None, pad_edge=False)
    if why := needs.unknown.get("all of it"):
        table.add_row("not known", f"{why}; the method's `cost=` can say it. Up to there:")
    tokens = needs.walk.tokens()
    table.add_row(
        "tokens sampled / scored / trained", f"{tokens.sampled:,.0f} / {tokens.scored:,.0f} / {tokens.trained:,.0f}"
    )
    trained = Counter(step.purpose for step in needs.walk.steps if step.trained)
    made = [f"{count} x {purpose}" for purpose, count in trained.items()]
    table.add_row("trained, evaluated", f"{', '.join(made) or 'nothing'}; {needs.walk.evaluated} policies evaluated")
    if "time" in needs.unknown:
        table.add_row("time", f"not known: {needs.unknown['time']}")
    else:
        total, parts = sum(needs.seconds.values()), [f"{name} {duration(s)}" for name, s in needs.seconds.items() if s]
        table.add_row("time", f"{duration(total)} at half of this machine's matrix speed ({', '.join(parts)})")
        if preview.at_once:
            once = seconds_of(walk(loop, preview.at_once), speed_here(loop.dtype, loop.device))
            table.add_row("time, if all passes at once", duration(sum(once.values())))
    for row in _memory_and_disk(loop, needs):
        table.add_row(*row)
    return table


def _memory_and_disk(loop: Loop, needs: Needs) -> list[tuple[str, str]]:
    free = f"{disk_free(loop) / GIB:.0f} GB free"
    if "memory and disk" in needs.unknown:
        return [("memory and disk", f"not known: {needs.unknown['memory and disk']}; {free}")]
    rows = [("parameters", f"{needs.parameters / 1e6:,.0f} M")]
    if needs.memory:
        most = max(needs.memory, key=lambda name: needs.memory[name])
        each = " on each GPU" if loop.device != "cpu" and loop.recipe.training.processes > 1 else ""
        by_step = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needs.memory.items())
        rows.append(("memory", f"{needs.memory[most] / GIB:.1f} GB{each}, in {most} ({by_step})"))
    if loop.device != "cpu" and needs.loading:
        rows.append(("main memory to load", f"{needs.loading / GIB:.1f} GB"))
    disk = f"{needs.kept / GIB:.2f} GB kept, {needs.more / GIB:.2f} GB more while it trains ({free})"
    return [*rows, ("disk", disk)]


def _memory_here(device: str) -> int:
    if device == "cpu":
        return int(psutil.virtual_memory().total)
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def disk_free(loop: Loop) -> int:
    """Bytes that are free where the run's folder is, or will be."""
    path = Path(loop.recipe.output).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
