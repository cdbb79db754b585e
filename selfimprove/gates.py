"""Gates: invariants that a run's numbers rest on, checked while it runs. Pure: figures in, a verdict out.

`dpo_start` is asked by the trainer too, which stops at its first step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfimprove.data.leakage import leaks
from selfimprove.data.rows import LogProbs, Pair, Response, Responses
from selfimprove.models.chat import check_rendering, check_thought, end_of_turn_id

# Margins below it are rounding: scorer and trainer differ by about 1e-5 nats in fp32, times a beta of 0.1.
_NO_MARGIN = 1e-5


@dataclass(frozen=True)
class Verdict:
    """What a gate found; `message` says what to look at when it did not pass."""

    gate: str
    passed: bool
    value: float | None
    bound: float | None
    message: str


def rendering(
    tokenizer: Any, examples: Iterable[tuple[Sequence[int], Sequence[int]]], answers: bool = False
) -> Verdict:
    """Every (prompt_ids, response_ids) has BOS as its template writes it, never twice, and a trained end of turn; where
    the responses are `answers`, a thought that the template opened is closed in them."""
    count = 0
    for prompt_ids, response_ids in examples:
        count += 1
        problem = check_rendering(tokenizer, list(prompt_ids), list(response_ids))
        if problem or (answers and (problem := check_thought(tokenizer, prompt_ids, response_ids))):
            shown = tokenizer.decode([*prompt_ids, *response_ids])
            return Verdict("rendering", False, None, None, f"{problem} The example: {shown!r}")
    return Verdict("rendering", True, count, None, f"all {count} examples are rendered as they should be")


def rendered_pairs(tokenizer: Any, pairs: Sequence[Pair], stops: Sequence[int]) -> Verdict:
    """Prompts are rendered right; a finished response ends with its end of turn, a truncated one has none."""
    prompts = [(pair.prompt.prompt_ids, (end_of_turn_id(tokenizer),)) for pair in pairs]
    verdict = rendering(tokenizer, prompts)
    for response in [r for pair in pairs for r in (pair.chosen, pair.rejected)]:
        ends = response.ids[-1] in stops
        if ends != (response.finish == "stop") and not response.open_thought:
            problem = (
                f"response {response.prompt_id}/{response.index} has finish={response.finish!r}, but its last token "
            )
            problem += "ends the turn" if ends else "does not end the turn"
            return Verdict("rendering", False, None, None, problem)
    for pair in pairs:
        for response in (pair.chosen, pair.rejected):
            whole = response.finish == "stop" and not response.open_thought
            if whole and (problem := check_thought(tokenizer, pair.prompt.prompt_ids, response.ids)):
                return Verdict("rendering", False, None, None, f"{problem} The response: {response.text!r}")
    return verdict


def dpo_start(first: Mapping[str, float], reference_is_start: bool, dtype: str) -> Verdict:
    """The first batch's DPO loss (at C = 1) is ln 2 when the policy is its own loss reference; when it is not, some
    margin is not 0. `first`: `loss` and `mean_abs_margin` of the first batch."""
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-3
    loss, margin = first["loss"], first["mean_abs_margin"]
    if reference_is_start:
        passed = abs(loss - math.log(2)) <= tolerance
        message = f"the first loss is {loss:.5f}; the policy is its own loss reference, so ln 2 = 0.69315 is due"
        if not passed:
            message += ": the reference log-probs are of another model, other tokens or another template"
        return Verdict("dpo_start", passed, loss, tolerance, message)
    passed = margin >= _NO_MARGIN
    message = f"the first margins are {margin:.3g} on average; the loss reference is another model than the policy"
    if not passed:
        message += ", yet the reference log-probs are the policy's own"
    return Verdict("dpo_start", passed, margin, _NO_MARGIN, message)


def sampler_agrees(responses: Responses, log_probs: LogProbs, bound: float) -> Verdict:
    """Sampler and scorer see the same model: mean absolute difference of log-prob per token (nats)."""
    differences, tokens = 0.0, 0
    for response in responses.all():
        if response.sampler_log_prob is not None:
            differences += abs(response.sampler_log_prob - log_probs.of(response))
            tokens += len(response.ids)
    if not tokens:
        said = f"no response of {log_probs.policy} has the sampler's log-prob, so nothing tells which weights it served"
        return Verdict("sampler_agrees", False, None, bound, said)
    value = differences / tokens
    return Verdict(
        "sampler_agrees",
        value <= bound,
        value,
        bound,
        f"sampler and scorer differ by {value:.2g} nats per token under {log_probs.policy} (allowed {bound:g})"
        + ("" if value <= bound else ": stale weights, another template or another type in one of them"),
    )


def weights_moved(before: str, after: str, probe_before: Sequence[float], probe_after: Sequence[float]) -> Verdict:
    """A trained policy has another digest than its start, and other log-probs on a probe."""
    change = float(np.mean(np.abs(np.subtract(probe_after, probe_before)))) if len(probe_before) else 0.0
    # The same weights score the same text with differences in the last digits of fp32.
    rounding = 1e-6 * float(np.mean(np.abs(probe_before))) if len(probe_before) else 0.0
    passed = before != after and change > rounding
    message = f"the trained weights differ and a probe's log-probs moved by {change:.3g} nats on average"
    if not passed:
        what = "has the digest of its start" if before == after else "gives its start's log-probs (but for rounding)"
        message = f"training changed nothing: the new policy {what}. Learning rate 0, or stale weights are served"
    return Verdict("weights_moved", passed, change, rounding, message)


def consistent_enough(weight: str, mean: float | None, values: Sequence[float | None]) -> Verdict:
    """Where the loss uses C: `avg` needs C > 0.5; `dyn` at least one C_j > 0.5. Below it the loss prefers the
    rejected response. A constant C is only reported."""
    known = [value for value in values if value is not None]
    used = {"avg": mean, "dyn": max(known, default=None)}.get(weight)
    what = {"avg": "the mean consistency", "dyn": "the largest consistency of a prompt"}.get(weight, "the consistency")
    passed = weight not in ("avg", "dyn") or (used is not None and used > 0.5)
    shown = "undefined" if used is None else f"{used:.3f}"
    message = f"{what} is {shown}" if weight in ("avg", "dyn") else "the consistency is not used by the loss"
    if not passed:
        message += (
            ", not above 0.5: the two rankings contradict each other, so the softened loss would prefer the rejected "
            "responses. In round 1 try cream.first_round=sft_middle, or none (labels are not softened); else "
            "cream.floor=true, or fewer SFT epochs (the model moved far from M0). With `judge`, see first whether it "
            "judges better than chance: `selfimprove eval judge`"
        )
    return Verdict("consistency", passed, used, 0.5, message)


def no_leak(training: Iterable[str], evaluation: Iterable[str]) -> Verdict:
    """No evaluation prompt is in the training data (normalised match, and telling 13-grams)."""
    found = leaks(training, evaluation)
    message = "no evaluation prompt is in the training data"
    if found:
        trained, evaluated, why = found[0]
        first = f"{evaluated[:200]!r} in {trained[:200]!r}"
        message = f"{len(found)} evaluation prompts are in the training data ({why}); the first: {first}"
    return Verdict("no_leak", not found, len(found), 0, message)


def judge_health(
    missing: float, ties: float, bounds: Mapping[str, float], reasons: Mapping[str, int] | None = None, where: str = ""
) -> Verdict:
    """Shares of missing scores and of tied response pairs. `reasons`: how many are missing by reason; `where`: the
    folder that holds what the judge answered."""
    for name, value, key in (
        ("scores that are missing", missing, "max_missing"),
        ("tied response pairs", ties, "max_ties"),
    ):
        if value > bounds[key]:
            message = f"the share of {name} is {value:.2f} (allowed {bounds[key]}: gates.{key})"
            if key == "max_missing" and reasons:
                told = ", ".join(f"{count} x {why}" for why, count in sorted(reasons.items(), key=lambda one: -one[1]))
                message += f". It is the judge: {told}{f'; what it answered: {where}' if where else ''}"
            return Verdict("judge_health", False, value, bounds[key], message)
    return Verdict("judge_health", True, missing, bounds["max_missing"], f"missing {missing:.2f}, ties {ties:.2f}")


def judge_learnt(figures: Mapping[str, Any], bound: float | None) -> Verdict:
    """A trained judge ranks examples that it was not trained on as their labels do: Spearman above `bound`.

    Without a bound: above 0, and where that is not told from chance its last cross entropy without the reference is
    below the labels' entropy. Where too few are held out to say, the latter alone.

    Args:
        figures: see `judge_learning.check_learnt`.
    """
    found, entropy, last = figures["spearman"], figures["entropy"], figures.get("ce_plain")
    below = last is not None and last < entropy
    many = f"{figures['held_out']} held-out examples of {figures['held_out_prompts']} prompts"
    if found is None:
        passed, value, least = below, last, entropy
        message = f"what it learnt cannot be told from {many} (self_judge.held_out, or more data.prompts)"
    else:
        value, low, high = (found[name] for name in ("value", "low", "high"))
        chance, least = low <= 0 <= high, bound or 0.0
        passed = value > least and (below or not chance or bound is not None)
        message = f"it ranks {many} with their labels at Spearman {value:+.2f} [{low:+.2f}, {high:+.2f}]"
        message += f", not above {least:g}" if not value > least else ""
        message += ", not told from chance" if chance else ""
    if last is not None:
        message += f"; its last cross entropy without the reference, {last:.2f} nats, is {'' if below else 'not '}below"
        message += f" its labels' entropy, {entropy:.2f}"
        message += "" if below else ": it knows how frequent they are, no more"
    if figures["agreement"] is not None:
        message += f"; the labels' two signals agree at Spearman {figures['agreement']:+.2f}"
    return Verdict("judge_learnt", passed, value, least, message + ("" if passed else ". The judge learnt nothing"))


def response_health(responses: Sequence[Sequence[Response]]) -> dict[str, float]:
    """Shares and means over the responses of a round: duplicates within a prompt, truncated, distinct-2, tokens; and
    the mean -log p of a token (nats), which is the policy's entropy where it sampled at temperature 1 and top_p 1."""
    flat = [response for group in responses for response in group]
    duplicates = sum(len(group) - len({r.ids for r in group}) for group in responses)
    bigrams = [pair for r in flat for pair in zip(r.ids, r.ids[1:], strict=False)]
    known = [(r.sampler_log_prob, len(r.ids)) for r in flat if r.sampler_log_prob is not None]
    return {
        **({"entropy": -sum(p for p, _ in known) / sum(n for _, n in known)} if known else {}),
        "duplicate_rate": duplicates / len(flat),
        "truncation_rate": sum(r.finish == "length" for r in flat) / len(flat),
        "distinct_2": len(set(bigrams)) / len(bigrams) if bigrams else 1.0,
        "mean_length": float(np.mean([len(r.ids) for r in flat])),
    }


