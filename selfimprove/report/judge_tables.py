"""Policies as judges of graded responses, as tables: of the report, and as lines of the terminal's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, evaluations_of, fixed, policies_of, text, total, with_interval
from selfimprove.report.tables import Table, as_dict, as_list, counts

KEY = "graded"
# what needs no judge, in the order of every table
BASELINES = {
    "length": "longer is better",
    "shortness": "shorter is better",
    "likelihood": "likelihood per token",
    "likelihood_summed": "likelihood, summed",
    "random": "random",
    "oracle": "oracle (gold itself)",
}
_CORRELATIONS = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall": "Kendall's tau-b",
    "within": "Spearman within prompts",
}
_STATISTICS = _CORRELATIONS | {"auroc": "AUROC", "area": "area"}
_BEST = {"minus_random": "minus random", "minus_longest": "minus longest", "minus_shortest": "minus shortest"}


def graded_of(events: Sequence[Event]) -> dict[str, dict[str, Event]]:
    """suite -> policy -> evaluation, of the suites of graded responses, policies in the order they were made."""
    found = {}
    for suite, by_policy in evaluations_of(events, KEY).items():
        own = {policy: by_policy[policy] for policy in policies_of(events) if is_graded(by_policy.get(policy))}
        if own:
            found[suite] = own
    return found


def is_graded(event: Any) -> bool:
    return bool(as_dict(dig(event, KEY, "scores")))


def judges_of(by_policy: dict[str, Event]) -> dict[str, dict[str, Any]]:
    """Name -> figures of every policy's scores, and of what needs no judge: the first policy's, since all policies of a
    suite judge the same responses (but for those that one of them has no score for)."""
    found = {policy: as_dict(dig(event, KEY, "scores")) for policy, event in by_policy.items()}
    first = next(iter(by_policy.values()))
    for name, shown in BASELINES.items():
        if figures := as_dict(dig(first, KEY, "baselines", name)):
            found[shown] = figures
    return found


def _value(found: Any, key: str = "value", sign: bool = False) -> str:
    return with_interval(found, key, digits=3, sign=sign)


def _rows(events: Sequence[Event]) -> Iterator[tuple[str, str, dict[str, Any], Event | None]]:
    """(suite, name, figures, the policy's evaluation)."""
    for suite, by_policy in graded_of(events).items():
        for name, figures in judges_of(by_policy).items():
            yield suite, name, figures, by_policy.get(name)


def scores_table(events: Sequence[Event]) -> Table:
    rows = []
    for suite, name, figures, event in _rows(events):
        rows.append(
            [
                suite,
                name,
                *(_value(figures.get(key)) for key in _STATISTICS),
                _value(dig(event, KEY, "spearman_paired"), "difference", sign=True),
                text(dig(event, KEY, "spearman_paired", "against")),
                count(figures.get("n")),
                counts(dig(event, KEY, "missing")),
            ]
        )
    columns = ["suite", "scores of", *(f"{name} [95%]" for name in _STATISTICS.values()), "change of Spearman [95%]"]
    return Table([*columns, "against", "responses", "missing"], rows)


def best_of_n_table(events: Sequence[Event]) -> Table:
    rows = [
        [
            suite,
            name,
            *_picks(figures.get("best_of_n")),
            *_picks(figures.get("length_controlled")),
            count(dig(figures, "best_of_n", "n")),
        ]
        for suite, name, figures, _ in _rows(events)
    ]
    own = ["best of N [95%]", *(f"{name} [95%]" for name in _BEST.values()), "mean length"]
    return Table(["suite", "scores of", *own, *(f"LC: {name}" for name in own), "prompts"], rows)


def _picks(found: Any) -> list[str]:
    return [_value(found), *(_value(dig(found, key), sign=True) for key in _BEST), fixed(dig(found, "mean_length"), 1)]


def less_table(events: Sequence[Event]) -> Table:
    """Each policy's figures less those of what needs no judge, paired."""
    rows = [
        [
            suite,
            policy,
            shown,
            *(
                _value(dig(event, KEY, "less", name, key), sign=True)
                for key in (*_STATISTICS, "best_of_n")
                if key != "within"
            ),
        ]
        for suite, by_policy in graded_of(events).items()
        for policy, event in by_policy.items()
        for name, shown in BASELINES.items()
        if as_dict(dig(event, KEY, "less", name))
    ]
    names = [name for key, name in _STATISTICS.items() if key != "within"]
    return Table(["suite", "policy", "less", *(f"{name} [95%]" for name in [*names, "best of N"])], rows)


def calibration_table(events: Sequence[Event]) -> Table:
    """One row for each bin, and one for all of them."""
    rows = []
    for suite, by_policy in graded_of(events).items():
        for policy, event in by_policy.items():
            found = dig(event, KEY, "calibration")
            if not as_dict(found):
                continue
            error, bias = fixed(dig(found, "error"), 3), _value(dig(found, "bias"), sign=True)
            rows.append([suite, policy, "all", "", "", error, bias, count(dig(found, "bias", "n"))])
            for one in as_list(dig(found, "bins")):
                cells = [fixed(dig(one, "score"), 3), _value(one, "gold"), "", "", count(dig(one, "n"))]
                rows.append([suite, policy, "bin", *cells])
    columns = ["suite", "policy", "", "mean score", "mean gold [95%]", "calibration error", "bias [95%]", "responses"]
    return Table(columns, rows)


Line = tuple[str, Callable[[Event], str]]


def graded_lines() -> list[Line]:
    """The terminal's lines: a name, and how its cell is read from the figures of a judge or of what needs none."""

    def at(*keys: str, sign: bool = False) -> Callable[[Event], str]:
        return lambda figures: _value(dig(figures, *keys), sign=sign)

    def length(best: str) -> Callable[[Event], str]:
        return lambda figures: fixed(dig(figures, best, "mean_length"), 1)

    lines: list[Line] = [(name, at(key)) for key, name in _STATISTICS.items()]
    for best, name in (("best_of_n", "best of N"), ("length_controlled", "best of N, LC")):
        lines.append((name, at(best)))
        lines += [(f"  {shown}", at(best, key, sign=True)) for key, shown in _BEST.items()]
        lines.append(("  mean length", length(best)))
    lines.append(("responses", lambda figures: count(figures.get("n"))))
    return lines


def judge_lines() -> list[Line]:
    """Further lines, which only policies have; read from their evaluations."""

    def at(*keys: str, key: str = "value") -> Callable[[Event], str]:
        return lambda event: _value(dig(event, KEY, *keys), key, sign=True)

    lines: list[Line] = [("change of Spearman", at("spearman_paired", key="difference"))]
    lines += [
        (f"{shown} less {other}", at("less", name, key))
        for name, other in BASELINES.items()
        if name != "oracle"
        for key, shown in (("spearman", "Spearman"), ("auroc", "AUROC"), ("area", "area"), ("best_of_n", "best of N"))
    ]
    lines.append(("calibration error", lambda event: fixed(dig(event, KEY, "calibration", "error"), 3)))
    lines.append(("bias", at("calibration", "bias")))
    lines.append(("missing", lambda event: str(total(dig(event, KEY, "missing")) or "")))
    return lines


def graded_notes(by_policy: dict[str, Event]) -> list[str]:
    """What the lines mean, below them; nothing where there are none."""
    if not by_policy:
        return []
    events = list(by_policy.values())
    good = text(dig(events[0], KEY, "good_from"))
    notes = [
        f"The policy's scores against gold; good: gold from {good}. Area: mean gold of the kept over all coverages, "
        "highest scores kept first. Best of N: mean gold of each prompt's response with the highest score; LC: the "
        "scores without what log length predicts. Longest, shortest: that response of each prompt instead. "
        "[95%]: bootstrap over prompts."
    ]
    if any(dig(event, KEY, "reference") is True for event in events):
        notes.append("The judge saw the reference: these are no scores of responses whose answer is not known.")
    return notes
