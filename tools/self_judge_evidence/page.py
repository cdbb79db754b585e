"""docs/evidence/self_judge.md and its plots, from the results alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cream_evidence.tables import plain, shown, table
from evidence_words import first_upper

from .claims import CLAIMS, corrected
from .figures import FIGURES, NAMES, BySeed, Results, mean_of, of_one
from .plot import draw
from .prose import AGAIN, CURVES, DOTS, LABELS, LIMITS, NO_USE, READING, SEEDS_READING, WHAT
from .runs import KINDS, SEEDS
from .words import data, rule, state, summary, whether_it_pays

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results" / "self-judge.json"
_OF_SEEDS = ("pearson", "spearman", "auroc", "area", "best_of_n", "calibration")
_PARTS = {
    "ce_reference": "CE with reference",
    "ce_plain": "CE without",
    "kl": "KL",
    "error/reference": "error with reference",
    "error/plain": "error without",
}
_END = 5  # updates at each end of a training


def load(file: Path = RESULTS) -> dict[str, Any]:
    """The results; one that is not there has no runs."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
    return found


def write_page(docs: Path, found: Mapping[str, Any]) -> Path:
    """Writes self_judge.md and self_judge/*.svg below `docs`; returns the page's path."""
    results = Results(found["runs"])
    (docs / "self_judge").mkdir(parents=True, exist_ok=True)
    for name, svg in draw(results).items():
        (docs / "self_judge" / name).write_text(svg, encoding="utf-8")
    page = docs / "self_judge.md"
    page.write_text(page_text(results, found.get("used", [])), encoding="utf-8")
    return page


def page_text(results: Results, used: list[dict[str, str]]) -> str:
    """The whole page. used: `title` and `text`, in Markdown, of where a judge was used elsewhere."""
    parts = ["# Self-J: can a small model train its own judge?"]
    measured = bool(results.names())
    parts += [summary(results), whether_it_pays(results), state(results)]
    parts += ["## What was measured", WHAT, data(results)]
    if measured:
        parts += ["## The claims", rule(results), _claims(results)]
        parts += ["## All figures", READING, _figures(results), SEEDS_READING, _seeds(results)]
        parts += ["![Rank correlation by judge](self_judge/spearman.svg)", DOTS]
        parts += ["## Selective answering", "![Mean gold by coverage](self_judge/coverage.svg)", CURVES]
        parts += ["## What the judges learnt from", LABELS, _labels(results), _training(results)]
        parts += [f"Code and device of the runs: {', '.join(results.codes())}."]
    parts += ["## Used elsewhere", *([f"**{one['title']}** {one['text']}" for one in used] or [NO_USE])]
    parts += [LIMITS, AGAIN]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(results: Results) -> str:
    header = ["", "claim", "in the paper", "quantity here, times 100", "mean over seeds", "verdict", "p (Holm)"]
    p, rows = corrected(results), []
    for claim in CLAIMS:
        found, value = claim.estimate(results), p.get(claim.number)
        mean = shown(found, "points") + (f", n = {found.n}" if found and found.n < len(SEEDS) else "")
        row = [claim.number, claim.text, claim.paper, claim.quantity, mean, claim.verdict(results)]
        row.append("" if value is None else "below .001" if value < 0.001 else f"{value:.3f}")
        rows.append([*row, "; ".join(_each(claim.by_seed(results), "points"))])
    return table([*header, "each seed [over questions]"], rows)


def _each(values: BySeed, unit: str) -> Iterator[str]:
    return (shown(of_one(values[seed]), unit) for seed in sorted(values))


def _figures(results: Results) -> str:
    rows = []
    for name in results.names():
        cells = [shown(mean_of(results.values(name, figure)), unit) for figure, (_, unit) in FIGURES.items()]
        rows.append([first_upper(NAMES[name]), str(len(results.graded(name))), *cells])
    return table(["scored by", "seeds", *(title for title, _ in FIGURES.values())], rows)


def _seeds(results: Results) -> str:
    rows = []
    for name in results.names():
        values = {figure: results.values(name, figure) for figure in _OF_SEEDS}
        for seed in results.graded(name):
            cells = [
                shown(of_one(found[seed]), FIGURES[figure][1]) if seed in found else ""
                for figure, found in values.items()
            ]
            rows.append([first_upper(NAMES[name]), str(seed), *cells])
    return table(["scored by", "seed", *(FIGURES[figure][0] for figure in _OF_SEEDS)], rows)


def _labels(results: Results) -> str:
    """Signals are a seed's, labels a kind's as well."""
    header = ["labels of", "seed", "answers", "examples", "of label 0, 1, ..., 9", "missing", "cut", "agreement"]
    rows = []
    for kind in KINDS:
        for seed, run in sorted(results.finished(kind).items()):
            found = run["labels"]
            counts = " ".join(str(one) for one in found["labels"])
            agreement = "" if found["agreement"] is None else plain(found["agreement"], "accuracy")
            row = [first_upper(NAMES[kind]), str(seed), str(found["responses"]), str(found["examples"]), counts]
            row += [str(sum(found["missing"].values())), str(found["cut"]), agreement]
            rows.append([*row, _spread(found["self_evaluation"]), _spread(found["similarity"])])
    return table([*header, "z1", "z2"], rows)


def _spread(found: Mapping[str, float] | None) -> str:
    return ", ".join(f"{found[key]:.2f}" for key in ("low", "median", "high")) if found else ""


def _training(results: Results) -> str:
    rows = []
    for kind in (one for one in KINDS if results.finished(one)):
        trained = [run["training"] for run in results.finished(kind).values()]
        updates = {len(next(iter(one["history"].values()))) for one in trained}
        row = [first_upper(NAMES[kind]), str(len(trained)), " or ".join(str(one) for one in sorted(updates))]
        for part in _PARTS:
            histories = [one["history"][part] for one in trained if part in one["history"]]
            ends = [(np.mean(history[:_END]), np.mean(history[-_END:])) for history in histories]
            row.append(" to ".join(f"{one:.2f}" for one in np.mean(ends, axis=0)) if ends else "")
        rows.append([*row, f"{np.mean([one['seconds'] for one in trained]):.0f}"])
    return table(["judge", "seeds", "updates", *_PARTS.values(), "seconds"], rows)
