"""docs/evidence/score.md and its plot, from the two files of results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cream_evidence.intervals import Estimate
from cream_evidence.tables import seeds_shown, shown, table
from evidence_words import first_upper, wrapped

from .claims import CLAIMS, OWN, corrected, direction, quantity
from .lab import BASE, FIGURES, GREEDY, NAMES, SEEDS, SUITES, Lab, Term
from .plot import draw
from .prose import AGAIN, DIFFERENCES, LIMITS, OWN_READING, PLOT, READING, REDUCTIONS, TRAINING, WHAT
from .smollm2 import section
from .words import COMPARED, base_band, rule, seventh, state, summary, whether_it_pays

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
LAB_FILE, SMOLLM2_FILE, REDUCTIONS_FILE = "lab-score.json", "smollm2-score.json", "lab-score-reductions.json"
_SHOWN = ("t1", "t2", "delta", "i_to_c", "c_to_i", "copy")


def load(folder: Path = RESULTS) -> dict[str, Any]:
    """The files of results by name; one that is not there has no runs."""
    files = {name: folder / name for name in (LAB_FILE, SMOLLM2_FILE, REDUCTIONS_FILE)}
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
    others = Lab(results.get(REDUCTIONS_FILE, {"runs": {}})["runs"])
    page.write_text(page_text(lab, results[SMOLLM2_FILE], others), encoding="utf-8")
    return page


def page_text(lab: Lab, smollm2: Mapping[str, Any], others: Lab | None = None) -> str:
    """The whole page. `others`: the runs of `REDUCTIONS_FILE`, whose bases are of another machine."""
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
        parts += [made_by(lab)]
        parts += reductions(others) if others and others.methods() else []
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


def made_by(lab: Lab) -> str:
    """Which commit made which seeds."""
    parts = []
    for code, methods in lab.codes().items():
        same = {tuple(seeds) for seeds in methods.values()}
        if len(same) == 1:
            parts.append(f"{code}: seeds {_seeds(next(iter(same)))} of {', '.join(NAMES[one] for one in methods)}")
        else:
            parts.append(f"{code}: " + ", ".join(f"{NAMES[one]} {_seeds(seeds)}" for one, seeds in methods.items()))
    return wrapped("Code of the runs. " + "; ".join(parts) + ".")


def _seeds(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def reductions(lab: Lab) -> list[str]:
    """What it changes how reward and KL are reduced."""
    rows = []
    for suite, title in SUITES.items():
        for method in lab.methods():
            found = [lab.estimate(suite, Term(method, one)) for one in (*COMPARED, "copy", "kl_1")]
            units = [FIGURES[one][1] for one in (*COMPARED, "copy", "kl_1")]
            cells = [shown(one, unit) for one, unit in zip(found, units, strict=True)]
            rows.append([title, first_upper(_REDUCED.get(method, NAMES[method])), _n(*found), *cells])
    header = ["answers", "reward, KL", "seeds", *(FIGURES[one][0] for one in (*COMPARED, "copy", "kl_1"))]
    compared = []
    for suite, title in SUITES.items():
        for method in ("mean-mean", "kl-sum"):
            found = [lab.estimate(suite, Term(method, one), Term("score", one)) for one in (*COMPARED, "copy", "kl_1")]
            units = [*("points",) * 4, "h"]
            cells = [shown(one, unit) for one, unit in zip(found, units, strict=True)]
            compared.append([title, first_upper(_REDUCED[method]), _n(*found), *cells])
    header_2 = ["answers", "minus summed, averaged", "seeds", *(FIGURES[one][0] for one in (*COMPARED, "copy", "kl_1"))]
    return [
        "## How reward and KL are reduced",
        REDUCTIONS,
        table(header, rows),
        table(header_2, compared),
        made_by(lab),
    ]


_REDUCED = {"score": "summed, averaged", "mean-mean": "averaged, averaged (the default)", "kl-sum": "summed, summed"}


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
