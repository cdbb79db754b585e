"""What `self_judge` is made of, over a `Loop`: a response's two grades, the step that trains a judge, its folder."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from selfimprove import gates
from selfimprove.artefacts import digest_of, explained_write, sync_tree, write_json
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import Judge, ask_judge
from selfimprove.judging.digit_questions import question_ids
from selfimprove.judging.digits import digit_tokens
from selfimprove.judging.rubric import Rubric, load_rubric, write_rubric
from selfimprove.methods.self_judge.labels import HIGHEST, combined_labels
from selfimprove.methods.self_judge.options import SelfJudge
from selfimprove.methods.self_judge.similarity import find_embedding
from selfimprove.models.chat import end_of_turn_id
from selfimprove.models.policy import Policy, load_tokenizer, portable_name
from selfimprove.recipe.judges import Reader
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import environment
from selfimprove.training.stages import read_history

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.loop.record import Round

_PROBE = 8
_TOO_LONG = "question longer than training.max_length"

# By (prompt id, index of the response); None is missing.
Grades = Mapping[tuple[str, int], float | None]


def prepare(loop: Loop, options: SelfJudge) -> dict[str, str]:
    """Finds what grades a response, which a recipe names and does not show, and gives the digests of it; `InputError`
    where it is not to be had."""
    rubric = find_rubric(loop)
    _, embedding = find_embedding(options.embedding)
    digit_tokens(loop.tokenizer)
    for prompt in (prompt for prompts in loop.data.round_prompts for prompt in prompts):
        if prompt.answer is None:
            raise InputError(f"data.prompts: prompt {prompt.id!r} has no answer; every one needs its reference")
    return {"self_judge.rubric": rubric.digest, "self_judge.embedding": embedding}


def find_rubric(loop: Loop) -> Rubric:
    """The recipe's rubric, which must read digits and have a prompt that shows a reference. InputError otherwise."""
    name = loop.recipe.options.rubric
    rubric = load_rubric(name, loop.recipe.search_folders())
    if rubric.options.parser != "digits" or not rubric.has("reference"):
        raise InputError(
            f"self_judge.rubric: {name} has parser {rubric.options.parser!r} and "
            f"{'a' if rubric.has('reference') else 'no'} prompt-reference.txt; a judge is trained on a rubric with "
            "parser 'digits' and both prompts"
        )
    return rubric


def self_evaluation(loop: Loop, rubric: Rubric, policy: Policy, responses: Responses) -> Grades:
    """z1: the expected digit of `policy`, which reads the reference too. Equal responses are asked about once."""
    questions, asked_as = {}, {}
    for prompt, its_responses in responses:
        seen: dict[str, str] = {}
        for response in its_responses:
            id = seen.setdefault(response.text, f"{prompt.id}#{response.index}")
            asked_as[prompt.id, response.index] = id
            values = {"instruction": prompt.conversation, "response": response.text, "reference": str(prompt.answer)}
            questions[id] = rubric.messages(values, "reference")
    asked = ask_judge(loop, Judge(rubric, Reader(), policy), questions, "self-evaluation with the reference")
    return {place: asked.verdicts[id][0] for place, id in asked_as.items()}


def similarity(loop: Loop, responses: Responses) -> Grades:
    """z2: the cosine of the response's and the reference's sentence embeddings, as a durable step."""
    folder, digest = find_embedding(loop.recipe.options.embedding)
    pairs = [
        {"prompt_id": prompt.id, "index": one.index, "text": one.text, "reference": prompt.answer}
        for prompt, its_responses in responses
        for one in its_responses
    ]
    artefact = loop.step(
        StepRequest(
            step="similarity",
            label="similarity of responses and references",
            options={"embedding": digest},
            inputs={"pairs": pairs},
            policies={},
            seed=0,
            execution={"folder": folder, "device": loop.device},
        )
    )
    rows = artefact.rows()
    if cut := sum(row["cut"] for row in rows):
        loop.note(
            f"{cut} of {len(rows)} responses, or their references, are longer than {loop.recipe.options.embedding} "
            "reads: only their beginnings are compared (self_judge.embedding takes another model)"
        )
    return {(row["prompt_id"], row["index"]): row["cosine"] for row in rows}


class Example(NamedTuple):
    """A response and its label; `row`: the two questions as token ids, for the training step."""

    prompt: RenderedPrompt
    response: Response
    label: int
    row: dict[str, Any]


def labelled_examples(
    loop: Loop, rubric: Rubric, responses: Responses, own: Grades, similar: Grades, round: Round
) -> list[Example]:
    """Every response with its label and its two questions. What has no label, or does not fit
    `training.max_length` even with an empty response, is left out and counted; of a longer one the response is cut.

    Writes the event `labels`. GateError or RunFailed where too little is left.
    """
    options, tokenizer = loop.recipe.options, load_tokenizer(loop.base_policy)
    places = list(own)
    labels = combined_labels(
        [own[place] for place in places],
        [similar[place] for place in places],
        options.self_evaluation,
        options.scaling,
    )
    missing = Counter[str]()
    examples, cut, kept = [], 0, set[tuple[str, str]]()
    by_place = {(one.prompt_id, one.index): one for one in responses.all()}
    for place, label in zip(places, labels, strict=True):
        prompt, response = responses.prompts[place[0]], by_place[place]
        if label is None:
            missing["no grade"] += 1
            continue
        if (prompt.id, response.text) in kept:
            continue  # the same example again
        kept.add((prompt.id, response.text))
        values = {"instruction": prompt.conversation, "response": response.text, "reference": str(prompt.answer)}
        found = [question_ids(tokenizer, rubric, values, variant, loop.data.room) for variant in ("reference", "")]
        if found[0] is None or found[1] is None:
            missing[_TOO_LONG] += 1
            continue
        cut += found[0].cut or found[1].cut
        row = {"reference_ids": list(found[0].ids), "plain_ids": list(found[1].ids), "label": label}
        examples.append(Example(prompt, response, label, row))
    _report(loop, round, responses, own, similar, examples, missing, cut)
    if len({one.label for one in examples}) < 2:
        raise RunFailed(
            f"round {round.number}: {len(examples)} responses have a label ({dict(missing) or 'none'} missing), and "
            "not two different ones, so there is nothing to learn. Take more or harder data.prompts, raise sampling.n, "
            "or look at the responses in the steps' folders"
        )
    return examples


