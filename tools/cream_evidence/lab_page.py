"""The page's section "On the lab model", from the lab's results alone."""

from __future__ import annotations

from typing import Any

from .intervals import VERDICTS
from .lab import LAST, NAMES, SEEDS, STEPS, Lab
from .lab_claims import CLAIMS
from .lab_words import lab_words
from .prose import LAB_ABOUT, LAB_READING
from .tables import seeds_shown, shown, table

POLICIES = ("M2", "M3", "M4")


def lab_section(results: dict[str, Any]) -> str:
    """The whole section; empty where there is no result."""
    labs = {name: Lab(runs) for name, runs in results.items() if runs}
    if not labs:
        return ""
    parts = ["## On the lab model", LAB_ABOUT]
    parts += [
        _summary(labs),
        *lab_words(labs),
        _claims(labs),
        LAB_READING,
        "![Accuracy on the lab model](cream/lab.svg)",
        _methods(labs),
    ]
    return "\n\n".join(parts)


def _summary(labs: dict[str, Lab]) -> str:
    """What the figures say, computed."""
    sentences = []
    for name, lab in labs.items():
        moved = [f"{NAMES[one]} {shown(lab.change(one, LAST), 'points')}" for one in NAMES if one in lab.runs]
        sentences.append(f"**At the {STEPS[name]}**, three rounds change accuracy by, in points: {'; '.join(moved)}.")
        sentences.append(f"Verdicts: {_verdicts(lab)}.")
    return " ".join(sentences)


def lab_summary(results: dict[str, Any]) -> str:
    """One sentence for the top of the page; empty where there is no result."""
    labs = {name: Lab(runs) for name, runs in results.items() if runs}
    found = [f"at the {STEPS[name]}, {_verdicts(lab)}" for name, lab in labs.items()]
    return f"[On the lab model](#on-the-lab-model), with ten seeds: {'; '.join(found)}." if found else ""


def _verdicts(lab: Lab) -> str:
    """The claims' numbers by verdict."""
    by_verdict = {word: [c.number for c in CLAIMS if c.verdict(lab) == word] for word in VERDICTS}
    return ", ".join(f"{word} {', '.join(numbers)}" for word, numbers in by_verdict.items() if numbers)


def _claims(labs: dict[str, Lab]) -> str:
    header = ["", "quantity"]
    for name in labs:
        header += [STEPS[name], "verdict"]
    rows = []
    for claim in CLAIMS:
        row = [claim.number, claim.quantity]
        for lab in labs.values():
            found = claim.verdict(lab)
            row += ["" if found == "not run" else shown(claim.estimate(lab), claim.unit), found]
        rows.append(row)
    return table(header, rows)


def _methods(labs: dict[str, Lab]) -> str:
    header = ["step", "method", "M1, %", *(f"{policy} - M1, points" for policy in POLICIES), f"each seed, {LAST}"]
    header += ["wrong labels by round, %", "as good as each other, %", "tau, M3 with M2", "AUROC of C_j by round"]
    rows = []
    for name, lab in labs.items():
        for method in (one for one in NAMES if lab.seeds(one)):
            changes = [lab.change(method, policy) for policy in POLICIES]
            wrong = [lab.wrong(method, [number]) for number in (1, 2, 3)]
            row = [STEPS[name], _name(lab, method), shown(lab.accuracy(method, "M1"), "accuracy")]
            row += [shown(change, "points") for change in changes]
            row += [seeds_shown(changes[-1], "points"), ", ".join(f"{100 * one.value:.0f}" for one in wrong if one)]
            row += [shown(lab.equal(method), "accuracy"), shown(lab.tau(method), "tau")]
            known = [lab.auroc(method, [number]) for number in (1, 2, 3)]
            rows.append([*row, ", ".join(f"{one.value:.2f}" if one else "-" for one in known) if any(known) else ""])
    return table(header, rows)


def _name(lab: Lab, method: str) -> str:
    """The method, with its number of seeds where some are missing."""
    seeds = lab.seeds(method)
    return NAMES[method] + ("" if lab.whole(method) else f", {len(seeds)} of {len(SEEDS)} seeds")
