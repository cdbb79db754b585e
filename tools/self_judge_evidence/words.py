"""What the figures say, in words; every number and every verdict in them is computed."""

from __future__ import annotations

from cream_evidence.intervals import Estimate
from cream_evidence.tables import plain, shown
from evidence_words import TOLD, VERDICTS, first_upper, gain_or_loss, stops, wrapped

from .claims import CLAIMS, corrected
from .figures import BEFORE, FIGURES, MAIN, NAMES, PLAIN, Results, mean_of
from .prose import RULE
from .runs import KINDS, SEEDS


def summary(results: Results) -> str:
    """Where training took the judge, and the verdicts."""
    sentences = []
    trained, before = (mean_of(results.values(name, "spearman")) for name in (MAIN, BEFORE))
    if trained:
        said = f"The rank correlation of scores and gold, times 100, is {shown(trained, 'accuracy')} for Self-J"
        said += f" and {shown(before, 'accuracy')} for {NAMES[BEFORE]}" if before else ""
        sentences.append(f"{said}.")
    for verdict in VERDICTS:
        claims = [one for one in CLAIMS if one.verdict(results) == verdict]
        if claims:
            names = [f"{one.text} ({one.number})" if verdict in TOLD else one.number for one in claims]
            sentences.append(f"**{first_upper(verdict)}**: {'; '.join(names)}.")
    return wrapped(" ".join(sentences))


def whether_it_pays(results: Results) -> str:
    """Self-J against the best of what needs no training, for each use."""
    sentences = ["**Does it pay?** Self-J against the best in the mean of what needs no training, picked for that:"]
    for figure in ("spearman", "area", "best_of_n"):
        means = {name: found for name in PLAIN if (found := mean_of(results.values(name, figure)))}
        own = mean_of(results.values(MAIN, figure))
        if not means or not own:
            continue
        best = max(means, key=lambda name: means[name].value)
        less = mean_of(results.less(figure, best))
        sentences.append(
            f"{first_upper(FIGURES[figure][0])}: {plain(own.value, 'accuracy')} against {NAMES[best]} "
            f"{plain(means[best].value, 'accuracy')}, {_gain(less)}."
        )
    chance, own, gain = (mean_of(results.values(name, "best_of_n")) for name in ("random", MAIN, "oracle"))
    if chance and own and gain and gain.value > chance.value:
        most, had = gain.value - chance.value, own.value - chance.value
        sentences.append(
            f"Of the {plain(most, 'points')} points that a pick of four could gain over a random one, Self-J's has "
            f"{plain(had, 'points')}."
        )
    return wrapped(" ".join(sentences)) if len(sentences) > 1 else ""


def _gain(found: Estimate | None) -> str:
    if found is None:
        return "not measured"
    return f"a difference of {shown(found, 'points')}, {gain_or_loss(found)}"


def state(results: Results) -> str:
    """How many seeds there are of each kind, and what was stopped."""
    open_ = [kind for kind in KINDS if not results.whole(kind)]
    missing = [f"{NAMES[kind]} {len(results.finished(kind))}" for kind in open_]
    said = [f"Seeds finished, of {len(SEEDS)}, where not all are: {', '.join(missing)}."] if missing else []
    stopped = stops(results.stopped, NAMES)
    said += [f"Stopped, and so in no figure: {stopped}."] if stopped else []
    return wrapped(" ".join(said or [f"All {len(SEEDS)} seeds of all judges are finished."]))


def data(results: Results) -> str:
    """What was judged, seed by seed, and what is missing."""
    said = []
    for seed, run in sorted(results.shared().items()):
        found = run["evaluations"]["M0"]["graded"]
        n, missing = found["scores"]["n"], sum(found["missing"].values())
        said.append(
            f"Seed {seed}: {n} answers, {100 * found['good'] / n:.1f}% right, {found['truncated']} cut off, "
            f"{found['mean_length']:.1f} characters in the mean, {missing} in no figure."
        )
    missing_of = [
        f"{NAMES[kind]}, seed {seed}, {sum(one.values())}"
        for kind in KINDS
        for seed, run in results.finished(kind).items()
        if (one := run["evaluations"]["M1"]["graded"]["missing"])
    ]
    if missing_of:
        said.append(f"Answers that trained judges have no score for: {'; '.join(missing_of)}.")
    notes = sorted({note for run in results.shared().values() for note in run["warnings"]})
    return wrapped(" ".join([*said, *notes]))


def rule(results: Results) -> str:
    """How a verdict is come by, and which verdicts stand with Holm's correction or hold in every seed by itself."""
    p = corrected(results)
    told = [one for one in CLAIMS if one.verdict(results) in TOLD[:2]]
    stand = [one.number for one in told if p[one.number] < 0.05]
    every = [one.number for one in CLAIMS if one.verdict(results) in TOLD and one.in_every_seed(results)]
    said = [
        f"Of {len(CLAIMS)} claims {len(p)} have a verdict; {len(told)} hold or are contradicted, and {len(stand)} of "
        f"these stand with Holm{': ' if stand else ''}{', '.join(stand)}.",
        f"Above 0 by every seed's own interval: {', '.join(every) or 'none'}.",
    ]
    return RULE + "\n\n" + wrapped(" ".join(said))
