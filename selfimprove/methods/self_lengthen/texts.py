"""What `self_lengthen` is made of, over a `Loop`: instructions, answers and their longer versions."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfimprove.artefacts import digest_of, write_file
from selfimprove.data.leakage import leaks
from selfimprove.data.rows import RenderedPrompt
from selfimprove.data.words import count_words, first_two_thirds, halves, keep_long, rejection
from selfimprove.errors import RunFailed
from selfimprove.judging.checkers.exact import normalized
from selfimprove.loop.record import Round
from selfimprove.methods.self_lengthen.growth import growth_figures
from selfimprove.methods.self_lengthen.plan import lengthening_context
from selfimprove.methods.self_lengthen.questions import enrich, extend, instruct, suitable, user
from selfimprove.methods.self_lengthen.text import Extended, Text
from selfimprove.models.chat import Message, render_open, render_prompt
from selfimprove.models.policy import Policy
from selfimprove.sampling.shaping import cut_at

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop

_UNFINISHED, _NO_ROOM = "unfinished", "no room in the model's context"
_SHORT, _NOT_LONGER, _LITTLE = "dropped as short", "not longer than before", "grew too little"


def instructions_for(loop: Loop, policy: Policy, round: Round, count: int | None = None) -> list[str]:
    """The round's instructions: its own prompts, or (`instructions` above 0, or a `count`) as many new ones by
    self-instruct from them, each kept where `policy` calls it suitable. RunFailed where none is."""
    options, seeds = loop.recipe.options, [prompt.text for prompt in round.prompts]
    most = options.instructions if count is None else count
    if not most:
        return seeds
    kept: list[str] = []
    rejected = Counter[str]()
    for attempt in range(options.instruct_tries):
        wanted = most - len(kept)
        if not wanted:
            break
        pool = seeds + kept[len(kept) - len(kept) % options.pool_restart :]
        choose = random.Random(f"self-instruct|{loop.recipe.seed}|{round.number}|{attempt}")
        asked = {}
        for place in range(wanted):
            first, second = choose.sample(pool, 2) if len(pool) > 1 else (pool[0], pool[0])
            asked[f"{round.number}|instruction {place}|try {attempt}"] = (instruct(first, second), "")
        label = f"sample self-instruct of round {round.number}, try {attempt + 1}"
        written = _written(loop, policy, asked, label)
        known, fitting = {*seeds, *kept}, {}
        for id, (text, why) in written.items():
            found = _instruction(text)
            if why is None and 3 < count_words(found) < 500 and found not in known:
                fitting[id] = found
                known.add(found)
        rejected[_NO_ROOM] += len(asked) - len(written)
        rejected["unfinished, not 4 to 499 words, or known"] += len(written) - len(fitting)
        evaluated = {text for text, _, _ in leaks(fitting.values(), loop.evaluator.texts())}
        rejected["an evaluation prompt"] += sum(text in evaluated for text in fitting.values())
        fitting = {id: text for id, text in fitting.items() if text not in evaluated}
        questions = {id: suitable(text, options.suitable_words) for id, text in fitting.items()}
        said = loop.ask(policy, questions, 4, f"suitable instructions, try {attempt + 1}")
        for id, text in fitting.items():
            if id in said and normalized(said[id].text, ("lower", "strip", "final_period")) == "yes":
                kept.append(text)
            else:
                rejected["not called suitable"] += 1
    _report_filter(loop, round, "instructions", most, len(kept), rejected)
    if not kept:
        raise RunFailed(
            f"round {round.number}: no new instruction passed in {options.instruct_tries} tries ({_said(rejected)}); "
            "self_lengthen.instructions=0 uses data.prompts as they are"
        )
    return kept


def initial_texts(loop: Loop, generator: Policy, instructions: Sequence[str], round: Round) -> list[Text]:
    """The Generator's answers that pass the filter, `initial` of each instruction, without those that are dropped as
    short. What fails is asked again, all at once, at most `initial_tries` times."""
    options = loop.recipe.options
    waiting = {
        f"{round.number}|{place}.{number}": instruction
        for place, instruction in enumerate(instructions)
        for number in range(options.initial)
    }
    wanted, found, rejected = len(waiting), dict[str, Text](), Counter[str]()
    for attempt in range(options.initial_tries):
        if not waiting:
            break
        asked = {f"{id}|try {attempt}": (user(text), "") for id, text in waiting.items()}
        label = f"sample initial answers of {generator.name}, round {round.number}, try {attempt + 1}"
        written = _written(loop, generator, asked, label)
        for id, instruction in list(waiting.items()):
            text, why = written.get(f"{id}|try {attempt}", ("", _NO_ROOM))
            if why := why or rejection(text, options.language):
                rejected[why] += 1
            else:
                found[id] = Text(id, instruction, text)
                del waiting[id]
    texts = list(found.values())
    kept = _without_short(loop, texts, f"initial|{round.number}")
    rejected[_SHORT] += len(texts) - len(kept)
    _report_filter(loop, round, "initial", wanted, len(kept), rejected)
    if not kept:
        raise RunFailed(f"round {round.number}: no initial answer is left ({_said(rejected)}); {_HINT}")
    return kept


def extended_texts(loop: Loop, extender: Policy, initial: Sequence[Text], round: Round) -> list[Extended]:
    """Longer versions by the Extender, `extensions` of each answer: every try grows the text for `micro_iterations`,
    and what then has more than `growth` times the words of the answer is kept. The others are tried again, all at
    once, at most `extension_tries` times."""
    options = loop.recipe.options
    waiting = {f"{one.id}.{number}": one for one in initial for number in range(options.extensions)}
    wanted, found, rejected = len(waiting), dict[str, Extended](), Counter[str]()
    for attempt in range(options.extension_tries):
        if not waiting:
            break
        best = {id: one.text for id, one in waiting.items()}
        for micro in range(options.micro_iterations):
            where = f"round {round.number}, try {attempt + 1}, iteration {micro + 1}"
            best |= _longer(loop, extender, waiting, best, f"try {attempt}.{micro}", where, rejected)
        for id, one in list(waiting.items()):
            if count_words(best[id]) > options.growth * one.words:
                found[id] = Extended(one, Text(id, one.instruction, best[id]))
                del waiting[id]
            elif best[id] != one.text:
                rejected[_LITTLE] += 1
    by_length = _without_short(loop, [one.longer for one in found.values()], f"extended|{round.number}")
    kept = [found[text.id] for text in by_length]
    rejected[_SHORT] += len(found) - len(kept)
    _report_filter(loop, round, "extended", wanted, len(kept), rejected)
    if not kept:
        raise RunFailed(f"round {round.number}: no text became longer ({_said(rejected)}); {_HINT}")
    return kept


def _longer(
    loop: Loop,
    extender: Policy,
    waiting: Mapping[str, Text],
    best: Mapping[str, str],
    attempt: str,
    where: str,
    rejected: Counter[str],
) -> dict[str, str]:
    """One micro-iteration of all texts: those that came out longer and pass the filter."""
    name, language = extender.name, loop.recipe.options.language
    outlines = {id: halves(text)[0] for id, text in best.items()}
    asked = {
        f"{id}|{attempt} first half": (enrich(waiting[id].instruction, outline), "") for id, outline in outlines.items()
    }
    enriched = _written(loop, extender, asked, f"sample first halves enriched by {name}, {where}")
    openings = {}
    for id in best:
        text, why = enriched.get(f"{id}|{attempt} first half", ("", _NO_ROOM))
        if opening := first_two_thirds(text).rstrip():
            openings[id] = opening  # what was cut off is in the last third, or a reason to fail later
        else:
            rejected[why or "nothing written"] += 1
    asked = {
        f"{id}|{attempt} whole": (extend(waiting[id].instruction, best[id]), opening)
        for id, opening in openings.items()
    }
    whole = _written(loop, extender, asked, f"sample texts extended by {name}, {where}")
    longer = {}
    for id in openings:
        text, why = whole.get(f"{id}|{attempt} whole", ("", _NO_ROOM))
        why = why or rejection(text, language)
        if why is None and count_words(text) <= count_words(best[id]):
            why = _NOT_LONGER
        if why:
            rejected[why] += 1
        else:
            longer[id] = text
    return longer


def _written(
    loop: Loop, policy: Policy, asked: Mapping[str, tuple[list[Message], str]], label: str
) -> dict[str, tuple[str, str | None]]:
    """(text, None), or (text, `unfinished`), of every question that fits the context: a whole batch, one answer each,
    with its forced beginning in front. A question's id is in the noise of its answer, so a new try draws anew."""
    sampling, tokenizer = loop.recipe.sampling, loop.tokenizer
    context, new = lengthening_context(loop, policy), sampling.max_new_tokens
    rendered, begun, too_long = [], {}, []
    for id, (messages, beginning) in asked.items():
        prompt = render_prompt(tokenizer, messages)
        ids = render_open(tokenizer, messages, beginning) if beginning else prompt
        if len(ids) + new > context:
            too_long.append(len(ids))
        else:
            rendered.append(RenderedPrompt(id, tuple(ids), messages[-1]["content"]))
            begun[id] = ids[len(prompt) :]
    if too_long:
        loop.note(
            f"{label}: {len(too_long)} of {len(asked)} questions, of up to {max(too_long):,} tokens, do not fit the "
            f"context of {context:,} with {new:,} new ones (sampling.max_new_tokens), and are not asked"
        )
    if not rendered:
        return {}
    drawn = loop.draw(
        policy,
        rendered,
        label,
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        shaping=sampling.shaping,
        max_new_tokens=new,
    )
    texts = {}
    for one in drawn.all():
        before = begun[one.prompt_id]
        # Decoded together: some tokenizers lose the space at the beginning of a piece.
        text = tokenizer.decode([*before, *one.ids], skip_special_tokens=True)
        text = cut_at(text, sampling.stop, len(tokenizer.decode(before, skip_special_tokens=True)))
        texts[one.prompt_id] = text.strip(), None if one.finish == "stop" else _UNFINISHED
    return texts


