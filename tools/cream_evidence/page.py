"""docs/evidence/cream.md and its plots, from results.json alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .claims import CLAIMS, Claim
from .figures import COMPARISONS, LAST, Results
from .intervals import VERDICTS, Estimate
from .lab_page import lab_section, lab_summary
from .lab_plot import draw_lab
from .matrix import SETTINGS
from .plots import SHORT, TITLES, draw_all
from .prose import LABELS, LIMITS, METHOD, READING, RULE
from .tables import plain, seeds_shown, shown, table

NAMES = {
    "cream": "CREAM (measured C)",
    "srlm": "SRLM (c = 1)",
    "constant": "constant c = 0.85",
    "random": "random pairs (c = 1)",
    "verifier": "outside verifier (c = 1)",
}
_DIFFERENCES = (
    ("cream", "srlm"),
    ("cream", "constant"),
    ("srlm", "random"),
    ("cream", "random"),
    ("verifier", "srlm"),
)


def write_page(docs: Path, values: dict[str, Any], lab: dict[str, Any] | None = None) -> Path:
    """Writes cream.md and cream/*.svg below `docs`; returns the page's path. `lab`: the lab's results, by file."""
    results = Results(values)
    (docs / "cream").mkdir(parents=True, exist_ok=True)
    for name, svg in (draw_all(results) | (draw_lab(lab) if lab else {})).items():
        (docs / "cream" / name).write_text(svg, encoding="utf-8")
    page = docs / "cream.md"
    page.write_text(page_text(results, lab), encoding="utf-8")
    return page


def page_text(results: Results, lab: dict[str, Any] | None = None) -> str:
    """The whole page."""
    parts = ["# CREAM on SmolLM2-135M: what reproduces at small scale", _summary(results)]
    if lab and (sentence := lab_summary(lab)):
        parts.append(sentence)
    if results.missing:
        parts.append(_missing(results))
    parts += ["## The paper's claims", RULE, _claims(results)]
    parts += ["## Accuracy", READING, "![Change of accuracy to M1](cream/accuracy.svg)"]
    parts += [_accuracy(results), "Between methods, in points:", _differences(results)]
    parts += ["## How far successive models agree", "![Ranking agreement](cream/agreement.svg)", _agreement(results)]
    parts += ["## Labels", LABELS, "![Right labels](cream/labels.svg)"]
    parts += [METHOD.format(runs=len(results.runs), code=", ".join(_codes(results))), LIMITS]
    parts += ["## Labels, lengths and movement by round", _rounds(results)]
    if lab and (section := lab_section(lab)):
        parts.append(section)
    return "\n\n".join(parts) + "\n"


def _missing(results: Results) -> str:
    reasons: dict[str, list[str]] = {}
    for name, why in sorted(results.missing.items()):
        reasons.setdefault(why, []).append(name)
    return "Runs not in this page. " + ". ".join(f"{why}: {', '.join(names)}" for why, names in reasons.items()) + "."


def _codes(results: Results) -> list[str]:
    return sorted({f"{str(run['git'])[:7]} ({run['device']})" for run in results.runs})


def _summary(results: Results) -> str:
    """One paragraph, computed."""
    sentences = []
    for setting in results.settings():
        moved = [f"{SHORT[arm]} {shown(results.change(setting, arm, LAST), 'points')}" for arm in results.arms(setting)]
        sentences.append(f"**At {TITLES[setting]}**, two rounds change accuracy by, in points: {'; '.join(moved)}.")
        if results.whole(setting, "cream", "srlm"):
            between = shown(results.difference(setting, "cream", "srlm", LAST), "points")
            last = results.compared(setting, "cream", "srlm")
            taus = [f"{shown(results.tau(setting, arm, last), 'tau')} under {SHORT[arm]}" for arm in ("srlm", "cream")]
            sentences.append(
                f"CREAM's minus SRLM's: {between}. M{last} and M{last - 1} agree with tau {' and '.join(taus)}."
            )
        numbers = {
            name: [c.number for c in _claims_of(setting) if c.verdict(results, setting) == name] for name in VERDICTS
        }
        found = [f"{name}: {', '.join(claims)}" for name, claims in numbers.items() if claims]
        sentences.append(f"Verdicts on the claims below: {'; '.join(found)}.")
    if results.runs:
        sentences.append(f"M0 has {shown(results.base_accuracy(), 'accuracy')} % right.")
    return " ".join(
        [*sentences, "All on 198 items never used for a choice, with 95% intervals; three seeds, which is few."]
    )


def _claims_of(setting: str) -> list[Claim]:
    return [claim for claim in CLAIMS if setting in claim.settings]


def _claims(results: Results) -> str:
    header = ["", "claim", "in the paper", "quantity here"]
    for setting in SETTINGS:
        header += [TITLES[setting], "verdict"]
    rows = []
    for claim in CLAIMS:
        row = [claim.number, claim.text, claim.paper, claim.quantity]
        for setting in SETTINGS:
            if setting in claim.settings:
                row += [shown(claim.estimate(results, setting), claim.unit), claim.verdict(results, setting)]
            else:
                row += ["", "not run"]
        rows.append(row)
    return table(header, rows)


def _accuracy(results: Results) -> str:
    header = ["setting", "method", "M1, %", "M2 - M1, points", "M3 - M1, points", "each seed, M3", "n"]
    rows = []
    for setting, arm in _finished(results):
        changes = [results.change(setting, arm, policy) for policy in ("M2", "M3")]
        row = [
            TITLES[setting],
            _name(results, setting, arm),
            shown(results.accuracy(setting, arm, "M1"), "accuracy"),
        ]
        row += [shown(change, "points") for change in changes]
        rows.append([*row, seeds_shown(changes[-1], "points"), _n(changes[-1])])
    return table(header, rows)


def _differences(results: Results) -> str:
    rows = []
    for setting in SETTINGS:
        for first, second in _DIFFERENCES:
            found = [results.difference(setting, first, second, policy) for policy in ("M2", "M3")]
            if found[0]:
                name = f"{SHORT[first]} minus {SHORT[second]}"
                cells = [shown(one, "points") for one in found]
                rows.append([TITLES[setting], name, *cells, seeds_shown(found[-1], "points"), _n(found[-1])])
    return table(["setting", "difference", "M2", "M3", "each seed, M3", "n"], rows)


def _agreement(results: Results) -> str:
    header = ["setting", "method", "models", "tau, ties left out", "each seed", "tau-a", "C", "tied pairs, %", "n"]
    rows = []
    for setting, arm in _finished(results):
        for number in COMPARISONS:
            tau, tau_a = results.tau(setting, arm, number), results.tau(setting, arm, number, ties=True)
            if tau and tau_a:
                row = [TITLES[setting], _name(results, setting, arm), results.models(setting, arm, number)]
                row += [shown(tau, "tau"), seeds_shown(tau, "tau"), shown(tau_a, "tau")]
                row += [plain((tau_a.value + 1) / 2, "tau"), shown(results.ties(setting, arm, number), "accuracy")]
                rows.append([*row, _n(tau)])
    return table(header, rows)


def _rounds(results: Results) -> str:
    header = ["setting", "method", "round", "right labels, %", "telling pairs", "mean length, tokens"]
    header += ["length-reward correlation", "mean abs. h"]
    rows = []
    for setting, arm in _finished(results):
        for number in results.rounds(setting, arm):
            labels = results.labels(setting, arm, [number])
            row = [TITLES[setting], _name(results, setting, arm), str(number), shown(labels, "accuracy"), _n(labels)]
            for key, unit in (("mean_length", "length"), ("reward_length_correlation", "tau"), ("mean_abs_h", "h")):
                row.append(shown(results.per_seed(setting, arm, number, key), unit))
            rows.append(row)
    return table(header, rows)


def _name(results: Results, setting: str, arm: str) -> str:
    """The method, with its seeds where some are missing."""
    seeds = results.seeds(setting, arm)
    word = "seed" if len(seeds) == 1 else "seeds"
    return NAMES[arm] + ("" if results.whole(setting, arm) else f", only {word} {', '.join(map(str, seeds))}")


def _finished(results: Results) -> Iterable[tuple[str, str]]:
    return [(setting, arm) for setting in SETTINGS for arm in results.arms(setting)]


def _n(estimate: Estimate | None) -> str:
    return str(estimate.n) if estimate else ""
