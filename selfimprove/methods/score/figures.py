"""Figures of an update's samples. Pure: episodes and rewards in, sums out, so that several processes' add up."""

from __future__ import annotations

from collections.abc import Sequence

from selfimprove.judging.outcomes import TRUNCATED, Rewarded
from selfimprove.methods.score.rollouts import Episode
from selfimprove.suites.corrections import edit_ratio

FIGURES = (
    *(f"{name}/turn_{turn}" for name in ("accuracy", "reward", "truncated", "tokens") for turn in (1, 2)),
    *("delta", "incorrect_to_correct", "correct_to_incorrect", "change_rate", "copy_rate", "edit_ratio"),
    *("reward_coverage", "telling", "informative", "samples"),
)


def is_right(reward: Rewarded, right_from: float) -> bool | None:
    """Whether an answer counts as right; None where its reward is missing. A truncated one never does."""
    return None if reward.value is None else reward.value >= right_from and reward.failure != TRUNCATED


def rollout_sums(
    episodes: Sequence[Episode], rewards: Sequence[Sequence[Rewarded]], right_from: float
) -> dict[str, tuple[float, float]]:
    """(sum, count) of each figure; the figure is their ratio.

    accuracy/turn_t, delta, incorrect_to_correct, correct_to_incorrect: of the samples whose rewards are known, right
    being a reward of at least `right_from`; reward/turn_t: the mean reward. change_rate: second answers with another
    text than the first; copy_rate: with the very same tokens; edit_ratio: see `suites/corrections.py`. Where the
    base wrote the first attempt, it and what came of it are in none of these. truncated/turn_t, tokens/turn_t (tokens
    a response), reward_coverage (of all attempts, those with a value), samples. `telling`, the share of samples with an
    advantage that is not 0, and `informative`, that of prompts with such a sample, are added by the trainer, which
    knows them.
    """
    sums: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1

    for episode, row in zip(episodes, rewards, strict=True):
        add("samples", 1)
        for turn, (attempt, reward) in enumerate(zip(episode.attempts, row, strict=True), start=1):
            if turn > 1 or episode.own_first:  # what the base wrote says nothing of the policy's first attempts
                add(f"truncated/turn_{turn}", attempt.truncated)
                add(f"tokens/turn_{turn}", len(attempt.ids))
                if reward.value is not None:
                    add(f"accuracy/turn_{turn}", bool(is_right(reward, right_from)))
                    add(f"reward/turn_{turn}", reward.value)
            add("reward_coverage", reward.value is not None)
        if episode.second is None or not episode.own_first:
            continue
        before, after = (is_right(one, right_from) for one in row)
        if before is not None and after is not None:
            add("delta", float(after) - before)
            add("incorrect_to_correct", after and not before)
            add("correct_to_incorrect", before and not after)
        add("change_rate", episode.first.text.strip() != episode.second.text.strip())
        add("copy_rate", episode.first.ids == episode.second.ids)
        add("edit_ratio", edit_ratio(episode.first.text, episode.second.text))
    return {name: (total, number) for name, (total, number) in sums.items()}
