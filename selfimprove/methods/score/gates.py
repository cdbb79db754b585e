"""Gates on SCoRe's training, asked at every update. Pure: the last rows of its history in, verdicts out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from selfimprove.gates import Verdict

Rows = Sequence[Mapping[str, Any]]

_TURNS = (1, 2)


def score_gates(window: Rows, base_accuracy: float | None, base_n: int, bounds: Mapping[str, Any]) -> list[Verdict]:
    """Verdicts on `window`, the last rows of the training history; a figure that no row has gives none.

    `base_accuracy`: the base's Acc@t1, in [0, 1], over `base_n` samples; None leaves `first_attempt` out. It must be
    sampled at the temperature of the training, or the two differ for that reason alone. `bounds`: the recipe's `gates`.
    """
    return [
        *_first_attempt(window, base_accuracy, base_n, bounds["max_first_attempt_drop"]),
        *_change_rate(window, bounds["min_change_rate"]),
        *_copy_rate(window, bounds["max_copy_rate"]),
        *(verdict for turn in _TURNS for verdict in _kl(window, turn, bounds["max_kl"])),
        *_reward_coverage(window, bounds["max_missing"]),
        *_telling(window, bounds["min_telling"]),
        *_sampler_kl(window, bounds["max_sampler_kl"]),
    ]


def first_broken(verdicts: Sequence[Verdict], disabled: Collection[str]) -> Verdict | None:
    """The first verdict that did not pass and that `disabled` does not name."""
    return next((one for one in verdicts if not one.passed and one.gate not in disabled), None)


def _first_attempt(window: Rows, base: float | None, base_n: int, bound: float) -> list[Verdict]:
    """The drop of Acc@t1 below the base's counts where it is larger than `bound` plus twice its standard error."""
    values = _values(window, "accuracy/turn_1")
    if base is None or base_n < 1 or not values:
        return []
    accuracy = _mean(values)
    samples = [count for _, count in values]
    drop = base - accuracy
    error = math.hypot(_share_error(base, base_n), _window_error(values))
    allowed = bound + 2 * error
    seen = f" ({sum(samples):.0f} samples)" if all(samples) else ""
    message = (
        f"Acc@t1 is {accuracy:.3f} over the last {_updates(values)}{seen}, the base's is {base:.3f} "
        f"({base_n} samples): {drop:+.3f} lost, of which {bound:g} (gates.max_first_attempt_drop) and two standard "
        f"errors ({2 * error:.3f}) are allowed"
    )
    if drop > allowed:
        message += (
            ". The first attempt is made worse, which makes a second one look better. Look at kl/turn_1 and "
            "truncated/turn_1; a larger score.beta2 (Stage I) or score.beta1 (Stage II), or a smaller learning rate, "
            "holds the first attempt in place"
        )
    return [Verdict("first_attempt", drop <= allowed, drop, allowed, message)]


def _change_rate(window: Rows, bound: float) -> list[Verdict]:
    values = _values(window, "change_rate")
    if not values:
        return []
    value = _mean(values)
    message = (
        f"{_percent(value)} of the second attempts gave another answer than the first, over the last "
        f"{_updates(values)} (at least {_percent(bound)}: gates.min_change_rate)"
    )
    if value < bound:
        message += (
            ". The second turn learns to repeat the first. Look at copy_rate and edit_ratio; Stage I "
            "(score.stage_one.updates), a larger score.alpha or score.stage_two.base_first_attempts work against it"
        )
    return [Verdict("change_rate", value >= bound, value, bound, message)]


def _copy_rate(window: Rows, bound: float) -> list[Verdict]:
    values = _values(window, "copy_rate")
    if not values:
        return []
    value = _mean(values)
    message = (
        f"{_percent(value)} of the second attempts are the first, token for token, over the last {_updates(values)} "
        f"(at most {_percent(bound)}: gates.max_copy_rate)"
    )
    if value > bound:
        message += (
            ". The second turn collapses to a copy. Look at delta and change_rate; Stage I (score.stage_one.updates), "
            "a larger score.alpha or score.stage_two.base_first_attempts work against it"
        )
    return [Verdict("copy_rate", value <= bound, value, bound, message)]


