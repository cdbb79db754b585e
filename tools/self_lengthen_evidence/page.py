"""docs/evidence/self_lengthen.md and its plots, from the results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cream_evidence.intervals import Estimate, share
from cream_evidence.tables import plain, seeds_shown, shown, table
from evidence_words import first_upper, verdict, wrapped

from .collect import SEEDS
from .figures import (
    ANSWERS,
    LONGER,
    REPEAT,
    RUNS_OF_FOUR,
    WORDS,
    Results,
    repeats,
    score,
    unfinished,
    words,
)
from .plot import draw
from .prose import AGAIN, ASKED, FILTERS, GROWTH, LIMITS, RULE, SUITE, TEXTS, WHAT

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results" / "self-lengthen.json"


def load(file: Path = RESULTS) -> dict[str, Any]:
    """The results; a file that is not there has no runs."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": {}}
    return found


def write_page(docs: Path, found: Mapping[str, Any]) -> Path:
    """Writes self_lengthen.md and self_lengthen/*.svg below `docs`; returns the page's path."""
    results = Results(found["runs"])
    (docs / "self_lengthen").mkdir(parents=True, exist_ok=True)
    for name, svg in draw(results).items():
        (docs / "self_lengthen" / name).write_text(svg, encoding="utf-8")
    page = docs / "self_lengthen.md"
    page.write_text(page_text(results), encoding="utf-8")
    return page


def page_text(results: Results) -> str:
    """The whole page."""
    parts = ["# Self-Lengthen: does a small model teach itself to write long?"]
    if results.runs:
        parts += [summary(results)]
    parts += [_state(results), "## What was measured", WHAT]
    if results.runs:
        parts += ["## The claims", RULE, _claims(results)]
        parts += ["## The texts of each round", TEXTS, _texts(results), "![Words by round](self_lengthen/words.svg)"]
        parts += ["## What the filters did", FILTERS, _filters(results)]
        parts += ["## Growth, and growth by repetition alone", GROWTH, _growth(results)]
        parts += ["## The length that is asked for", SUITE, _suite(results), _kinds(results)]
        parts += ["![Words asked for and written](self_lengthen/asked.svg)", ASKED]
        notes = sorted({f"{note.rstrip('.')}." for run in results.runs.values() for note in run["warnings"]})
        parts += [wrapped(" ".join([*notes, f"Code, device and sampler: {', '.join(results.codes())}."]))]
    return "\n\n".join([*parts, LIMITS, AGAIN]) + "\n"


def claims(results: Results) -> list[tuple[str, str, str, Estimate | None]]:
    """(number, what is claimed to be above 0, unit, the difference)."""
    last = results.rounds[-1]
    return [
        ("1", f"the Generator's answers are longer in round {last} than the untrained model's", "more words",
         results.more_words(ANSWERS)),
        ("2", f"longer texts are longer in round {last} than in round 1", "more words", results.more_words(LONGER)),
        ("3", f"on the suite generator {last} writes more words than the untrained model", "more words",
         results.less(f"generator {last}", "untrained", words)),
        ("4", "the final model meets the length asked for better than the untrained model", "points",
         results.less("final", "untrained", score)),
        ("5", "the final model's words follow the words asked for more closely (Spearman)", "points",
         results.follows_more("final", "untrained")),
        ("6", "the final model leaves fewer texts unfinished", "points",
         _minus(results.less("final", "untrained", unfinished))),
    ]  # fmt: skip


def summary(results: Results) -> str:
    """What became of the lengths, and the verdicts."""
    ends = results.rounds[0], results.rounds[-1]
    answers, longer = (
        " and ".join(shown(results.mean_words(number, kind), "words") for number in ends) for kind in (ANSWERS, LONGER)
    )
    said = [
        f"In rounds {ends[0]} and {ends[1]} answers have {answers} words in the mean, and the longer texts made of "
        f"them {longer}.",
        f"Asked for a length, the untrained model's score is {shown(results.mean('untrained', score), 'accuracy')} of "
        f"100 and the final model's {shown(results.mean('final', score), 'accuracy')}; they write "
        f"{shown(results.mean('untrained', words), 'words')} and {shown(results.mean('final', words), 'words')} words.",
    ]
    by_verdict: dict[str, list[str]] = {}
    for number, text, _, found in claims(results):
        by_verdict.setdefault(_verdict(results, found), []).append(f"{text} ({number})")
    said += [f"**{first_upper(one)}**: {'; '.join(texts)}." for one, texts in by_verdict.items()]
    bad, every = np.sum([results.only_repetition(number) for number in results.rounds], axis=0)
    said.append(f"Of {every} longer texts {bad} grew by repetition alone.")
    return wrapped(" ".join(said))


