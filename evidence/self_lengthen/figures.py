"""Every figure of the rounds' texts and of the suite, from runs.json beside it: raw values by seed.

selfimprove study evidence/self_lengthen/study.yaml
python evidence/self_lengthen/figures.py RUN_FOLDER ...      # writes that file from finished runs, a seed each
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Estimate, by_verdict, judged, over_seeds, share
from scipy import stats

from selfimprove.artefacts import write_file
from selfimprove.errors import RunFailed
from selfimprove.report.events import FILE_NAME, read_events
from selfimprove.report.summary import of_kind
from selfimprove.study.picture import COLOURS, INK, svg

RAW = Path(__file__).parent / "runs.json"
SUITE = "longen-short"
WORDS, RUNS_OF_FOUR, REPEAT = range(3)  # of a measured text, see selfimprove/methods/self_lengthen/growth.py
ANSWERS, LONGER = "answers", "longer texts"
VALUES: dict[str, Callable[[dict[str, Any]], float]] = {
    "score": lambda item: float(item["score"]),
    "words": lambda item: float(item["words"]),
    "unfinished": lambda item: float(not item["finished"]),
    # a run of ten words occurs twice, which the filter takes for repetition
    "repeats": lambda item: float(item["longest_repeat"] >= 10),
}


class Results:
    """The runs by seed."""

    def __init__(self, runs: dict[str, Any]) -> None:
        self.runs = {int(seed): run for seed, run in sorted(runs.items())}
        self.rounds = sorted({int(number) for run in self.runs.values() for number in run["rounds"]})
        self.roles = list(dict.fromkeys(role for run in self.runs.values() for role in run["suite"]))
        items = [item for run in self.runs.values() for items in run["suite"].values() for item in items]
        self.kinds = list(dict.fromkeys(item["kind"] for item in items))

    def texts(self, number: int, kind: str) -> list[np.ndarray]:
        """By seed, (words, different runs of four words, longest repeated run) of each text of a round."""
        rounds = [run["rounds"][str(number)] for run in self.runs.values()]
        found = [one["texts"] if kind == ANSWERS else [longer for _, longer in one["pairs"]] for one in rounds]
        return [np.array(one, dtype=float) for one in found]

    def pairs(self, number: int) -> list[np.ndarray]:
        """By seed, shape (pairs, 2, 3): answer and longer text."""
        return [np.array(run["rounds"][str(number)]["pairs"], dtype=float) for run in self.runs.values()]

    def mean_words(self, number: int, kind: str) -> Estimate | None:
        return over_seeds([float(one[:, WORDS].mean()) for one in self.texts(number, kind)])

    def quantiles(self, number: int, kind: str) -> np.ndarray:
        """10%, 25%, 50%, 75% and 90% of the words of all seeds together."""
        return np.quantile(np.concatenate(self.texts(number, kind))[:, WORDS], (0.1, 0.25, 0.5, 0.75, 0.9))

    def more_words(self, kind: str) -> Estimate | None:
        """Mean words in the last round minus those in the first."""
        ends = zip(*(self.texts(number, kind) for number in (self.rounds[-1], self.rounds[0])), strict=True)
        return over_seeds([float(last[:, WORDS].mean() - first[:, WORDS].mean()) for last, first in ends])

    def growth(self, number: int, unit: int) -> Estimate | None:
        """Median over pairs of how many times the answer's words, or different runs of four, a longer text has."""
        return over_seeds(
            [float(np.median(one[:, 1, unit] / np.maximum(one[:, 0, unit], 1))) for one in self.pairs(number)]
        )

    def only_repetition(self, number: int) -> tuple[int, int]:
        """Pairs whose different runs of four words did not grow as their words had to, and all pairs."""
        found = list(zip(self.runs.values(), self.pairs(number), strict=True))
        grown = [one[:, 1, RUNS_OF_FOUR] > run["growth"] * one[:, 0, RUNS_OF_FOUR] for run, one in found]
        return sum(int((~one).sum()) for one in grown), sum(map(len, grown))

    def repeated(self, number: int) -> tuple[float, float]:
        """The longest repeated run of the longer texts, in words: mean and most."""
        every = np.concatenate(self.texts(number, LONGER))[:, REPEAT]
        return float(every.mean()), float(every.max())

    def filter(self, number: int, what: str) -> tuple[int, int, str]:
        """Texts wanted and kept, and what was rejected over all tries, by reason; all seeds together."""
        found = [run["rounds"][str(number)]["filters"][what] for run in self.runs.values()]
        rejected = Counter[str]()
        for one in found:
            rejected.update(one["rejected"])
        reasons = ", ".join(f"{why}: {count}" for why, count in rejected.most_common())
        return sum(one["wanted"] for one in found), sum(one["kept"] for one in found), reasons

    def _table(self, role: str, value: str, kind: str | None = None) -> np.ndarray:
        """Shape (seeds, items): a value of each of the suite's items, or of those of one kind of demand."""
        rows = [run["suite"][role] for run in self.runs.values()]
        of = VALUES.get(value) or (lambda item: item[value])
        return np.array([[of(item) for item in row if kind in (None, item["kind"])] for row in rows], dtype=float)

    def mean(self, role: str, value: str, kind: str | None = None) -> Estimate | None:
        """Over the seeds' means of the items."""
        return over_seeds([float(row.mean()) for row in self._table(role, value, kind)])

    def less(self, role: str, than: str, value: str) -> Estimate | None:
        """Paired by seed and item; over the seeds' means."""
        return over_seeds([float(row.mean()) for row in self._table(role, value) - self._table(than, value)])

    def follows(self, role: str) -> Estimate | None:
        """Spearman's correlation of the words asked for and written, over a seed's items."""
        both = zip(self._table(role, "asked"), self._table(role, "words"), strict=True)
        return over_seeds([float(stats.spearmanr(asked, written).statistic) for asked, written in both])

    def follows_more(self, role: str, than: str) -> Estimate | None:
        own, other = self.follows(role), self.follows(than)
        return own and other and over_seeds([a - b for a, b in zip(own.by_seed, other.by_seed, strict=True)])


