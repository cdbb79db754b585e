"""What a run of a method takes, as the method's file says it: what `selfimprove check` estimates from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfimprove.errors import InputError

if TYPE_CHECKING:
    from selfimprove.recipe.recipe import Recipe

# Examples and responses whose log-probs tell that a training changed something, each under both policies.
PROBE = 8


@dataclass(frozen=True)
class Tokens:
    """`read`: prompts that are sampled from; `sampled`: written; `scored`: forward only; `trained`: forward and
    backward, with the prompts that stand before what is learnt. `policies`: how many are evaluated."""

    read: float
    sampled: float
    scored: float
    trained: float
    policies: int


@dataclass(frozen=True)
class Data:
    """Lengths in tokens of what a run goes through.

    Attributes:
        prompts: of each prompt, by round.
        examples: of all seed examples together.
        between: of the turn that follows an answer, or of what else the method's `preview` says.
        gpu: on one, `training.gradient_checkpointing: auto` is on, and a prompt is then not shared by its samples.
    """

    prompts: Sequence[Sequence[int]]
    examples: int
    between: int
    gpu: bool

    @property
    def rows(self) -> list[int]:
        """All prompts'."""
        return [length for group in self.prompts for length in group]


@dataclass(frozen=True)
class Cost:
    """What a run takes, beside its data's lengths.

    Attributes:
        tokens: of the whole run, by its data.
        trains: whose memory counts, of `SFT`, `DPO`, `SCoRe stage` and `judge`.
        each_round, once: policies that are trained.
        samples, scores: whether it does.
        middle: one SFT leaves a policy of its middle too.
        second_turns: second answers to each first one; `at_once`: answers to a prompt at a time, if not `sampling.n`.
        reference: a second copy of the weights is held while it trains.
        questions: trains two questions about each response at a time, in the place of seed examples.
        kept_more, while_training_more: further policies on disk.
    """

    tokens: Callable[[Data], Tokens]
    trains: Sequence[str]
    each_round: int = 0
    once: int = 0
    samples: bool = True
    scores: bool = True
    middle: bool = False
    second_turns: int = 0
    at_once: int | None = None
    reference: bool = False
    questions: bool = False
    kept_more: int = 0
    while_training_more: int = 0


@dataclass(frozen=True)
class Preview:
    """What `selfimprove check` shows of a method beside its seed examples, prompts and pairs.

    Attributes:
        lines: what the run goes through, in sentences.
        examples: (title, token ids) of what else is sampled from or trained.
        between: tokens of what stands between two texts, for `Data`.
        prompt, example: the longest ones (tokens), where they are not the data's.
        at_once: the recipe where everything passes at once, for a second estimate of the time.
    """

    lines: Sequence[str] = ()
    examples: Sequence[tuple[str, list[int]]] = ()
    between: int = 0
    prompt: int | None = None
    example: int | None = None
    at_once: Any = None


def cost_of(recipe: Recipe) -> Cost:
    """Of the recipe's method. Raises InputError where that does not say: no other method's cost is taken for it."""
    if recipe.contract.cost is None:
        raise InputError(f"method {recipe.method!r} does not say what it takes (`cost=` of its decorator)")
    found: Cost = recipe.contract.cost(recipe, recipe.options)
    return found


def tokens_of(recipe: Recipe, prompts: Sequence[Sequence[int]], examples: int, between: int, gpu: bool) -> Tokens:
    """Tokens of a whole run, an upper bound: every response is taken to use all of `sampling.max_new_tokens`. The
    arguments are those of `Data`."""
    return cost_of(recipe).tokens(Data(prompts, examples, between, gpu))
