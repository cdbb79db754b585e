"""STaR and Pair-SFT on the policy's own traces: the supervised baselines of SCoRe (arXiv 2409.12917, section 4).

STaR (Zelikman et al., arXiv 2203.14465; the paper runs it as ReST-EM, Singh et al., arXiv 2312.06585) keeps the traces
in which a wrong first attempt was followed by a right second one. Pair-SFT (Welleck et al., arXiv 2211.00053, without
its separate corrector) puts any right answer to the same prompt behind a wrong first attempt.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from selfimprove import gates
from selfimprove.artefacts import digest_of
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.turns import next_turn
from selfimprove.errors import RunFailed
from selfimprove.judging.outcomes import TRUNCATED, Rewarded
from selfimprove.judging.rewarding import rewarded
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, Options, method
from selfimprove.recipe.judges import Reward
from selfimprove.recipe.sections import INSTRUCTION, Positive
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import of_kind
from selfimprove.report.table import Col, Table, count, counts

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.loop.record import Round

# What became of a first attempt in the second, by (first is right, second is right).
_TRANSITIONS = {
    (False, True): "incorrect_to_correct",
    (True, False): "correct_to_incorrect",
    (True, True): "correct_to_correct",
    (False, False): "incorrect_to_incorrect",
}


class Star(Options):
    """Section `star`."""

    reward: Reward = Reward()
    """What is right."""
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    """The second turn's text, the same whether the first answer was right or wrong; take your suite's."""
    traces: Literal["corrections", "pairs"] = "corrections"
    """`corrections`: the policy's own second attempts that were right after a wrong first one (STaR); `pairs`: a right
    answer to the same prompt, drawn from both turns, behind a wrong first attempt (Pair-SFT)."""
    right_to_right: bool = False
    """Right first attempts too, with a right answer behind them."""
    restart: bool = True
    """Every round trains the base model on the last policy's traces; `false` goes on training the last policy."""
    most_per_prompt: Positive = 4
    """Traces a prompt and round: wrong first attempts before right ones, then by number."""


def traces_part(events: Sequence[Event]) -> Part:
    """What the traces were that a round chose from."""
    columns = [
        Col("round"),
        Col("traces of", "policy"),
        Col("wrong, then right", "transitions.incorrect_to_correct", count),
        Col("right twice", "transitions.correct_to_correct", count),
        Col("wrong twice", "transitions.incorrect_to_incorrect", count),
        Col("right, then wrong", "transitions.correct_to_incorrect", count),
        Col("missing rewards", "missing", counts),
        Col("kept: first wrong", "corrections", count),
        Col("kept: first right", "right_to_right", count),
        Col("kept", show=count),
    ]
    return Part(
        "Which traces were kept?",
        "A trace is a first attempt of the policy with its second one behind it. Counts of traces, by what became of "
        "the first attempt.",
        tables=[Table("Traces", of_kind(events, "traces"), columns)],
    )