def collected_texts(loop: Loop, base: Policy, generator: Policy) -> list[Text]:
    """The longest answer of the last Generator to each of `collect` new instructions (with `instructions: 0` the
    prompts that no round had); none where none are asked for."""
    options, number = loop.recipe.options, loop.recipe.rounds + 1
    if not options.collect:
        return []
    if options.instructions:
        seeds = [prompt for prompts in loop.data.round_prompts for prompt in prompts]
        instructions = instructions_for(loop, base, Round(number, seeds), options.collect)
    else:
        instructions = [prompt.text for prompt in loop.data.spare_prompts[: options.collect]]
    longest: dict[str, Text] = {}
    for one in initial_texts(loop, generator, instructions, Round(number, [])):
        if one.instruction not in longest or one.words > longest[one.instruction].words:
            longest[one.instruction] = one
    return list(longest.values())


def write_texts(loop: Loop, extended: Sequence[Extended], collected: Sequence[Text] = ()) -> None:
    """`texts.jsonl` in the run's folder: every text that was kept, with its instruction, round and role."""
    named = [(one, role) for pair in extended for one, role in ((pair.initial, "initial"), (pair.longer, "extended"))]
    named += [(one, "collected") for one in collected]
    lines = {  # an answer with two longer versions is one text
        (one.id, role): json.dumps(
            {
                "instruction": one.instruction,
                "response": one.text,
                "round": int(one.id.partition("|")[0]),
                "role": role,
                "words": one.words,
                "id": one.id,
            },
            ensure_ascii=False,
        )
        for one, role in named
    }
    write_file(Path(loop.recipe.output) / "texts.jsonl", "".join(f"{line}\n" for line in lines.values()).encode())


