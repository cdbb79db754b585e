"""The step `score`: one stage of policy-gradient training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfimprove.models.chat import append_turn
from selfimprove.models.policy import load_tokenizer
from selfimprove.steps.cost import Dry, Tokens
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.memory import score
from selfimprove.steps.request import StepRequest
from selfimprove.training.step import training_plan


def _score(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.methods.score.stage import clear_leftovers, train_score
    from selfimprove.training.stages import already_trained

    if not already_trained(folder):
        train_score(folder, task, advance)
    clear_leftovers(folder)


def _dry(request: StepRequest) -> Dry:
    """Every update samples, and its samples go through the reference once and are trained, in each pass. On disk beside
    it: the best policy so far, and the weights that vLLM reads."""
    options, execution = request.options, request.execution
    n, new, second = options["n"], options["max_new_tokens"], options["turns"] == 2
    tokenizer = load_tokenizer(request.policies["start"])
    between = len(append_turn(tokenizer, [], options["instruction"])) if second else 0
    prompts = [len(row["prompt_ids"]) for row in request.inputs["prompts"]]
    mean, used = sum(prompts) / len(prompts), options["updates"] * options["batch_size"] // n
    firsts, row = used * options["first_attempts"], new + second * (new + between)
    given = execution["share_prompt"]
    shared = not execution["gradient_checkpointing"] if given == "auto" else given
    forward = options["passes"] * (used * mean * (1 if shared else n) + used * n * row)
    return Dry(
        Tokens(
            read=used * mean + second * firsts * (mean + new + between),
            sampled=firsts * new + second * used * n * new,
            scored=forward,
            trained=forward,
        ),
        plan=training_plan(
            request,
            prompt=max(prompts),
            response=new,
            n=n,
            seconds=n // options["first_attempts"] if second else 0,
            between=between,
            reference=not options["lora"],
        ),
        memory=score,
        policies=1,
        beside=(options["keep"] == "highest_reward") + (options["backend"] != "transformers"),
        history=[{"telling": 1.0}],
    )


SCORE = StepKind(2, _score, "prompts", None, "steps", "SCoRe", _dry)