@method(
    options=Star,
    needs=Needs(prompts=True, responses=2),
    defaults={"sampling.temperature": 1.0, "sampling.top_p": 1.0},
    turns=lambda options: (options.instruction,),
    report=(traces_part,),
)
def star(loop: Loop, options: Star) -> Policy:
    """Rounds of: draw traces of two turns, keep some, learn their second attempts.

    As in the paper: the traces are the current policy's, at temperature 1; three rounds for STaR, one round of one
    epoch for Pair-SFT (`rounds`, `sft.epochs`). With `restart`, every round trains the base model, on that round's
    traces alone, as STaR and ReST-EM do. Where the paper is silent: every round has its own prompts; only the second
    attempts' tokens are trained; a first attempt that was cut off may stand before a second one, as in an evaluation.
    """
    base = policy = loop.base_policy
    loop.evaluate(base)
    for round in loop.rounds():
        drawn = draw_traces(loop, policy, round.prompts)
        examples = kept_examples(loop, policy, round, drawn)
        policy = loop.sft(base if options.restart else policy, examples)
        loop.evaluate(policy, round)
    return loop.kept(policy)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one prompt: `second[i]` was written to `read[i]`, which is the prompt, `first[i]` and the
    instruction, token for token. `rewards`: of both turns, in these orders."""

    prompt: RenderedPrompt
    first: Sequence[Response]
    read: Sequence[RenderedPrompt]
    second: Sequence[Response]
    rewards: tuple[Sequence[Rewarded], Sequence[Rewarded]]

    def right(self, right_from: float) -> tuple[list[bool | None], list[bool | None]]:
        """Whether each attempt is right, by turn; None where its reward is missing. A truncated one never is."""
        first, second = (
            [
                None if reward.value is None else reward.value >= right_from and response.finish == "stop"
                for response, reward in zip(responses, rewards, strict=True)
            ]
            for responses, rewards in zip((self.first, self.second), self.rewards, strict=True)
        )
        return first, second


def draw_traces(loop: Loop, policy: Policy, prompts: Sequence[RenderedPrompt]) -> list[Drawn]:
    """`sampling.n` first attempts at every prompt, with one second attempt each, and the rewards of all."""
    sampling, options = loop.recipe.sampling, loop.recipe.options
    first = loop.sample(policy, prompts)
    by_id = {f"{response.prompt_id}|{response.index}": response for response in first.all()}
    asked = [replace(first.prompts[response.prompt_id], id=id) for id, response in by_id.items()]
    read = {one.id: one for one in next_turn(policy, asked, by_id, options.instruction, sampling.max_new_tokens)}
    drawn = loop.draw(
        policy,
        list(read.values()),
        f"second attempts of {policy.name}",
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        shaping=sampling.shaping,
        max_new_tokens=sampling.max_new_tokens,
    )
    second = {
        id: [drawn.by_prompt[f"{id}|{one.index}"][0] for one in responses] for id, responses in first.by_prompt.items()
    }
    # The turns of a prompt are checked together: a copy of a first attempt then has its very reward.
    both = {
        id: [
            *responses,
            *(replace(one, prompt_id=id, index=len(responses) + place) for place, one in enumerate(second[id])),
        ]
        for id, responses in first.by_prompt.items()
    }
    rewards = rewarded(loop, Responses(first.prompts, both), options.reward, f"check both attempts of {policy.name}")
    return [
        Drawn(
            prompt,
            responses,
            [read[f"{prompt.id}|{one.index}"] for one in responses],
            second[prompt.id],
            (rewards[prompt.id][: len(responses)], rewards[prompt.id][len(responses) :]),
        )
        for prompt, responses in first
    ]


def keep(
    first: Sequence[bool | None], second: Sequence[bool | None], options: Star, choose: random.Random
) -> list[tuple[int, tuple[int, int]]]:
    """The traces of one prompt that are trained: (number of the first attempt, (turn, number) of the answer behind it).

    Wrong first attempts come before right ones (`right_to_right`), each by its number; the first `most_per_prompt` are
    kept. With `pairs` the answer is drawn from the right ones of both turns, a right first attempt itself among them.

    Args:
        first: whether each first attempt is right; None where its reward is missing, which is in no trace.
        second: the same of the second attempts, one behind each first one.
    """
    answers = [(turn, place) for turn, side in ((1, first), (2, second)) for place, right in enumerate(side) if right]
    starts = [place for place, right in enumerate(first) if right is False]
    if options.right_to_right:
        starts += [place for place, right in enumerate(first) if right]
    if options.traces == "pairs":
        found = [(place, choose.choice(answers)) for place in starts if answers]
    else:
        found = [(place, (2, place)) for place in starts if second[place]]
    return found[: options.most_per_prompt]


def kept_examples(loop: Loop, policy: Policy, round: Round, drawn: Sequence[Drawn]) -> list[dict[str, list[int]]]:
    """What is trained: the ids of the kept second attempts, each behind the ids that it answers.

    Writes the event `traces`, and checks how many rewards are missing. RunFailed where nothing is kept.
    """
    options = loop.recipe.options
    transitions = dict.fromkeys(_TRANSITIONS.values(), 0)
    kept = {"corrections": 0, "right_to_right": 0}
    examples = []
    for one in drawn:
        first, second = one.right(options.reward.right_from)
        for a, b in zip(first, second, strict=True):
            if a is not None and b is not None:
                transitions[_TRANSITIONS[a, b]] += 1
        choose = random.Random(f"pairs|{loop.recipe.seed}|{round.number}|{one.prompt.id}")
        for place, (turn, number) in keep(first, second, options, choose):
            kept["right_to_right" if first[place] else "corrections"] += 1
            answer = (one.first if turn == 1 else one.second)[number]
            examples.append({"prompt_ids": list(one.read[place].prompt_ids), "response_ids": list(answer.ids)})

    by_turn = [[reward for one in drawn for reward in one.rewards[turn]] for turn in (0, 1)]
    everything = [reward for side in by_turn for reward in side]
    missing = Counter(reward.missing for reward in everything if reward.missing)
    checked = sum(reward.failure != TRUNCATED for reward in everything)
    figures = {
        "round": round.number,
        "policy": policy.name,
        "policy_digest": policy.digest,
        "traces": options.traces,
        "prompts": len(drawn),
        "attempts": len(everything),
        "transitions": transitions,
        "missing": dict(missing),
        "failures": {
            f"turn_{turn}": dict(Counter(reward.failure for reward in side if reward.failure))
            for turn, side in enumerate(by_turn, 1)
        },
        **kept,
        "kept": len(examples),
    }
    loop.events.emit("traces", digest_of(figures), **figures)
    loop.check(gates.judge_health(missing.total() / max(checked, 1), 0.0, loop.recipe.gates.model_dump()))
    if not examples:
        found = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in transitions.items())
        raise RunFailed(
            f"round {round.number}: no trace is left to train on ({found}, of {len(everything) // 2} traces). Raise "
            "sampling.n or data.prompts_per_round, take easier prompts, or look at the answers in the sampling steps' "
            "folders; star.traces=pairs needs one right answer to a prompt, not a corrected one, and "
            "star.right_to_right=true keeps right answers that stayed right"
        )
    return examples
