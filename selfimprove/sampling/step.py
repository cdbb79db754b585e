"""The step `sample`: responses to prompts, token for token."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.models.policy import load_tokenizer
from selfimprove.registry import OURS, said_with_place
from selfimprove.steps.cost import Dry, Tokens, dry_log_prob
from selfimprove.steps.kind import Advance, StepKind
from selfimprove.steps.memory import plan_of, sampling
from selfimprove.steps.request import StepRequest
from selfimprove.steps.shards import refuse_non_finite, shard_of


def _sample(folder: Path, task: dict[str, Any], shard: int, advance: Advance) -> None:
    from selfimprove.models.policy import Policy, load_tokenizer
    from selfimprove.sampling.backends import make_sampler
    from selfimprove.sampling.sampler import Decoding, Request, require_sampled, response_seed
    from selfimprove.sampling.shaping import cut_at

    options, policy = task["options"], Policy(**task["policies"]["policy"])
    prompts = shard_of(read_rows(folder / "inputs" / "prompts.arrow"), shard, task["shard_groups"])
    sampler = make_sampler(options, task["execution"], folder)
    requests = [
        Request(tuple(p["prompt_ids"]), options["n"], response_seed(task["seed"], task["key"], 0, p["prompt_id"]))
        for p in prompts
    ]
    decoding = Decoding.of(options)
    tokenizer = load_tokenizer(policy)
    name = options["backend"]
    with nullcontext() if name in OURS["sampler"] else said_with_place(f"sampler {name}", sampler):
        sampler.set_weights(policy)
        sampled = sampler.sample(requests, decoding, advance)
        require_sampled(name, requests, decoding, sampled)
    rows = [
        {
            "prompt_id": prompt["prompt_id"],
            "index": index,
            "ids": response.ids,
            "finish": response.finish,
            "log_prob": response.log_prob,
            "text": cut_at(tokenizer.decode(response.ids, skip_special_tokens=True), decoding.stop),
        }
        for prompt, responses in zip(prompts, sampled, strict=True)
        for index, response in enumerate(responses)
    ]
    refuse_non_finite(rows, folder)
    write_rows(folder / f"rows-{shard:05d}.arrow", rows)
    (folder / "journal.jsonl").unlink(missing_ok=True)  # a server's answers, until their shard is whole


def _dry(request: StepRequest) -> Dry:
    """Responses of all their tokens, each its own number and then one word again and again, with its end."""
    options, policy, prompts = request.options, request.policies["policy"], request.inputs["prompts"]
    new, n, tokenizer = options["max_new_tokens"], options["n"], load_tokenizer(request.policies["policy"])
    (*_, word), end = tokenizer(" text", add_special_tokens=False)["input_ids"], options["stop_ids"][:1]
    drawn = []
    for index in range(n):
        number = tokenizer(str(index + 1), add_special_tokens=False)["input_ids"]
        ids = [*number, *[word] * new][: new - 1] + end if new > 1 else number[-1:]
        drawn.append((index, tuple(ids), tokenizer.decode(ids, skip_special_tokens=True)))
    rows = [
        {
            "prompt_id": one["prompt_id"],
            "index": index,
            "ids": ids,
            "finish": "stop",
            "log_prob": dry_log_prob(policy, one["prompt_id"], index, new),
            "text": text,
        }
        for one in prompts
        for index, ids, text in drawn
    ]
    lengths = [len(one["prompt_ids"]) for one in prompts]
    return Dry(
        Tokens(read=sum(lengths), sampled=n * new * len(prompts)),
        rows,
        plan_of(request, prompt=max(lengths, default=0), response=new, n=n),
        sampling,
    )


SAMPLE = StepKind(1, _sample, "prompts", 64, "responses", "sampling", _dry)
