"""The step `sample`: responses to prompts, token for token."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from selfimprove.artefacts import read_rows, write_rows
from selfimprove.registry import OURS, said_with_place
from selfimprove.steps.kind import Advance, StepKind
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


SAMPLE = StepKind(1, _sample, "prompts", 64, "responses", "sampling")