def load(file: Path = RAW) -> Results:
    return Results(json.loads(file.read_text(encoding="utf-8"))["runs"])


def found(given: dict[str, Any]) -> dict[str, Any]:
    results = load()
    claims = judged(given["claims"]["claims"], results)
    runs = results.runs.values()
    return {
        "r": results,
        "claims": claims,
        "verdicts": by_verdict(claims),
        "share": share,
        "repeats": tuple(map(sum, zip(*map(results.only_repetition, results.rounds), strict=True))),
        "notes": sorted({f"{note.rstrip('.')}." for run in runs for note in run["warnings"]}),
        "code": ", ".join(sorted({f"{str(run['git'])[:7]} ({run['device']}, {run['backend']})" for run in runs})),
    }


def pictures() -> dict[str, str]:
    results = load()
    return {"words.svg": svg(_words(results), "Words by round"), "asked.svg": svg(_asked(results), "Words asked for")}


def _words(results: Results) -> Any:
    """Median, middle half and 10% to 90% of all seeds' texts; each seed's mean as a ring."""
    import altair as alt

    rows, means = [], []
    for number in results.rounds:
        for kind in (ANSWERS, LONGER):
            key = {"x": f"round {number}", "kind": kind}
            names = ("low", "first", "middle", "third", "high")
            rows.append(key | dict(zip(names, map(float, results.quantiles(number, kind)), strict=True)))
            means += [key | {"mean": float(one[:, WORDS].mean())} for one in results.texts(number, kind)]
    where = {
        "x": alt.X("x:N", title=None, axis=alt.Axis(labelAngle=0)),
        "xOffset": "kind:N",
        "color": alt.Color("kind:N", title=None, scale=alt.Scale(range=list(COLOURS))),
    }
    y = {"title": "words"}
    base, own = (alt.Chart(alt.Data(values=some)).encode(**where) for some in (rows, means))
    return alt.layer(
        base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q", **y), y2="high:Q"),
        base.mark_bar(size=9, opacity=0.6).encode(y=alt.Y("first:Q", **y), y2="third:Q"),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=alt.Y("middle:Q", **y)),
        own.mark_point(size=14, xOffset=9).encode(y=alt.Y("mean:Q", **y)),
    ).properties(width=420, height=200)


def _asked(results: Results) -> Any:
    import altair as alt

    rows = [
        {"role": role, "asked": item["asked"], "words": item["words"], "end": "ended" if item["finished"] else "cut"}
        for run in results.runs.values()
        for role in results.roles
        for item in run["suite"][role]
    ]
    top = max(one["asked"] for one in rows)
    base = alt.Chart().properties(width=300, height=130)
    shape = alt.Shape("end:N", title=None, scale=alt.Scale(domain=["ended", "cut"], range=["circle", "cross"]))
    points = base.mark_point(size=18).encode(
        x=alt.X("asked:Q", title="words asked for (of a range its middle)"),
        y=alt.Y("words:Q", title="written"),
        shape=shape,
        color=alt.Color("end:N", title=None, scale=alt.Scale(domain=["ended", "cut"], range=[COLOURS[0], COLOURS[1]])),
    )
    line = base.mark_rule(color=INK).encode(x=alt.datum(0), y=alt.datum(0), x2=alt.datum(top), y2=alt.datum(top))
    return alt.layer(points, line, data=alt.Data(values=rows)).facet(
        facet=alt.Facet("role:N", sort=results.roles, title=None), columns=2
    )


def one_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """A finished run's seed and values: of each round the texts and what the filters did, of each policy the suite's
    items. Raises RunFailed."""
    events = read_events(folder / FILE_NAME)
    started, done = of_kind(events, "run"), of_kind(events, "done")
    if not started or not done:
        raise RunFailed(f"{folder} is not finished; the study goes on with it")
    recipe, rounds = started[-1]["recipe"], int(started[-1]["recipe"]["rounds"])
    roles = {"M0": "untrained", **{f"M{2 * n - 1}": f"generator {n}" for n in range(1, rounds + 1)}}
    roles[f"M{2 * rounds}"] = "final"
    # the last event of each counts: a run that went on writes some again
    lengths = {one["round"]: one for one in of_kind(events, "lengths")}
    filters = {(one["round"], one["what"]): one for one in of_kind(events, "filter")}
    kept = ("wanted", "kept", "rejected")
    suite = {one["policy"]: one for one in of_kind(events, "evaluation") if one["suite"] == SUITE}
    return str(recipe["seed"]), {
        **{"git": started[-1]["versions"].get("git"), "growth": recipe["self_lengthen"]["growth"]},
        **{key: started[-1][key] for key in ("device", "backend", "warnings")},
        "rounds": {
            str(number): {
                "texts": one["texts"],
                "pairs": one["pairs"],
                "filters": {w: {k: f[k] for k in kept} for (n, w), f in filters.items() if n == number},
            }
            for number, one in lengths.items()
        },
        "training_seconds": {one["policy"]: one["seconds"] for one in of_kind(events, "training")},
        "suite": {role: suite[policy]["length_following"]["items"] for policy, role in roles.items()},
    }


if __name__ == "__main__":
    before = json.loads(RAW.read_text(encoding="utf-8")) if RAW.is_file() else {"runs": {}}
    before["runs"] |= dict(one_run(Path(folder)) for folder in sys.argv[1:])
    write_file(RAW, (json.dumps(before) + "\n").encode())
