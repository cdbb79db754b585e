"""The claims held against the lab model; written before a run of the reported seeds began."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .claims import MIDDLE
from .intervals import Estimate, verdict
from .lab import LAST, Lab


@dataclass(frozen=True)
class Claim:
    """`quantity` is claimed to lie above (or below) `bound`; numbers and units as on the rest of the page."""

    number: str
    quantity: str
    unit: str
    methods: tuple[str, ...]
    estimate: Callable[[Lab], Estimate | None]
    above: bool = True
    bound: float = 0.0

    def verdict(self, lab: Lab) -> str:
        if not all(name in lab.runs for name in self.methods):
            return "not run"
        return verdict(self.estimate(lab) if lab.whole(*self.methods) else None, above=self.above, bound=self.bound)


def _better(number: str, first: str, second: str, quantity: str) -> Claim:
    """M4 under one method minus that under another, above 0."""
    return Claim(number, quantity, "points", (first, second), lambda lab: lab.difference(first, second))


def _tells(number: str, method: str, name: str) -> Claim:
    """C_j tells right labels from wrong ones."""
    said = f"AUROC of C_j for right labels under {name}, above one half"
    return Claim(number, said, "share", (method,), lambda lab: lab.auroc(method), bound=0.5)


CLAIMS = (
    Claim("1a", "SRLM's tau, M3 with M2, below .38", "tau", ("srlm",), lambda lab: lab.tau("srlm"), False, MIDDLE),
    Claim("1b", "CREAM's tau, M3 with M2, above .38", "tau", ("cream",), lambda lab: lab.tau("cream"), True, MIDDLE),
    Claim(
        "1c",
        "CREAM's tau minus SRLM's, above 0",
        "tau",
        ("cream", "srlm"),
        lambda lab: lab.tau_difference("cream", "srlm"),
    ),
    _better("2", "cream", "srlm", "accuracy of CREAM's M4 minus SRLM's, above 0"),
    Claim(
        "3",
        "SRLM's M4 minus its M2, below 0",
        "points",
        ("srlm",),
        lambda lab: lab.change("srlm", LAST, since="M2"),
        above=False,
    ),
    _better("4", "cream", "constant", "CREAM's M4 minus that with c = 0.6, above 0"),
    Claim(
        "5a",
        "SRLM's wrong labels, all rounds, below one half",
        "share",
        ("srlm",),
        lambda lab: lab.wrong("srlm"),
        above=False,
        bound=0.5,
    ),
    _better("5b", "srlm", "random", "SRLM's M4 minus that with random pairs, above 0"),
    Claim(
        "6",
        "M4 minus M1 with the verifier, above 0",
        "points",
        ("verifier",),
        lambda lab: lab.change("verifier", LAST),
    ),
    _better("7a", "cream", "cream-spearman", "M4 with Kendall minus that with Spearman, above 0"),
    _better("7b", "cream", "cream-top-order", "M4 with Kendall minus that with TopOrder, above 0"),
    _tells("8a", "cream", "CREAM"),
    _tells("8b", "srlm", "SRLM"),
    _better("9", "truth", "truth-40", "known truth: M4 minus that with 40% of labels turned round, above 0"),
)
