"""The step `log_probs`: summed log-likelihoods of given responses under a policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.steps.cost import Dry, Tokens, dry_log_prob
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.memory import plan_of, scoring
from selfimprove.steps.request import StepRequest
from selfimprove.steps.shards import by_prompt, refuse_non_finite, shard_of


def _log_probs(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.models.likelihood import summed_log_probs
    from selfimprove.models.loading import MODELS
    from selfimprove.models.log_probs import Group
    from selfimprove.models.policy import Policy, pick_device, pick_dtype

    device = pick_device(task["execution"]["device"])
    groups = by_prompt(read_rows(folder / "inputs" / "responses.arrow"))
    mine = shard_of(groups, shard, task["shard_groups"])
    # Equal responses of a prompt are scored once: they must tie exactly, whatever batch they would have been in.
    distinct = [list(dict.fromkeys(tuple(row["ids"]) for row in group)) for group in mine]
    model, as_policy = MODELS.get(
        Policy(**task["policies"]["policy"]), pick_dtype(task["options"]["dtype"], device), device
    )
    with as_policy:
        scored = summed_log_probs(
            model,
            [Group(tuple(g[0]["prompt_ids"]), tuple(ids)) for g, ids in zip(mine, distinct, strict=True)],
            task["execution"]["batch_tokens"],
            advance,
        )
    rows = []
    for group, ids, values in zip(mine, distinct, scored, strict=True):
        value_of = dict(zip(ids, values, strict=True))
        rows += [
            {
                "prompt_id": row["prompt_id"],
                "index": row["index"],
                "log_prob": value_of[tuple(row["ids"])],
                "tokens": len(row["ids"]),
            }
            for row in group
        ]
    refuse_non_finite(rows, folder)
    advance(len(rows) - sum(map(len, distinct)))
    write_rows(folder / f"rows-{shard:05d}.arrow", rows)


def _dry(request: StepRequest) -> Dry:
    """Every prompt once, and its responses."""
    policy, groups = request.policies["policy"], by_prompt([dict(row) for row in request.inputs["responses"]])
    rows = [
        {
            "prompt_id": row["prompt_id"],
            "index": row["index"],
            "log_prob": dry_log_prob(policy, row["prompt_id"], row["index"], len(row["ids"])),
            "tokens": len(row["ids"]),
        }
        for group in groups
        for row in group
    ]
    prompts, responses = [len(group[0]["prompt_ids"]) for group in groups], [row["tokens"] for row in rows]
    prompt, response = max(prompts, default=0), max(responses, default=0)
    plan = plan_of(request, prompt=prompt, response=response, n=max(map(len, groups), default=0))
    # A few rows, such as a probe of the weights, fill no batch.
    plan = replace(plan, batch_tokens=min(plan.batch_tokens, len(rows) * (prompt + response)))
    return Dry(Tokens(scored=sum(prompts) + sum(responses)), rows, plan, scoring)


LOG_PROBS = StepKind(1, _log_probs, "responses", 64, "responses", "scoring", _dry)
