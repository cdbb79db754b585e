"""What the lab's figures mean, in words; every number in them is computed."""

from __future__ import annotations

from collections.abc import Mapping

from .lab import LAST, Lab
from .tables import shown

# Whose figures the words name.
_LARGE = (
    *("srlm", "cream", "cream-dyn", "cream-top-order", "cream-likelihood", "constant"),
    *("random", "truth", "truth-40", "verifier"),
)
_SMALL = ("srlm", "cream", "random", "verifier")


def lab_words(labs: Mapping[str, Lab]) -> list[str]:
    """One paragraph on each step size that is finished."""
    found = []
    large, small = labs.get("lab-cream"), labs.get("lab-cream-small-step")
    if large and all(large.whole(name) for name in _LARGE):
        found.append(_large_step(large))
    if small and all(small.whole(name) for name in _SMALL):
        found.append(_small_steps(small))
    return found


def _change(lab: Lab, method: str) -> str:
    return shown(lab.change(method, LAST), "points")


def _difference(lab: Lab, first: str, second: str) -> str:
    return shown(lab.difference(first, second), "points")


def _by_round(lab: Lab, method: str) -> str:
    values = [lab.wrong(method, [number]) for number in (1, 2, 3)]
    return ", ".join(f"{100 * one.value:.0f}" for one in values if one)


def _large_step(lab: Lab) -> str:
    told = shown(lab.auroc("cream-likelihood", [1]), "share")
    mean = lab.mean("cream-likelihood", 1, "consistency")
    highest = max(lab.mean("srlm", number, "mean_abs_h") for number in (1, 2, 3))
    taus = [shown(lab.tau(method), "tau") for method in ("srlm", "cream")]
    return f"""\
**The large step, in words.** Self-rewarding ruins the model: SRLM changes accuracy by {_change(lab, "srlm")} points in
three rounds. Noise in the labels would not do that: random pairs, half of them wrong, cost {_change(lab, "random")},
and a known truth with 40% of the labels turned round {_change(lab, "truth-40")}. SRLM's labels are wrong in
{_by_round(lab, "srlm")}% of the pairs, round by round, which fits errors that every round makes likelier. CREAM slows
the fall and does not stop it: it ends {_difference(lab, "cream", "srlm")} points above SRLM. What the paper gives as
the reason is not seen: SRLM's successive models agree as CREAM's do (tau {taus[0]} and {taus[1]}) while both get worse;
consistent is not correct.

C_j says next to nothing of a label, with one exception: in round 1, with M0's likelihood as the second ranking, as in
the authors' code, its AUROC is {told}. The mean C is {mean:.2f} there, below one half, where `avg` prefers the
rejected responses (the product's gate stops such a run unless told otherwise, as here). The models with this second
ranking fall least among the self-labelled ones; with `dyn` it was added after the others were known, so that is no
test. The measured C is not better than a constant of 0.6 ({_difference(lab, "cream", "constant")} points), and
TopOrder, whose C is lowest, loses less than Kendall: here, the less a label counts, the better. `dyn` minus `avg` is
{_difference(lab, "cream-dyn", "cream")} points. Softening can do little in these runs: the gradient in h is
sigma(h) - c, AdamW's steps hardly depend on its size, and the mean abs. h, at most {highest:.2f}, stays far from
logit(.73) = 1.0, where C would hold it.

At this step not even right labels help (known truth {_change(lab, "truth")}, verifier {_change(lab, "verifier")}), so
it shows how methods fail and not how they gain."""


def _small_steps(lab: Lab) -> str:
    between = shown(lab.tau_difference("cream", "srlm"), "tau")
    return f"""\
**The small steps, in words.** Here the verifier gains a little ({_change(lab, "verifier")} points) and random pairs
cost little ({_change(lab, "random")}), and self-rewarding fails all the same: SRLM {_change(lab, "srlm")} points, CREAM
{_change(lab, "cream")}. CREAM minus SRLM is {_difference(lab, "cream", "srlm")} points, and CREAM's models agree a
little more (tau {between}): both in the paper's direction, both far from keeping the model where it was. SRLM's labels
are wrong in {_by_round(lab, "srlm")}% of the pairs, CREAM's in {_by_round(lab, "cream")}%."""
