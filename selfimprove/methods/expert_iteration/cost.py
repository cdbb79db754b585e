"""What a run of expert iteration takes."""

from __future__ import annotations

from selfimprove.methods.expert_iteration.options import ExpertIteration
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import PROBE, Cost, Data, Tokens


def cost(recipe: Recipe, options: ExpertIteration) -> Cost:
    """A training a round: SFT, or DPO."""
    trains = ["SFT"] if recipe.data.seed or not options.pairs else []
    trains += ["DPO"] if options.pairs else []
    return Cost(lambda data: _tokens(recipe, options, data), trains=trains, each_round=1)


def _tokens(recipe: Recipe, options: ExpertIteration, data: Data) -> Tokens:
    """Every round: samples, and training on those kept, at most `most_per_prompt` of a prompt: SFT, or pairs with as
    many refused ones, whose reference is scored. The rows of earlier rounds that are replayed are trained again."""
    rows, rounds = data.rows, len(data.prompts)
    n, new = recipe.sampling.n, recipe.sampling.max_new_tokens
    kept = min(n, options.most_per_prompt) * (sum(rows) + len(rows) * new)
    replayed = options.replay * kept * (rounds - 1) / 2
    scored = 2 * rounds * PROBE * (sum(rows) / len(rows) + new)
    judged = options.judge.of or options.judge
    read = {"likelihood": 1, "implicit_reward": 2}.get(judged.kind, 0) * (sum(rows) + n * len(rows) * new)
    return Tokens(
        read=sum(rows),
        sampled=n * len(rows) * new,
        scored=read + (4 * kept if options.pairs else scored),
        trained=recipe.training.epochs * 2 * kept if options.pairs else recipe.sft.epochs * (kept + replayed),
        policies=rounds + 1,
    )
