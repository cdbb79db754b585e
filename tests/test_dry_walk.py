"""A method walked through without making anything: the very steps of its run, which takes no more than was said."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS, write_jsonl
from rich.console import Console

import selfimprove
from selfimprove.artefacts import Store, read_rows
from selfimprove.loop.dry import DryLoop, Walk, spaced, walk
from selfimprove.loop.loop import Loop
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.steps.cost import Tokens
from selfimprove.steps.memory import Shape

MakeRecipe = Callable[..., Recipe]
ODD = {"kind": "function", "function": "test_dry_walk:odd"}


def odd(prompt: str, response: str, answer: str | None) -> float:
    return float(len(response) % 2)


def prepared(recipe: Recipe) -> Loop:
    quiet = Progress(Console(file=io.StringIO()))
    return Loop(recipe, Store(Path(recipe.output) / "steps"), EventLog(Path(recipe.output), wait=True), quiet)


def walked(recipe: Recipe) -> Walk:
    found = walk(prepared(recipe))
    assert not found.unknown
    return found


def kinds_of(found: Walk) -> list[str]:
    """The walk's kinds of steps by purpose, but those of the evaluation."""
    return [step.purpose for step in found.steps if step.purpose != "evaluation"]


def made_by(recipe: Recipe) -> tuple[list[str], dict[str, Tokens]]:
    """Purposes of a real run's steps in order, and their tokens as counted in what the steps were given and made."""
    result = selfimprove.run(recipe, Progress(Console(quiet=True)))
    events = [one for one in result.events if one["event"] == "step" and one["purpose"] != "evaluation"]
    tokens: dict[str, Tokens] = {}
    for event in events:
        folder = Path(recipe.output) / "steps" / event["folder"]
        tokens[event["purpose"]] = tokens.get(event["purpose"], Tokens()) + counted(folder, event["step"])
    return [event["purpose"] for event in events], tokens


def counted(folder: Path, step: str) -> Tokens:
    if step not in ("sample", "log_probs", "sft", "dpo", "judge"):
        return Tokens()
    (file,) = (folder / "inputs").iterdir()
    given = read_rows(file)
    if step == "sample":
        made = [row for path in folder.glob("rows-*.arrow") for row in read_rows(path)]
        return Tokens(read=sum(len(row["prompt_ids"]) for row in given), sampled=sum(len(row["ids"]) for row in made))
    if step == "log_probs":
        prompts = {row["prompt_id"]: len(row["prompt_ids"]) for row in given}
        return Tokens(scored=sum(prompts.values()) + sum(len(row["ids"]) for row in given))
    names = [name for name in ("response_ids", "chosen_ids", "rejected_ids") if name in given[0]]
    if step == "judge":
        return Tokens(trained=sum(len(row[name]) for row in given for name in ("reference_ids", "plain_ids")))
    return Tokens(trained=sum(len(row["prompt_ids"]) + len(row[name]) for row in given for name in names))