def degeneration(now: Mapping[str, float], first: Mapping[str, float], bounds: Mapping[str, float]) -> Verdict:
    """Duplicates, truncation, length drift and distinct-2 against the first round."""
    growth = max(now["mean_length"] / first["mean_length"], first["mean_length"] / now["mean_length"])
    distinct = now["distinct_2"] / first["distinct_2"]
    for name, value, key, bad in (
        (
            "share of responses equal to another of their prompt",
            now["duplicate_rate"],
            "max_duplicates",
            "above",
        ),
        ("share of truncated responses", now["truncation_rate"], "max_truncated", "above"),
        ("mean length against the first round (times, either way)", growth, "max_length_growth", "above"),
        ("distinct-2 against the first round", distinct, "min_distinct", "below"),
    ):
        bound = bounds[key]
        if (value > bound) if bad == "above" else (value < bound):
            message = f"{name} is {value:.2f}, {bad} {bound} (gates.{key}): the policy degenerates"
            message += ", or its answers do not fit sampling.max_new_tokens" if key == "max_truncated" else ""
            return Verdict("degeneration", False, value, bound, message)
    text = f"duplicates {now['duplicate_rate']:.2f}, truncated {now['truncation_rate']:.2f}, "
    text += f"mean length {now['mean_length']:.1f}"
    return Verdict("degeneration", True, now["duplicate_rate"], bounds["max_duplicates"], text)


def drifted(now: Mapping[str, float], first: Mapping[str, float], bounds: Mapping[str, float | None]) -> str | None:
    """What of a round's samples has left the first round's by more than the share that `stop` allows, in words."""
    names = {"distinct": ("distinct_2", "distinct-2"), "entropy": ("entropy", "mean -log p, nats per token")}
    for key, (figure, name) in {**names, "length": ("mean_length", "mean length, tokens")}.items():
        bound, old, new = bounds.get(key), first.get(figure), now.get(figure)
        if bound is None or not old or new is None:
            continue
        if abs(new / old - 1) > bound:
            return f"{name}: {new:.3g} after {old:.3g} in round 1, {new / old - 1:+.0%} (stop.{key} allows {bound:.0%})"
    return None