def _verdict(results: Results, found: Estimate | None) -> str:
    return verdict(found) if results.whole else "not finished"


def _state(results: Results) -> str:
    if results.whole:
        return f"All {len(SEEDS)} seeds are finished."
    return f"Seeds finished, of {len(SEEDS)}: {', '.join(map(str, sorted(results.runs))) or 'none'}."


def _claims(results: Results) -> str:
    rows = [
        [number, text, shown(found, unit), _verdict(results, found), seeds_shown(found, unit)]
        for number, text, unit, found in claims(results)
    ]
    return table(["", "claim", "difference", "verdict", "each seed"], rows)


def _texts(results: Results) -> str:
    rows = []
    for number in results.rounds:
        for kind in (ANSWERS, LONGER):
            every = np.concatenate([*results.texts(number, kind).values()])
            mean = results.mean_words(number, kind)
            quantiles = np.quantile(every[:, WORDS], (0.1, 0.25, 0.5, 0.75, 0.9))
            cells = [*(f"{one:.0f}" for one in quantiles), seeds_shown(mean, "words")]
            rows.append([str(number), kind, str(len(every)), shown(mean, "words"), *cells])
    return table(["round", "texts", "n", "mean", "10%", "25%", "median", "75%", "90%", "each seed's mean"], rows)


def _filters(results: Results) -> str:
    rows = []
    for number in results.rounds:
        for what in ("instructions", "initial", "extended"):
            wanted, kept, rejected = results.filter(number, what)
            if wanted:
                reasons = ", ".join(f"{why}: {count}" for why, count in rejected.most_common())
                passed = shown(share([kept], [wanted]), "accuracy")
                rows.append([str(number), what, str(wanted), str(kept), passed, reasons or "none"])
    return table(["round", "filter", "wanted", "kept", "kept, %", "rejected, over all tries"], rows)


def _growth(results: Results) -> str:
    rows = []
    for number in results.rounds:
        bad, every = results.only_repetition(number)
        repeat = np.concatenate([one[:, REPEAT] for one in results.texts(number, LONGER).values()])
        growth = [shown(results.growth(number, unit), "length") for unit in (WORDS, RUNS_OF_FOUR)]
        cells = [f"{bad} of {every}", shown(share([bad], [every]), "accuracy"), f"{repeat.mean():.1f}"]
        rows.append([str(number), *growth, *cells, f"{repeat.max():.0f}"])
    header = ["round", "words, times the answer's", "different runs of four, times", "by repetition alone", "%"]
    return table([*header, "longest repeated run, words", "at most"], rows)


def _suite(results: Results) -> str:
    rows = []
    for role in results.roles:
        cells = [shown(results.mean(role, score), "accuracy")]
        cells += ["" if role == "untrained" else shown(results.less(role, "untrained", score), "points")]
        cells += [shown(results.mean(role, words), "words"), shown(results.mean(role, unfinished), "accuracy")]
        follows = results.follows(role)
        cells += [
            "" if follows is None else plain(follows.value, "share"),
            shown(results.mean(role, repeats), "accuracy"),
        ]
        rows.append([role, *cells, seeds_shown(results.mean(role, score), "accuracy")])
    header = ["model", "length score", "less the untrained model's", "words", "unfinished, %", "Spearman with asked"]
    return table([*header, "repeats ten words, %", "each seed's score"], rows)


def _kinds(results: Results) -> str:
    rows = [
        [role, *(shown(results.mean(role, score, kind), "accuracy") for kind in results.kinds)]
        for role in results.roles
    ]
    return table(["length score of", *results.kinds], rows)


def _minus(found: Estimate) -> Estimate:
    return Estimate(-found.value, -found.high, -found.low, found.n, tuple(-one for one in found.by_seed))
