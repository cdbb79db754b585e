"""The paper's claims, each as one quantity with an interval, and the verdicts that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .figures import LAST, Results
from .intervals import Estimate, verdict

# The paper's tau between M3 and M2 (Llama-3): -.08 under SRLM, .84 under CREAM. "Agree" and "disagree" are read as
# lying on either side of the middle.
PAPER_TAU = {"srlm": -0.08, "cream": 0.84}
MIDDLE = 0.38


@dataclass(frozen=True)
class Claim:
    """`quantity` is claimed to lie above (or below) `bound`. unit: "points" (shown times 100), "tau" or "share"."""

    number: str
    text: str
    paper: str
    quantity: str
    unit: str
    arms: tuple[str, ...]
    estimate: Callable[[Results, str], Estimate | None]
    above: bool = True
    bound: float = 0.0
    settings: tuple[str, ...] = ("paper-beta", "shipped")

    def verdict(self, results: Results, setting: str) -> str:
        """From the interval; "not finished" until every seed of the arms it needs is there."""
        estimate = self.estimate(results, setting) if results.whole(setting, *self.arms) else None
        return verdict(estimate, above=self.above, bound=self.bound)


CLAIMS = (
    Claim(
        "1a",
        "SRLM's successive models rank differently",
        "tau -.08",
        "SRLM's tau, last two models compared, below .38",
        "tau",
        ("srlm",),
        lambda r, s: r.tau(s, "srlm", r.compared(s, "cream", "srlm")),
        above=False,
        bound=MIDDLE,
    ),
    Claim(
        "1b",
        "CREAM's successive models rank alike",
        "tau .84",
        "CREAM's tau, last two models compared, above .38",
        "tau",
        ("cream",),
        lambda r, s: r.tau(s, "cream", r.compared(s, "cream", "srlm")),
        bound=MIDDLE,
    ),
    Claim(
        "1c",
        "CREAM's models agree more than SRLM's",
        "+.92",
        "CREAM's tau minus SRLM's, above 0",
        "tau",
        ("cream", "srlm"),
        lambda r, s: r.tau_difference(s, "cream", "srlm", r.compared(s, "cream", "srlm")),
    ),
    Claim(
        "2",
        "CREAM ends above SRLM",
        "+2.7 points (mean of five tasks)",
        f"accuracy of CREAM's {LAST} minus SRLM's, above 0",
        "points",
        ("cream", "srlm"),
        lambda r, s: r.difference(s, "cream", "srlm", LAST),
    ),
    Claim(
        "3",
        "Self-rewarding without consistency gets worse in later rounds",
        "Llama-2: mean 49.3 (M0) to 40.1 (M3)",
        f"SRLM's {LAST} minus its M2, below 0",
        "points",
        ("srlm",),
        lambda r, s: r.change(s, "srlm", LAST, since="M2"),
        above=False,
    ),
    Claim(
        "4",
        "Measured C beats a constant c",
        "better than a tuned constant",
        f"CREAM's {LAST} minus that with c = 0.85, above 0",
        "points",
        ("cream", "constant"),
        lambda r, s: r.difference(s, "cream", "constant", LAST),
        settings=("paper-beta",),
    ),
    Claim(
        "5a",
        "Implicit reward labels beat random ones (labels)",
        "implied",
        "SRLM's right labels, all rounds, above one half",
        "share",
        ("srlm",),
        lambda r, s: r.labels(s, "srlm", [1, 2]),
        bound=0.5,
    ),
    Claim(
        "5b",
        "Implicit reward labels beat random ones (accuracy)",
        "implied",
        f"SRLM's {LAST} minus that with random pairs, above 0",
        "points",
        ("srlm", "random"),
        lambda r, s: r.difference(s, "srlm", "random", LAST),
        settings=("paper-beta",),
    ),
    Claim(
        "6",
        "An outside verifier gains",
        "+1.9 points (external reward model, M3 minus M1)",
        f"{LAST} minus M1 with the verifier, above 0",
        "points",
        ("verifier",),
        lambda r, s: r.change(s, "verifier", LAST),
        settings=("paper-beta",),
    ),
)