def _kl(window: Rows, turn: int, bound: float) -> list[Verdict]:
    key = f"kl/turn_{turn}"
    if any(isinstance(row.get(key), float) and not math.isfinite(row[key]) for row in window):
        message = (
            f"{key} is not a finite number in the last {len(window)} updates: the weights or the loss overflowed. "
        )
        message += "Look at grad_norm and loss; lower training.learning_rate, or train in float32"
        return [Verdict("kl", False, None, bound, message)]
    values = _values(window, key)
    if not values:
        return []
    value = _mean(values)
    message = (
        f"turn {turn} is {value:.3g} nats per token from the base, over the last {_updates(values)} "
        f"(at most {bound:g}: gates.max_kl)"
    )
    if value > bound:
        weight = "score.beta2 (Stage I) or score.beta1 (Stage II)" if turn == 1 else "score.beta1"
        message += (
            f". The policy runs away from the base. Read samples of turn {turn}, and look at grad_norm and "
            f"tokens/turn_{turn}; raise {weight}, or lower the learning rate"
        )
    return [Verdict("kl", value <= bound, value, bound, message)]


def _reward_coverage(window: Rows, bound: float) -> list[Verdict]:
    values = _values(window, "reward_coverage")
    if not values:
        return []
    missing = max(0.0, 1 - _mean(values))
    message = (
        f"{_percent(missing)} of the rewards are missing, over the last {_updates(values)} "
        f"(at most {_percent(bound)}: gates.max_missing)"
    )
    if missing > bound:
        message += ". The checker itself fails, and what is left may be the easy part. Look at score.reward"
    return [Verdict("reward_coverage", missing <= bound, missing, bound, message)]


def _telling(window: Rows, bound: float) -> list[Verdict]:
    values = _values(window, "informative")
    if not values:
        return []
    value = _mean(values)
    message = (
        f"of {_percent(value)} of the prompts the samples were rewarded differently, over the last {_updates(values)} "
        f"(more than {_percent(bound)}: gates.min_telling)"
    )
    if value <= bound:
        message += (
            ". There is nothing to learn from samples that are all right or all wrong. Take prompts that the policy "
            "answers right now and then, raise sampling.n, set score.redraw, or look at score.reward"
        )
    return [Verdict("telling", value > bound, value, bound, message)]


def _sampler_kl(window: Rows, bound: float) -> list[Verdict]:
    values = _values(window, "sampler_kl")
    if not values:
        return []
    value, largest = _mean(values), max(ratio for ratio, _ in _values(window, "sampler_ratio"))
    message = (
        f"KL(sampler || trainer) is {value:.3g} nats per token, the largest ratio of a token's probabilities "
        f"{largest:.3g}, over the last {_updates(values)} (at most {bound:g}: gates.max_sampler_kl)"
    )
    if value > bound:
        message += (
            ". The samples are not the trained policy's. Set score.sampler_weights, or sampling.backend=transformers"
        )
    return [Verdict("sampler_kl", value <= bound, value, bound, message)]


def _values(window: Rows, key: str) -> list[tuple[float, float]]:
    """(value, samples or 0 where a row does not say) of the rows that have a finite value."""
    found = []
    for row in window:
        value, samples = row.get(key), row.get("samples")
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((float(value), float(samples) if isinstance(samples, int | float) else 0.0))
    return found


def _mean(values: Sequence[tuple[float, float]]) -> float:
    """Weighted by samples where every row says how many it has."""
    weights = [count for _, count in values] if all(count > 0 for _, count in values) else [1.0] * len(values)
    return sum(value * weight for (value, _), weight in zip(values, weights, strict=True)) / sum(weights)


def _share_error(share: float, n: float) -> float:
    """Standard error of a share of `n`, with Agresti and Coull's two right and two wrong: 0 of 10 is not certain."""
    smooth = (share * n + 2) / (n + 4)
    return math.sqrt(smooth * (1 - smooth) / (n + 4))


def _window_error(values: Sequence[tuple[float, float]]) -> float:
    """Standard error of the window's mean: the larger one of a share's over all samples, and of the rows' spread.

    Samples of one prompt are right or wrong together, which the first does not know and the second does."""
    samples = sum(count for _, count in values) if all(count > 0 for _, count in values) else 0
    of_share = _share_error(min(max(_mean(values), 0.0), 1.0), samples) if samples else 0.0
    if len(values) < 2:
        return of_share
    mean = sum(value for value, _ in values) / len(values)
    spread = sum((value - mean) ** 2 for value, _ in values) / (len(values) - 1)
    return max(of_share, math.sqrt(spread / len(values)))


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _updates(values: Sequence[tuple[float, float]]) -> str:
    return "update" if len(values) == 1 else f"{len(values)} updates"