CASES: dict[str, dict[str, Any]] = {
    "cream": {},
    "cream, half-way": {"cream": {"first_round": "sft_middle"}},
    "srlm": {},
    "iterative_dpo": {"iterative_dpo": {"judge": {"kind": "random"}}},
    "iterative_dpo, implicit": {},
    "sft": {},
    "dpo": {},
    "sharpening": {},
    "expert_iteration": {"expert_iteration": {"judge": "format", "most_per_prompt": 3, "distinct": False}},
    "expert_iteration, pairs": {"expert_iteration": {"judge": ODD, "pairs": True}},
    "star": {"star": {"reward": ODD, "traces": "pairs"}},
    "score": {
        "data": {"seed": None, "pairs": None, "prompts_per_round": None},
        "training": {"batch_size": 12},
        "score": {"reward": ODD, "stage_one": {"updates": 2}, "stage_two": {"updates": 1}, "probe_prompts": 6},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_walk_goes_through_the_steps_of_the_run(
    name: str, tiny_recipe: MakeRecipe, writing_model: Path, tiny_data: Path
) -> None:
    method = name.partition(",")[0]
    own = {"model": str(writing_model), "rounds": 2, "sampling": {"n": 3, "max_new_tokens": 40}, **CASES[name]}
    if method == "sft":
        del own["sampling"]
    recipe = tiny_recipe(method, **{**own, "gates": {"disabled": ["consistency", "degeneration", "judge_health"]}})
    found = walked(recipe)
    assert not Path(recipe.output).exists(), "nothing is written"
    steps, real = made_by(recipe)
    assert kinds_of(found) == steps
    dry: dict[str, Tokens] = {}
    for step in found.steps:
        dry[step.purpose] = dry.get(step.purpose, Tokens()) + step.tokens
    for purpose, tokens in real.items():
        assert dry[purpose].read == tokens.read or method in ("star", "score")  # there it reads its own answers too
        for part in ("read", "sampled", "scored", "trained"):
            assert getattr(dry[purpose], part) >= getattr(tokens, part), (purpose, part)
    assert found.evaluated == len(
        [1 for line in (Path(recipe.output) / "metrics.jsonl").read_text().splitlines() if '"evaluation", "id"' in line]
    )


def test_a_stranger_says_nothing_and_is_walked(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe("sharpening", rounds=2)
    found = walked(recipe)
    prompts = [len(one.prompt_ids) for group in prepared(recipe).data.round_prompts for one in group]
    assert found.tokens() == Tokens(
        read=sum(prompts),
        sampled=len(prompts) * 3 * 8,
        # Every prompt once with its three draws, and twice a round eight examples of which the weights' probe is made.
        scored=sum(prompts) + len(prompts) * 3 * 8 + 2 * (sum(prompts) + len(prompts) * 8),
        trained=sum(prompts) + len(prompts) * 8,
    )
    assert [step.purpose for step in found.steps if step.trained] == ["SFT", "SFT"]


def many(tiny_data: Path, tiny_recipe: MakeRecipe, count: int, **changes: Any) -> Recipe:
    rows = [{"prompt": f"Say {' '.join(WORDS[: 1 + i % 7])} {i}", "answer": "cat"} for i in range(count)]
    write_jsonl(tiny_data / "prompts.jsonl", rows)
    return tiny_recipe(changes.pop("method", "cream"), rounds=2, data={"prompts_per_round": count // 2}, **changes)


@pytest.mark.parametrize("method", ["cream", "sharpening", "star"])
def test_many_prompts_are_walked_with_few(method: str, tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    """What few prompts take is scaled to all, within 2% of a walk with each; the longest is among the few."""
    recipe = many(tiny_data, tiny_recipe, 1200, method=method)
    loop = prepared(recipe)
    found = walk(loop)
    exact = DryLoop(loop, recipe, tiny_data / "walked", loop.data.round_prompts)
    recipe.contract.run(exact, recipe.options)
    for part in ("read", "sampled", "scored", "trained"):
        assert getattr(found.tokens(), part) == pytest.approx(getattr(exact.walked.tokens(), part), rel=0.02), part
    longest = [max(step.dry.plan.prompt for step in one.steps if step.dry.plan) for one in (found, exact.walked)]
    assert longest[0] == longest[1]
    assert len(spaced(loop.data.round_prompts[0], 64)) == 64


def test_a_method_that_fails_on_the_way_is_said(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    """A text that the method reads may be none that it can use: then the estimate ends there, with the reason."""
    from selfimprove.cli.estimate import needs_of, verdict

    (tiny_data / "odd.py").write_text(
        "from selfimprove import Needs, method\n\n\n@method(needs=Needs(prompts=True))\ndef reads(loop, options):\n"
        "    for round in loop.rounds():\n"
        "        texts = [one.text for one in loop.sample(loop.base_policy, round.prompts).all()]\n"
        "        return {'yes': 1}[texts[0]]\n"
    )
    from test_third_party import values

    loop = prepared(values(tiny_recipe("cream"), "odd.py:reads"))
    needs = needs_of(loop)
    assert needs.walk.unknown.startswith("KeyError: '1") and needs.walk.tokens().sampled == 8 * 3 * 8
    assert verdict(loop, needs)[0].startswith("what it needs is not known: KeyError")


def test_memory_is_of_the_models_own_shape(tiny_recipe: MakeRecipe, tiny_model: Path) -> None:
    found = walked(tiny_recipe("cream"))
    shape = Shape.read(tiny_model)
    assert {step.base for step in found.steps} == {str(tiny_model)}
    peaks = {step.purpose: step.dry.memory(shape, step.dry.plan).total for step in found.steps if step.dry.memory}
    assert set(peaks) == {"evaluation", "sampling", "scoring", "SFT", "DPO"}
