"""SFT-Sharpening: train on the answer that the model itself finds likeliest (Huang et al., arXiv 2412.01951).

Every prompt gets `sampling.n` draws from the base; the one with the highest self-reward, which the frozen base gives,
is kept; SFT on those, from the base, puts the best of n into a single draw. It adds no knowledge: where the base finds
the wrong answer likeliest, it is sharpened too.

The self-reward is the section's `judge`: by default log pi(y|x) per token, the paper's length-normalised one (summed,
it prefers short answers); `majority` is its vote over final answers. The paper draws 50 at temperature 1; the recipe's
`sampling` says how many here. Where it is silent: a truncated draw is never kept (its row would teach to go on), equal
rewards keep the first draw, and every round has its own prompts and its own training from the base.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from selfimprove.data.rows import RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import RunFailed
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, Options, method
from selfimprove.recipe.judges import JudgeOptions

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


class Sharpening(Options):
    """Section `sharpening`."""

    judge: JudgeOptions = JudgeOptions(kind="likelihood")
    """The self-reward by which the best of a prompt's draws is kept, given by the frozen base."""


@method(
    options=Sharpening,
    needs=Needs(prompts=True, responses=2),
    defaults={"sampling.temperature": 1.0, "sampling.top_p": 1.0},
)
def sharpening(loop: Loop, options: Sharpening) -> Policy:
    """The SFT form. Returns the last round's policy, or the best by development accuracy."""
    base = policy = loop.base_policy  # pi_base: it draws, it rewards, and every training begins from it
    loop.evaluate(base)
    for round in loop.rounds():
        responses = loop.sample(base, round.prompts)
        rewards, missing = loop.judge(options.judge, responses, base)
        kept, skipped = best_of(responses, rewards)
        loop.report("sharpening", round, prompts=len(round.prompts), kept=len(kept), **skipped, missing=missing)
        if not kept:
            raise RunFailed(f"round {round.number}: no draw is finished and has a reward ({dict(skipped)})")
        rows = [{"prompt_ids": list(prompt.prompt_ids), "response_ids": list(one.ids)} for prompt, one in kept]
        policy = loop.sft(base, rows)
        loop.evaluate(policy, round)
    return loop.kept(policy)


def best_of(responses: Responses, rewards: Scores) -> tuple[list[tuple[RenderedPrompt, Response]], dict[str, int]]:
    """Each prompt's draw with the highest reward, of those that are finished and have one, and how many have none."""
    kept, skipped = [], Counter[str]()
    for prompt, draws in responses:
        usable = [(r, one) for r, one in zip(rewards[prompt.id], draws, strict=True) if r is not None]
        ended = [(r, one) for r, one in usable if one.finish == "stop"]
        if ended:
            kept.append((prompt, max(ended, key=lambda pair: pair[0])[1]))
        else:
            skipped["truncated" if usable else "without_reward"] += 1
    return kept, dict(skipped)
