"""What the lab's figures say, in words; every number and every verdict in them is computed."""

from __future__ import annotations

from cream_evidence.intervals import Estimate
from cream_evidence.tables import plain, seeds_shown, shown
from evidence_words import TOLD, VERDICTS, first_upper, gain_or_loss, stops, wrapped

from .claims import CLAIMS, corrected
from .lab import BASE, FIGURES, GREEDY, NAMES, SAMPLED, SEEDS, SUITES, Lab, Term
from .prose import RULE

COMPARED = ("t1", "t2", "delta")
_TITLES = {GREEDY: "**Greedy answers, as in the paper.**", SAMPLED: "**Answers drawn at temperature 1.**"}


def summary(lab: Lab, suite: str) -> str:
    """Where SCoRe took the base, and the verdicts."""
    sentences = [_TITLES[suite]]
    if "score" in lab.methods():
        base = {one: Term(BASE, one) for one in COMPARED}
        had = [f"{FIGURES[one][0]} {shown(lab.estimate(suite, term), FIGURES[one][1])}" for one, term in base.items()]
        moved = {one: lab.estimate(suite, Term("score", one), term) for one, term in base.items()}
        by = [f"{FIGURES[one][0]} {shown(found, 'points')}" for one, found in moved.items()]
        sentences.append(f"The base has {', '.join(had)}. SCoRe changes that by, in points, {', '.join(by)}.")
    for verdict in VERDICTS:
        claims = [one for one in CLAIMS if one.verdict(lab, suite) == verdict]
        if claims:
            names = [f"{one.text} ({one.number})" if verdict in TOLD else one.number for one in claims]
            sentences.append(f"**{first_upper(verdict)}**: {'; '.join(names)}.")
    stand = standing(lab, suite)
    sentences.append(f"**With Holm's correction** over {len(CLAIMS)} claims stand: {', '.join(stand) or 'none'}.")
    return wrapped(" ".join(sentences))


def standing(lab: Lab, suite: str) -> list[str]:
    """The claims that hold or are contradicted, whose verdict stands with Holm's correction."""
    p = corrected(lab, suite)
    told = [one.number for one in CLAIMS if one.number in p and one.verdict(lab, suite) in TOLD[:2]]
    return [number for number in told if p[number] < 0.05]


def whether_it_pays(lab: Lab) -> str:
    """The trained model's second attempt against the base's first, for SCoRe and the best of the methods."""
    sentences = ["**Does it pay?** The second attempt after training, against the first that the base makes anyway."]
    for suite, title in SUITES.items():
        found = {one: lab.estimate(suite, Term(one, "t2"), Term(BASE, "t1")) for one in lab.methods() if one != BASE}
        gains = {one: gain for one, gain in found.items() if gain}
        most = max((gain.n for gain in gains.values()), default=0)
        gains = {one: gain for one, gain in gains.items() if gain.n == most}
        if "score" not in gains:
            continue
        sentences.append(f"{first_upper(title)}: SCoRe {_gain(gains['score'])}.")
        best = max(gains, key=lambda one: gains[one].value)
        if best == "score":
            sentences.append("No method has more in the mean.")
        else:
            sentences.append(f"Most in the mean has {NAMES[best]}, {_gain(gains[best])}, picked for that among many.")
    return wrapped(" ".join(sentences))


def _gain(found: Estimate) -> str:
    return f"{shown(found, 'points')} points, {gain_or_loss(found)}"


def state(lab: Lab) -> str:
    """How many seeds there are of each method, and what was stopped."""
    # `mean-mean` is of the other file, with bases of its own.
    open_ = [one for one in NAMES if one not in (BASE, "mean-mean") and not lab.decided(one)]
    missing = [f"{NAMES[one]} {len(lab.runs.get(one, {}))}" for one in open_]
    said = [f"Seeds finished, of {len(SEEDS)}, where not all are: {', '.join(missing)}."] if missing else []
    stopped = stops(lab.stopped, NAMES)
    said += [f"Stopped, and so in no figure of the method: {stopped}."] if stopped else []
    return wrapped(" ".join(said or [f"All {len(SEEDS)} seeds of all methods are finished."]))


def rule(lab: Lab) -> str:
    """How a verdict is come by, how many comparisons were made, and which verdicts stand with Holm's correction."""
    said = []
    for suite, title in SUITES.items():
        p = corrected(lab, suite)
        told = [one.number for one in CLAIMS if one.number in p and one.verdict(lab, suite) in TOLD[:2]]
        stand = standing(lab, suite)
        said.append(
            f"{first_upper(title)}: of {len(CLAIMS)} claims {len(p)} have a verdict; {len(told)} hold or are "
            f"contradicted, and {len(stand)} of these stand with Holm{': ' if stand else ''}{', '.join(stand)}."
        )
    said.append(f"{len(CLAIMS) * len(SUITES)} comparisons are made in this table.")
    return RULE + "\n\n" + wrapped(" ".join(said))


def seventh(lab: Lab) -> str:
    """How large a gain over plain multi-turn RL the intervals leave possible."""
    found = {title: CLAIMS[-1].estimate(lab, suite) for suite, title in SUITES.items()}
    most = [f"{plain(one.high, 'points')} ({title})" for title, one in found.items() if one and one.n > 1]
    said = (
        "Claim 7 says that there is no gain, so a difference that cannot be told apart from 0 is what PAG itself saw."
    )
    return wrapped(said + (f" The largest gains that fit the intervals, in points: {', '.join(most)}." if most else ""))


def base_band(lab: Lab) -> str:
    """Whether the bases came out as they were meant to, as one more of the limits."""
    found = lab.estimate(GREEDY, Term(BASE, "t1"))
    if found is None:
        return ""
    outside = sum(not 0.3 <= one <= 0.7 for one in found.by_seed)
    said = (
        "- The base was to have between 30 and 70% of first attempts right, greedily. Seed by seed it has "
        f"{seeds_shown(found, 'accuracy')}%: {outside} of {found.n} outside."
    )
    return "\n" + wrapped(said + (" They are kept: no seed was chosen by its base." if outside else ""), "  ")
