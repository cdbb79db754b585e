"""docs/evidence/score.md and its plot, from the two files of results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cream_evidence.intervals import Estimate
from cream_evidence.tables import seeds_shown, shown, table
from evidence_words import first_upper

from .claims import CLAIMS, OWN, corrected, direction, quantity
from .lab import BASE, FIGURES, GREEDY, NAMES, SEEDS, SUITES, Lab, Term
from .plot import draw
from .prose import AGAIN, DIFFERENCES, LIMITS, OWN_READING, PLOT, READING, TRAINING, WHAT
from .smollm2 import section
from .words import COMPARED, base_band, rule, seventh, state, summary, whether_it_pays

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
LAB_FILE, SMOLLM2_FILE = "lab-score.json", "smollm2-score.json"
_SHOWN = ("t1", "t2", "delta", "i_to_c", "c_to_i", "copy")


def load(folder: Path = RESULTS) -> dict[str, Any]:
    """Both files of results by name; one that is not there has no runs."""
    files = {name: folder / name for name in (LAB_FILE, SMOLLM2_FILE)}
    return {
        name: json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
        for name, file in files.items()
    }


def write_page(docs: Path, results: Mapping[str, Any]) -> Path:
    """Writes score.md and score/*.svg below `docs`; returns the page's path."""
    lab = Lab(results[LAB_FILE]["runs"])
    (docs / "score").mkdir(parents=True, exist_ok=True)
    for name, svg in draw(lab).items():
        (docs / "score" / name).write_text(svg, encoding="utf-8")
    page = docs / "score.md"
    page.write_text(page_text(lab, results[SMOLLM2_FILE]), encoding="utf-8")
    return page


def page_text(lab: Lab, smollm2: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = ["# SCoRe and its controls: which of the paper's orderings hold on a small model"]
    if lab.methods():
        parts += [*(summary(lab, suite) for suite in SUITES), whether_it_pays(lab), state(lab)]
    parts += ["## What was measured", WHAT]
    if lab.methods():
        parts += ["## The orderings", rule(lab), _claims(lab), seventh(lab), OWN_READING, _own(lab)]
        parts += ["## First and second attempts", READING]
        for suite, title in SUITES.items():
            parts += [f"**{first_upper(title)}**", _methods(lab, suite)]
        parts += ["![First against second attempts](score/lab.svg)", PLOT]
        parts += ["## Differences", DIFFERENCES, _to_base(lab), "SCoRe minus each control:", _to_controls(lab)]
        parts += ["## How far training went", TRAINING, _training(lab)]
        parts += [f"Code of the runs: {', '.join(lab.codes())}."]
    if said := section(smollm2):
        parts.append(said)
    parts += [LIMITS + base_band(lab), AGAIN]
    return "\n\n".join(parts) + "\n"


def _claims(lab: Lab) -> str:
    header = ["", "claim", "in the paper, points", "quantity here, points"]
    for title in SUITES.values():
        header += [title, "verdict", "p (Holm)"]
    p = {suite: corrected(lab, suite) for suite in SUITES}
    rows = []
    for claim in CLAIMS:
        row = [claim.number, claim.text, claim.paper, claim.quantity]
        for suite in SUITES:
            value = p[suite].get(claim.number)
            row += [_with_n(claim.estimate(lab, suite), "points"), claim.verdict(lab, suite)]
            row += ["" if value is None else "below .001" if value < 0.001 else f"{value:.3f}"]
        rows.append(row)
    return table(header, rows)


def _own(lab: Lab) -> str:
    header = ["quantity"]
    for title in SUITES.values():
        header += [title, ""]
    rows = []
    for plus, minus in OWN:
        in_training = plus.figure.startswith("kl")
        row = [quantity(plus, minus) + (", nats per token, in training" if in_training else ", points")]
        for suite in (GREEDY,) if in_training else tuple(SUITES):
            found = lab.estimate(suite, plus, minus)
            cell = _with_n(found, "h" if in_training else "points")
            row += [cell, direction(lab, found, plus.method, minus.method)]
        rows.append(row + [""] * (len(header) - len(row)))
    return table(header, rows)


def _with_n(found: Estimate | None, unit: str) -> str:
    """With the number of seeds where some are missing."""
    return shown(found, unit) + (f", n = {found.n}" if found and found.n < len(SEEDS) else "")


def _methods(lab: Lab, suite: str) -> str:
    header = ["method", "seeds", *(f"{FIGURES[one][0]}, {'points' if one == 'delta' else '%'}" for one in _SHOWN)]
    rows = []
    for method in lab.methods():
        found = {one: lab.estimate(suite, Term(method, one)) for one in _SHOWN}
        cells = [shown(one, FIGURES[name][1]) for name, one in found.items()]
        rows.append([first_upper(NAMES[method]), _n(*found.values()), *cells, seeds_shown(found["delta"], "points")])
    return table([*header, "each seed's Delta"], rows)


def _n(*found: Estimate | None) -> str:
    return str(max((one.n for one in found if one), default=0))


def _to_base(lab: Lab) -> str:
    header = ["answers", "method minus the base", "seeds", *(FIGURES[one][0] for one in COMPARED)]
    rows = []
    for suite, title in SUITES.items():
        for method in (one for one in lab.methods() if one != BASE):
            pairs = [*((one, one) for one in COMPARED), ("t2", "t1")]
            found = [lab.estimate(suite, Term(method, one), Term(BASE, other)) for one, other in pairs]
            rows.append([title, first_upper(NAMES[method]), _n(*found), *(shown(one, "points") for one in found)])
    return table([*header, "Acc@t2 minus the base's Acc@t1"], rows)


def _to_controls(lab: Lab) -> str:
    rows = []
    for suite, title in SUITES.items():
        for method in (one for one in lab.methods() if one not in ("score", BASE)):
            found = [lab.estimate(suite, Term("score", one), Term(method, one)) for one in COMPARED]
            rows.append([title, first_upper(NAMES[method]), _n(*found), *(shown(one, "points") for one in found)])
    return table(["answers", "SCoRe minus", "seeds", *(FIGURES[one][0] for one in COMPARED)], rows)


def _training(lab: Lab) -> str:
    rows = []
    for method in lab.methods():
        found = [lab.estimate(GREEDY, Term(method, one)) for one in ("kl_1", "kl_2")]
        if any(found):
            rows.append([first_upper(NAMES[method]), _n(*found), *(shown(one, "h") for one in found)])
    return table(["method", "seeds", "KL of turn 1", "KL of turn 2"], rows)