def report_texts(loop: Loop, round: Round, initial: Sequence[Text], extended: Sequence[Extended]) -> None:
    """The event `lengths` of the round's texts."""
    wanted = loop.recipe.options.growth
    figures = {"round": round.number, **growth_figures(initial, extended, wanted)}
    loop.events.emit("lengths", digest_of(figures), **figures)


def _report_filter(loop: Loop, round: Round, what: str, wanted: int, kept: int, rejected: Counter[str]) -> None:
    figures = {"round": round.number, "what": what, "wanted": wanted, "kept": kept}
    rejected = Counter({why: count for why, count in rejected.items() if count})
    loop.events.emit("filter", f"{what}|{round.number}|{digest_of(dict(rejected))}", **figures, rejected=dict(rejected))
    loop.note(f"round {round.number}: {kept} of {wanted} {what} kept" + (f" ({_said(rejected)})" if rejected else ""))


def _without_short(loop: Loop, texts: Sequence[Text], what: str) -> list[Text]:
    if not loop.recipe.options.drop_short:
        return list(texts)
    kept = keep_long([len(one.text) for one in texts], random.Random(f"short|{loop.recipe.seed}|{what}"))
    return [one for one, keep in zip(texts, kept, strict=True) if keep]


def _instruction(text: str) -> str:
    """The first line of what was written, without a number or quotes in front; not one that only leads to the next."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((line for line in lines if not line.endswith(":")), "")
    return re.sub(r"^(?:\d+[.)]|[-*])\s+", "", first).strip('"“” ')


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{why}: {count}" for why, count in counts.items() if count) or "no reason"


_HINT = (
    "look at the texts in the sampling steps' folders; self_lengthen.language says whose rules they must keep, a "
    "larger sampling.max_new_tokens lets texts end, and self_lengthen.drop_short=false keeps short ones"
)