def _report(
    loop: Loop,
    round: Round,
    responses: Responses,
    own: Grades,
    similar: Grades,
    examples: Sequence[Example],
    missing: Mapping[str, int],
    cut: int,
) -> None:
    both = _both(own, similar)
    lengths = [len(by.text) for by in responses.all()]
    share = sum(missing.values()) / max(len(own), 1)
    counts = Counter(one.label for one in examples)
    shown = sorted(examples, key=lambda one: one.label)
    figures = {
        "round": round.number,
        "responses": len(own),
        "examples": len(examples),
        "labels": [counts[digit] for digit in range(HIGHEST + 1)],
        "missing": dict(missing),
        "cut": cut,
        "agreement": agreement(own, similar),
        "self_evaluation": _spread([a for a, _ in both]),
        "similarity": _spread([b for _, b in both]),
        "mean_length": float(np.mean(lengths)),
        "shown": [
            {
                "prompt": one.prompt.text,
                "reference": one.prompt.answer,
                "response": one.response.text,
                "self_evaluation": own[one.prompt.id, one.response.index],
                "similarity": similar[one.prompt.id, one.response.index],
                "label": one.label,
            }
            for one in (*shown[:3], *shown[len(shown) // 2 : len(shown) // 2 + 2], *shown[-3:])
        ],
    }
    loop.events.emit("labels", digest_of(figures), **figures)
    loop.check(gates.judge_health(share, 0.0, loop.recipe.gates.model_dump()))


def _both(own: Grades, similar: Grades) -> list[tuple[float, float]]:
    return [(a, b) for place, a in own.items() if a is not None and (b := similar[place]) is not None]


def agreement(own: Grades, similar: Grades) -> float | None:
    """Spearman of z1 and z2; None where either says nothing."""
    both = _both(own, similar)
    varied = len(both) > 2 and all(len({pair[i] for pair in both}) > 1 for i in (0, 1))
    return float(spearmanr(*zip(*both, strict=True)).statistic) if varied else None


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"low": float(low), "median": float(middle), "high": float(high)}


def train_judge(loop: Loop, start: Policy, examples: Sequence[Example]) -> tuple[Policy, Sequence[Mapping[str, float]]]:
    """A judge from `start`, as a durable training step, and its history; see `methods/self_judge/trainer.py`."""
    judge, tokenizer = loop.recipe.options, loop.tokenizer
    digits = digit_tokens(tokenizer)
    rows = [(tuple(one.row["plain_ids"]), (digits.ids[one.label], end_of_turn_id(tokenizer))) for one in examples]
    loop.check(gates.rendering(tokenizer, rows))
    options = loop.training_options("judge")
    options |= judge.model_dump(include={"ce_reference", "ce_plain", "distillation"})
    options["digit_ids"] = list(digits.ids)
    trained, artefact = loop.train(
        "judge",
        start,
        options,
        "examples",
        [one.row for one in examples],
        label=f"JUDGE {start.name} to M{_next(loop)}",
    )
    probe = _probe(examples, digits.ids)
    loop.check_moved(start, trained, probe, loop.log_probs(probe, start), loop.log_probs(probe, trained))
    return trained, read_history(artefact.folder)


def _next(loop: Loop) -> int:
    return len(loop.made) + 1


def _probe(examples: Sequence[Example], digit_ids: Sequence[int]) -> Responses:
    """A few questions with their labels' digits, whose log-probs must change."""
    prompts = {
        str(i): RenderedPrompt(str(i), tuple(one.row["plain_ids"]), "") for i, one in enumerate(examples[:_PROBE])
    }
    answers = {
        str(i): [Response(str(i), 0, (digit_ids[one.label],), "stop", str(one.label))]
        for i, one in enumerate(examples[:_PROBE])
    }
    return Responses(prompts, answers)


def write_judge(loop: Loop, rubric: Rubric, judge: Policy) -> Path:
    """`judge/` in the run's folder: the rubric's files with the judge's model in `policy/`, whole or not at all, so
    that `judge: runs/x/judge` is enough in a recipe, a suite or a command."""
    folder = Path(loop.recipe.output) / "judge"
    about = {
        "model": loop.recipe.model,
        "policy_digest": judge.digest,
        "rubric_digest": rubric.digest,
        "scale": [0, HIGHEST],
        "versions": environment(),
    }
    written = folder.with_name(".judge.writing")
    with explained_write(folder):
        shutil.rmtree(written, ignore_errors=True)
        written.mkdir(parents=True)
        write_rubric(rubric, written)
        shutil.copytree(judge.adapter or judge.base, written / "policy")
        if judge.adapter:
            _name_base(written / "policy" / "adapter_config.json", judge.base)
        write_json(written / "judge.json", about)
        sync_tree(written)
        if folder.exists():
            shutil.rmtree(folder)
        written.replace(folder)
    return folder


def _name_base(file: Path, base: str) -> None:
    """The base by a name that other machines know, where it has one."""
    name, revision = portable_name(base)
    write_json(
        file, {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": name, "revision": revision}
    )
