"""The orderings of the literature, each as one quantity with an interval, and the verdicts that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cream_evidence.intervals import Estimate
from evidence_words import FEWEST, TOLD, verdict
from scipy import stats

from .lab import BASE, FIGURES, NAMES, Lab, Term


@dataclass(frozen=True)
class Claim:
    """`plus` minus `minus` is claimed to lie above (or below) 0. `paper`: the same quantity there; `bound`: the claimed
    side, where it has other words."""

    number: str
    text: str
    paper: str
    plus: Term
    minus: Term | None = None
    above: bool = True
    bound: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.plus.method, self.minus.method) if self.minus else (self.plus.method,)

    @property
    def quantity(self) -> str:
        return f"{quantity(self.plus, self.minus)}, {self.bound or ('above 0' if self.above else 'below 0')}"

    def estimate(self, lab: Lab, suite: str) -> Estimate | None:
        return lab.estimate(suite, self.plus, self.minus)

    def verdict(self, lab: Lab, suite: str) -> str:
        """From the 95% interval alone, once every seed of its methods is finished or stopped."""
        found = self.estimate(lab, suite)
        return undecided(lab, found, *self.methods) or verdict(found, above=self.above)


def quantity(plus: Term, minus: Term | None) -> str:
    """`Delta of SCoRe minus that of STaR`."""
    first = f"{FIGURES[plus.figure][0]} of {NAMES[plus.method]}"
    if minus is None:
        return first
    what = "that" if minus.figure == plus.figure else FIGURES[minus.figure][0]
    return f"{first} minus {what} of {NAMES[minus.method]}"


def undecided(lab: Lab, found: Estimate | None, *methods: str) -> str:
    """Why there is no verdict yet; empty where there is one."""
    if not lab.ran(*methods):
        return "not run"
    if not lab.decided(*methods):
        return "not finished"
    return "too few seeds" if found is None or found.n < FEWEST else ""


def direction(lab: Lab, found: Estimate | None, *methods: str) -> str:
    """Of a difference of which nothing was claimed: higher, lower, or neither."""
    told = {"holds": "higher", "contradicted": "lower"}
    return undecided(lab, found, *methods) or told.get(said := verdict(found), said)


def p_value(estimate: Estimate) -> float:
    """Two-sided, of Student's t test that the mean over seeds is 0: below .05 where the 95% interval leaves 0 out."""
    values = np.asarray(estimate.by_seed)
    if np.ptp(values) == 0:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values that allow for their number: below .05, the chance of a single false one among all is below 5%.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979), 65-70.
    """
    found, highest = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda one: one[1])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p))
        found[name] = highest
    return found


def corrected(lab: Lab, suite: str) -> dict[str, float]:
    """Holm's p-value by the claim's number, over the claims with a verdict in this suite."""
    told = [one for one in CLAIMS if one.verdict(lab, suite) in TOLD]
    estimates = {one.number: one.estimate(lab, suite) for one in told}
    return holm({number: p_value(found) for number, found in estimates.items() if found})


def _score_beats(number: str, other: str, figure: str, text: str, paper: str) -> Claim:
    return Claim(number, text, paper, Term("score", figure), Term(other, figure))


CLAIMS = (
    Claim("1a", "SCoRe's second attempt is better than its first", "+4.4", Term("score", "delta")),
    _score_beats("1b", BASE, "delta", "SCoRe corrects itself better than the base", "+15.6"),
    _score_beats("2a", BASE, "t2", "SCoRe's second attempt is better than the base's", "+23.0"),
    _score_beats("2b", "star", "t2", "SCoRe's second attempt is better than STaR's", "+10.4"),
    _score_beats("2c", "pair-sft", "t2", "SCoRe's second attempt is better than Pair-SFT's", "+10.2"),
    _score_beats("3a", "stage-two-only", "delta", "without Stage I, Delta is lower", "+2.2"),
    _score_beats("3b", "stage-two-only", "t2", "without Stage I, the second attempt is worse", "+3.0"),
    _score_beats("4", "alpha-0", "delta", "without shaping (alpha 0), Delta is lower", "+1.8"),
    Claim("5a", "single-turn RL raises the first attempt", "+9.2", Term("single-turn-rl", "t1"), Term(BASE, "t1")),
    Claim("5b", "single-turn RL has a negative Delta", "-2.4", Term("single-turn-rl", "delta"), above=False),
    Claim(
        "6a",
        "plain multi-turn RL learns to copy",
        "46.9% copies in one report",
        Term("multi-turn-rl", "copy"),
        Term(BASE, "copy"),
    ),
    Claim(
        "6b",
        "SCoRe copies less than plain multi-turn RL",
        "not given",
        Term("score", "copy"),
        Term("multi-turn-rl", "copy"),
        above=False,
    ),
    Claim(
        "7",
        "PAG: on small models SCoRe is not better than plain multi-turn RL",
        "-0.1, -0.2, +0.3 (PAG's three models)",
        Term("score", "t2"),
        Term("multi-turn-rl", "t2"),
        above=False,
        bound="not above 0",
    ),
)
# Of which no direction was claimed beforehand.
OWN = (
    (Term("base-first-attempts", "t1"), Term("score", "t1")),
    (Term("base-first-attempts", "t2"), Term("score", "t2")),
    (Term("base-first-attempts", "delta"), Term("score", "delta")),
    (Term("kl-sum", "kl_1"), Term("score", "kl_1")),
    (Term("kl-sum", "t1"), Term("score", "t1")),
    (Term("kl-sum", "t2"), Term("score", "t2")),
    (Term("kl-sum", "delta"), Term("score", "delta")),
    (Term("star-corrections", "t2"), Term("star", "t2")),
    (Term("star-corrections", "delta"), Term("star", "delta")),
)
