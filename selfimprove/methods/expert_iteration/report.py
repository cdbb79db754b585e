"""What the report shows of expert iteration's rounds: what was sampled, accepted and kept, and where nothing was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import of_kind, round_number
from selfimprove.report.table import Col, Table, as_dict, as_list, count, counts, interval, percent, rate, short


def acceptance_part(events: Sequence[Event]) -> Part:
    rounds = of_kind(events, "acceptance")
    never = _never(rounds)
    return Part(
        "What was accepted?",
        "Accepted: the share of responses, which is pass@1 where a judge's threshold decided; pass@k: of prompts "
        "with any among their k; lenient: by a check that forgives the form. Intervals are over prompts. Truncated "
        "responses are never accepted. Kept: distinct ones, at most so many a prompt. "
        f"-log p is the mean over samples, which is the entropy at temperature 1 and top_p 1. {never}",
        tables=[_rounds(rounds), _without(rounds), _kept(rounds)],
        outcome=never,
    )


def _never(rounds: Sequence[Event]) -> str:
    """The kinds of prompts of which no response was accepted in any round, in a sentence; empty where there is none."""
    prompts: dict[str, float] = {}
    taught: set[str] = set()
    for event in rounds:
        for kind, (none, many) in as_dict(event.get("without")).items():
            prompts[kind] = prompts.get(kind, 0) + many
            if none < many:
                taught.add(kind)
    never = [f"{kind} ({count(many)} prompts)" for kind, many in prompts.items() if kind not in taught]
    if not never or not taught:
        return ""
    return f"Never right in any sample: {', '.join(never)}. Filtering cannot teach what is never sampled."


def _rounds(rounds: Sequence[Event]) -> Table:
    columns = [
        Col("round", show=count),
        Col("samples of", "policy"),
        Col("judge"),
        Col("prompts", show=count),
        Col("responses", show=count),
        Col("accepted", show=count),
        Col("kept", show=count),
        Col("accepted, % [95%]", "accepted_share", rate),
        Col("lenient, % [95%]", "lenient_1", rate),
        Col("pass@k, % [95%]", "pass_k", rate),
        Col("k", show=count),
        Col("distinct accepted a prompt [95%]", "distinct", interval(digits=2)),
        Col("-log p, nats per token [95%]", "entropy", interval(digits=2)),
        Col("truncated, %", "truncated_share", percent),
        Col("missing", show=counts),
    ]
    return Table("Rounds", rounds, columns)


def _without(rounds: Sequence[Event]) -> Table:
    """By kind of prompt and round: prompts none of whose responses was accepted. Filtering cannot teach these."""
    found = {round_number(event): as_dict(event.get("without")) for event in rounds}
    kinds = dict.fromkeys(kind for one in found.values() for kind in one)
    columns = [
        Col("kind", str),
        *(Col(f"round {number}: prompts with none", one.get, _of) for number, one in found.items()),
    ]
    return Table("Prompts without an accepted response", list(kinds), columns)


def _of(found: Any) -> str:
    """`3 of 8` from [none, all]."""
    both = as_list(found)
    return f"{short(both[0])} of {short(both[1])}" if len(both) == 2 else ""


def _kept(rounds: Sequence[Event]) -> Table:
    """Some kept responses beside one of the same prompt that was not kept."""
    rows = [{"round": event.get("round"), **as_dict(one)} for event in rounds for one in as_list(event.get("examples"))]
    columns = [Col("round", show=count), Col("prompt"), Col("kept"), Col("not kept", "not_kept")]
    return Table("Some kept responses", rows, columns)
