"""Whether a judge that `self_judge` trained learnt anything: examples that it was not trained on, scored as at use."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove import gates
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.judging.digits import DIGITS, digit_tokens, expected_digit
from selfimprove.models.policy import Policy
from selfimprove.suites.judge_scores import RESAMPLES, Graded, floats, resampled, spearman, with_draws

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.loop.record import Round
    from selfimprove.methods.self_judge.training import Example

# Of prompts: a bootstrap over fewer says nothing of how far the correlation could be another.
_FEWEST = 5
_PARTS = ("ce_reference", "ce_plain")


def held_out_prompts(ids: Sequence[str], share: float, seed: int) -> set[str]:
    """Which prompts' examples are held out: the share of them, rounded, that come first in an order of their own, so
    that all responses to a prompt are on one side and a prompt is on the same side in most rounds. One stays at least.
    """
    distinct = sorted(set(ids), key=lambda id: hashlib.sha256(f"{seed}|held out|{id}".encode()).digest())
    return set(distinct[: min(round(share * len(distinct)), len(distinct) - 1)])


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(examples to train on, examples that are held out); none of these where less than two labels would be left."""
    apart = held_out_prompts([one.prompt.id for one in examples], share, seed)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for one in examples:
        parts[one.prompt.id in apart].append(one)
    return parts if len({one.label for one in parts[0]}) > 1 else (list(examples), [])


def entropy(labels: Sequence[Hashable]) -> float:
    """Of the labels' own frequencies (nats): the cross entropy of a judge that knows these and reads nothing."""
    shares = np.array(list(Counter(labels).values())) / max(len(labels), 1)
    return float(-(shares * np.log(shares)).sum())


def last_figures(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of a training's cross entropies over the last quarter of its rows, as the report shows them."""
    rows = history[-max(1, len(history) // 4) :]
    known = {name: [row[name] for row in rows if name in row] for name in _PARTS}
    return {name: float(np.mean(values)) for name, values in known.items() if values}


def rank_correlation(scores: Sequence[float | None], held: Sequence[Example]) -> dict[str, float] | None:
    """Spearman of scores and labels with its interval over prompts; None where it is undefined, or of fewer prompts
    than tell anything."""
    known = [(value, one) for value, one in zip(scores, held, strict=True) if value is not None]
    numbers = {id: number for number, id in enumerate(dict.fromkeys(one.prompt.id for _, one in known))}
    if len(numbers) < _FEWEST:
        return None
    graded = Graded.of([numbers[one.prompt.id] for _, one in known], [one.label for _, one in known], [0] * len(known))
    own = floats([value for value, _ in known], "scores")

    def statistic(rows: Any) -> Any:
        found = spearman(own[rows], graded.gold[rows])
        return np.array([math.nan if found is None else found])

    drawn = resampled(statistic, graded, RESAMPLES, 0)
    return with_draws(float(statistic(np.arange(len(own)))[0]), drawn[:, 0], len(own))


def plain_scores(loop: Loop, judge: Policy, examples: Sequence[Example]) -> list[float | None]:
    """The judge's expected digit for each example's question without the reference, as it is trained and used."""
    ids = digit_tokens(loop.tokenizer).ids
    prompts = {str(i): RenderedPrompt(str(i), tuple(one.row["plain_ids"]), "") for i, one in enumerate(examples)}
    digits = {id: [Response(id, i, (token,), "stop", DIGITS[i]) for i, token in enumerate(ids)] for id in prompts}
    scored = loop.log_probs(Responses(prompts, digits), judge, f"held-out examples ({judge.name})")
    return [expected_digit({one.text: scored.of(one) for one in row})[0] for row in digits.values()]


def check_learnt(
    loop: Loop,
    round: Round,
    judge: Policy,
    trained: Sequence[Example],
    held: Sequence[Example],
    history: Sequence[Mapping[str, Any]],
    agreement: float | None,
) -> None:
    """Writes the event `learnt`. The gate `judge_learnt` is asked where the recipe sets its bound; else a judge that
    learnt nothing is only said: of a few held-out prompts the correlation is often below 0 by chance."""
    correlation = rank_correlation(plain_scores(loop, judge, held), held) if held else None
    figures = {
        "policy": judge.name,
        "trained": len(trained),
        "held_out": len(held),
        "held_out_prompts": len({one.prompt.id for one in held}),
        "spearman": correlation,
        **last_figures(history),
        "entropy": entropy([one.label for one in trained]),
        "agreement": agreement,
    }
    verdict = gates.judge_learnt(figures, loop.recipe.options.min_correlation)
    said = {**figures, "round": round.number, "learnt": verdict.passed, "message": verdict.message}
    loop.events.emit("learnt", f"{round.number}|{judge.digest}", policy_digest=judge.digest, **said)
    if loop.recipe.options.min_correlation is not None:
        loop.check(verdict)
    elif not verdict.passed:
        loop.note(f"judge {judge.name}: {verdict.message}")


def say_where(loop: Loop, judge: Policy, folder: Path) -> None:
    """Writes the event `judge`: which of the judges is in the folder that others load."""
    loop.events.emit(
        "judge", f"{folder}|{judge.digest}", policy=judge.name, policy_digest=judge.digest, path=str(folder)
    )
