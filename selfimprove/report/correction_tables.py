"""What became of first attempts, as tables: of the report, and as lines of the terminal's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, evaluations_of, number, policies_of, rate, text, total, with_interval
from selfimprove.report.tables import Table, as_dict, as_list, counts

KEY = "self_correction"
# what became of the attempts of one turn in another, in the order of every table
_BECAME = {
    "i_to_c": "wrong, then right",
    "c_to_i": "right, then wrong",
    "change": "another answer",
    "copy": "copied whole",
}
_ARMS = ("corrected", "parallel", "equal_tokens")
_AGAINST = {"parallel": "difference", "equal_tokens": "difference_at_equal_tokens"}


def corrections_of(events: Sequence[Event]) -> dict[str, dict[str, Event]]:
    """suite -> policy -> evaluation, of the suites with several attempts, policies in the order they were made."""
    found = {}
    for suite, by_policy in evaluations_of(events, "accuracy").items():
        own = {policy: by_policy[policy] for policy in policies_of(events) if is_correction(by_policy.get(policy))}
        if own:
            found[suite] = own
    return found


def is_correction(event: Any) -> bool:
    return bool(as_dict(dig(event, KEY, "turns")))


def turns_of(by_policy: dict[str, Event]) -> list[str]:
    """The turns that any of the policies had: "1", "2", ..."""
    return list(dict.fromkeys(turn for event in by_policy.values() for turn in as_dict(dig(event, KEY, "turns"))))


def _rows(events: Sequence[Event]) -> Iterator[tuple[str, str, Event]]:
    for suite, by_policy in corrections_of(events).items():
        for policy, event in by_policy.items():
            yield suite, policy, event


def _all_turns(events: Sequence[Event]) -> list[str]:
    return max((turns_of(by_policy) for by_policy in corrections_of(events).values()), key=len, default=[])


def _points(value: Any) -> str:
    return with_interval(value, "value", scale=100, sign=True)


def corrections_table(events: Sequence[Event]) -> Table:
    turns = _all_turns(events)
    rows = []
    for suite, policy, event in _rows(events):
        found = event[KEY]
        each = [dig(found, "turns", turn) for turn in turns]
        rows.append(
            [
                suite,
                policy,
                *(rate(one) for one in each),
                _points(dig(found, "delta")),
                *(rate(dig(found, key)) for key in _BECAME),
                with_interval(dig(found, "edit_ratio"), "value", digits=3),
                *(rate(dig(one, "truncated")) for one in each),
                count(dig(found, "delta", "n")),
                "; ".join(
                    f"turn {turn}: {reasons}"
                    for turn, one in zip(turns, each, strict=True)
                    if (reasons := counts(dig(one, "missing")))
                ),
            ]
        )
    columns = ["suite", "policy", *(f"Acc@t{turn}, % [95%]" for turn in turns), "Delta, points [95%]"]
    columns += [f"{name}, % [95%]" for name in _BECAME.values()]
    columns += ["edit ratio [95%]", *(f"truncated, turn {turn}, % [95%]" for turn in turns), "items", "missing"]
    return Table(columns, rows)


def steps_table(events: Sequence[Event]) -> Table:
    """From each turn to the next; only dialogues of more than two turns have any."""
    rows = [
        [
            suite,
            policy,
            f"{text(dig(step, 'from'))} to {text(dig(step, 'to'))}",
            _points(dig(step, "delta")),
            *(rate(dig(step, key)) for key in _BECAME),
            with_interval(dig(step, "edit_ratio"), "value", digits=3),
        ]
        for suite, policy, event in _rows(events)
        for step in as_list(dig(event, KEY, "steps"))
    ]
    columns = ["suite", "policy", "turns", "Delta, points [95%]", *(f"{name}, % [95%]" for name in _BECAME.values())]
    return Table([*columns, "edit ratio [95%]"], rows)


def votes_table(events: Sequence[Event]) -> Table:
    """One row for each way to spend the tokens."""
    rows = []
    for suite, policy, event in _rows(events):
        votes = dig(event, KEY, "vote")
        for arm in _ARMS:
            if not isinstance(one := dig(votes, arm), dict):
                continue
            spent = f"{count(one.get('attempts'))} first" + " (as many tokens)" * (arm == "equal_tokens")
            rows.append(
                [
                    suite,
                    policy,
                    text(dig(votes, "temperature")),
                    f"{count(dig(votes, 'samples'))}, each corrected" if arm == "corrected" else spent,
                    rate(one),
                    _points(dig(votes, _AGAINST[arm])) if arm in _AGAINST else "",
                    count(one.get("n")),
                    *(_tokens(one.get(key)) for key in ("tokens_written", "tokens_read")),
                ]
            )
    columns = ["suite", "policy", "temperature", "attempts", "vote, % [95%]", "corrected minus it, points [95%]"]
    return Table([*columns, "items", "tokens written", "tokens read"], rows)


def _tokens(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:,.0f}"


Line = tuple[str, Callable[[Event], str]]


def correction_lines(by_policy: dict[str, Event]) -> list[Line]:
    """The terminal's lines: a name, and how its cell is read from an evaluation."""

    def at(*keys: str, show: Callable[[Any], str] = rate) -> Callable[[Event], str]:
        return lambda event: show(dig(event, KEY, *keys))

    def missing(event: Event) -> str:
        return str(sum(total(dig(event, KEY, "turns", turn, "missing")) for turn in turns) or "")

    turns = turns_of(by_policy)
    lines: list[Line] = [(f"Acc@t{turn}", at("turns", turn)) for turn in turns]
    lines.append(("Delta, points", at("delta", show=_points)))
    lines += [(name, at(key)) for key, name in _BECAME.items()]
    lines.append(("edit ratio", at("edit_ratio", show=lambda found: with_interval(found, "value", digits=3))))
    lines += [(f"truncated, turn {turn}", at("turns", turn, "truncated")) for turn in turns]
    lines.append(("missing", missing))
    samples = next((found for event in by_policy.values() if (found := dig(event, KEY, "vote", "samples"))), 0)
    if samples:
        for arm, name in (
            ("corrected", f"vote: {samples}, each corrected"),
            ("parallel", f"vote: {2 * samples} first attempts"),
            ("equal_tokens", "vote: as many tokens"),
        ):
            lines.append((name, at("vote", arm)))
            if arm == "equal_tokens":
                lines.append(("  first attempts", at("vote", arm, "attempts", show=count)))
            lines.append(("  tokens written", at("vote", arm, "tokens_written", show=_tokens)))
            if arm in _AGAINST:
                lines.append(("  corrected minus it", at("vote", _AGAINST[arm], show=_points)))
    return lines


def correction_notes(by_policy: dict[str, Event]) -> list[str]:
    """What the lines mean, below them; nothing where there are none."""
    if not by_policy:
        return []
    last = turns_of(by_policy)[-1]
    notes = [
        f"Shares of all items in %; the suite's accuracy is Acc@t{last}. Delta and what became of first attempts: from "
        f"turn 1 to turn {last}. Edit ratio: edit distance / both lengths. [95%]: Wilson's for shares, "
        "and of its kind for differences and the ratio."
    ]
    if any(dig(event, KEY, "feedback") for event in by_policy.values()):
        notes.append("Before each later attempt the policy wrote feedback on its own answer (Self-Refine).")
    votes = [found for event in by_policy.values() if (found := as_dict(dig(event, KEY, "vote")))]
    if votes:
        notes.append(
            "Votes, for the most frequent answer: of attempts each corrected once, against as many first attempts as "
            "that is samples, and against as many as the same written tokens pay for."
        )
    if any(one.get("capped") is True for one in votes):
        notes.append("The same tokens would pay for more first attempts than are ever drawn (16 times the samples).")
    return notes
