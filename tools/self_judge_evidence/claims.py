"""The paper's orderings and our own questions, each as one difference, and the verdicts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from cream_evidence.intervals import Estimate
from evidence_words import FEWEST, TOLD, verdict
from score_evidence.claims import holm, p_value

from .figures import FIGURES, MAIN, NAMES, BySeed, Results, mean_of
from .runs import KINDS


@dataclass(frozen=True)
class Claim:
    """Self-J's `figure` is claimed to be above that of `than`. `paper`: the difference there."""

    number: str
    text: str
    paper: str
    figure: str
    than: str

    @property
    def quantity(self) -> str:
        return f"{FIGURES[self.figure][0]} of Self-J minus that of {NAMES[self.than]}"

    def by_seed(self, results: Results) -> BySeed:
        return results.less(self.figure, self.than)

    def estimate(self, results: Results) -> Estimate | None:
        return mean_of(self.by_seed(results))

    def verdict(self, results: Results) -> str:
        """From the 95% interval over seeds alone, once every seed of its kinds is finished or stopped."""
        kinds = [MAIN, *([self.than] if self.than in KINDS else [])]
        if not all(results.finished(kind) or results.stopped.get(kind) for kind in kinds):
            return "not run"
        if not results.whole(*kinds):
            return "not finished"
        found = self.estimate(results)
        if found is None or found.n < FEWEST:
            return "too few seeds"
        return verdict(found)

    def in_every_seed(self, results: Results) -> bool:
        """Whether each seed's own interval over prompts lies above 0."""
        lows = [low for _, low, _ in self.by_seed(results).values()]
        return bool(lows) and all(low > 0 for low in lows)  # not where one is unknown


def corrected(results: Results) -> dict[str, float]:
    """Holm's p-value by the claim's number, over the claims that have a verdict."""
    told = {one.number: one.estimate(results) for one in CLAIMS if one.verdict(results) in TOLD}
    return holm({number: p_value(found) for number, found in told.items() if found})


_NONE = "not given"
CLAIMS = (
    Claim("1a", "Self-J ranks better than untrained self-evaluation", "+47.2, +44.0", "spearman", "untrained"),
    Claim("1b", "Self-J ranks better than likelihood", "+47.0, +54.9", "spearman", "likelihood"),
    Claim("2", "Self-J ranks better than a judge of cosine labels only", "+11.3, +13.3", "spearman", "cosine-only"),
    Claim(
        "3",
        "Self-J ranks better than a judge of self-evaluation labels only",
        "+13.4, +10.2",
        "spearman",
        "self-evaluation-only",
    ),
    Claim("4", "Self-J ranks better than without self-distillation", "+4.1, +6.0", "spearman", "no-distillation"),
    Claim("5a", "selective answering by Self-J gains over random", _NONE, "area", "random"),
    Claim("5b", "selective answering by Self-J gains over keeping the longest", _NONE, "area", "length"),
    Claim("5c", "selective answering by Self-J gains over keeping the likeliest", _NONE, "area", "likelihood"),
    Claim("6a", "Self-J's pick of four is better than a random one", "+3.3, +3.9 (win rates)", "best_of_n", "random"),
    Claim("6b", "Self-J's pick of four is better than the longest", _NONE, "best_of_n", "length"),
    Claim("6c", "Self-J's pick of four is better than the shortest", _NONE, "best_of_n", "shortest"),
    Claim("6d", "Self-J's pick of four is better than the likeliest", _NONE, "best_of_n", "likelihood"),
    Claim("6e", "length aside, Self-J's pick of four is better than random", _NONE, "length_controlled", "random"),
    Claim("7a", "Self-J tells good answers better than untrained self-evaluation", _NONE, "auroc", "untrained"),
    Claim("7b", "Self-J tells good answers better than length", _NONE, "auroc", "length"),
    Claim("7c", "Self-J tells good answers better than shortness", _NONE, "auroc", "shortest"),
    Claim("7d", "Self-J tells good answers better than likelihood", _NONE, "auroc", "likelihood"),
)
