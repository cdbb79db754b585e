"""The figures of SCoRe and its controls, from benchmarks/results/lab-score.json (five seeds of a lab model), its
`-reductions` (bases of another machine) and smollm2.json beside this file: raw values by method and seed.

    python evidence/score/figures.py NAME=RUN_FOLDER ...     # writes smollm2.json, from runs of study-smollm2.yaml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import Estimate, by_verdict, judged, over_seeds, plain, shown

from selfimprove.artefacts import write_file
from selfimprove.errors import RunFailed
from selfimprove.report.events import FILE_NAME, read_events
from selfimprove.report.summary import of_kind
from selfimprove.study.picture import INK, svg

HERE = Path(__file__).parent
RAW = HERE.parents[1] / "benchmarks" / "results"
SMOLLM2 = HERE / "smollm2.json"
SUITES = {"lab-evaluation-turns": "greedy", "lab-evaluation-sampled": "temperature 1"}
BASE = "base"
METHODS: dict[str, dict[str, str]] = yaml.safe_load((HERE / "names.yaml").read_text(encoding="utf-8"))["methods"]
# figure -> (what the page calls it, its unit)
FIGURES = {
    "t1": ("Acc@t1", "accuracy"),
    "t2": ("Acc@t2", "accuracy"),
    "delta": ("Delta", "points"),
    "i_to_c": ("i->c", "accuracy"),
    "c_to_i": ("c->i", "accuracy"),
    "copy": ("copies", "accuracy"),
    "kl_1": ("KL of turn 1", "h"),
    "kl_2": ("KL of turn 2", "h"),
}
_END = 5  # updates at each end of a stage
_PARTS = ("sampling", "rewards", "scoring", "training")
Run = dict[str, Any]


class Lab:
    """The runs of one file, in one way to answer. A figure is of a method's last policy, the base's of M0, over the
    seeds that have it in every method it needs."""

    def __init__(self, runs: dict[str, dict[str, Run]], suite: str) -> None:
        self.suite, self.title = suite, SUITES[suite]
        self.runs = {
            name: {int(seed): run for seed, run in seeds.items() if "stopped" not in run}
            for name, seeds in runs.items()
        }
        self.methods = [BASE, *(name for name in METHODS if name in runs)]

    def estimate(self, method: str, figure: str, less: str = "", other: str = "") -> Estimate | None:
        """Mean over seeds with Student's t interval; less that of another method (and figure), paired by seed."""
        values = self._values(method, figure)
        if less:
            others = self._values(less, other or figure)
            values = {seed: value - others[seed] for seed, value in values.items() if seed in others}
        return over_seeds([values[seed] for seed in sorted(values)])

    def seeds(self, *found: Estimate | None) -> int:
        return max((one.n for one in found if one), default=0)

    def _values(self, method: str, figure: str) -> dict[int, float]:
        # of the base any run of the seed: all methods start from it, and it answers alike in all
        every = {seed: run for seeds in self.runs.values() for seed, run in seeds.items()}
        runs = every if method == BASE else self.runs.get(method, {})
        found = {seed: self._value(run, method, figure) for seed, run in runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def _value(self, run: Run, method: str, figure: str) -> float | None:
        if figure.startswith("kl"):  # at the end of the training, not of an evaluation
            last = run["stages"][-1]["last"] if run.get("stages") and method != BASE else {}
            turn = f"turn_{figure[-1]}"
            return float(last[f"kl/{turn}"]) if f"accuracy/{turn}" in last else None  # one not trained has a KL of 0
        policies = run["evaluations"][self.suite]
        last_policy = max(policies, key=lambda name: int(name[1:]))
        found = of_correction(policies["M0" if method == BASE else last_policy]["self_correction"], figure)
        return found.value if found else None


def of_correction(measured: Run, figure: str) -> Estimate | None:
    """A figure of an evaluation with two attempts, with its own interval; None where nothing is known of it."""
    one = measured["turns"].get(figure[1:]) if figure in ("t1", "t2") else measured.get(figure)
    known = one and one.get("value") is not None
    return Estimate(*(one[key] for key in ("value", "low", "high", "n"))) if known else None


def gain(found: Estimate) -> str:
    """A difference of which nothing was claimed, in points."""
    told = "a gain" if found.low > 0 else "a loss"
    return f"{shown(found, 'points')} points, {'which cannot be told from 0' if found.low <= 0 <= found.high else told}"


def codes(lab: Lab) -> str:
    """Which commit made which seeds of which method."""
    by_code: dict[str, dict[str, list[int]]] = {}
    for name in lab.methods[1:]:
        for seed, run in sorted(lab.runs[name].items()):
            by_code.setdefault(str(run["git"])[:7], {}).setdefault(METHODS[name]["name"], []).append(seed)
    parts = []
    for code, methods in by_code.items():
        alike = {_seeds(seeds): [name for name in methods if methods[name] == seeds] for seeds in methods.values()}
        parts.append(f"{code}: " + ", ".join(f"seeds {seeds} of {', '.join(names)}" for seeds, names in alike.items()))
    return "Code of the runs. " + "; ".join(parts) + "."


def _seeds(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def load() -> tuple[list[Lab], list[Lab]]:
    """Both ways to answer, of the page's runs and of those on reductions."""
    files = ("lab-score.json", "lab-score-reductions.json")
    runs = [json.loads((RAW / name).read_text(encoding="utf-8"))["runs"] for name in files]
    labs = [[Lab(one, suite) for suite in SUITES] for one in runs]
    return labs[0], labs[1]


def found(given: dict[str, Any]) -> dict[str, Any]:
    labs, reduced = load()
    own = {"higher": "holds", "lower": "contradicted"}
    comparisons = {lab.title: judged(given["claims"]["own"], lab) for lab in labs}
    for one in (one for some in comparisons.values() for one in some):
        one["verdict"] = next((word for word, said in own.items() if said == one["verdict"]), one["verdict"])
    claims = {lab.title: judged(given["claims"]["claims"], lab) for lab in labs}
    return {
        **{"labs": labs, "reduced": reduced, "methods": METHODS, "figures": FIGURES, "codes": codes, "gain": gain},
        **{"claims": claims, "own": comparisons, "runs": json.loads(SMOLLM2.read_text(encoding="utf-8"))["runs"]},
        "verdicts": {title: by_verdict(some) for title, some in claims.items()},
        "stands": {title: [one["number"] for one in some if stands(one)] for title, some in claims.items()},
        "best": {
            lab.title: max(lab.methods[1:], key=lambda one, lab=lab: lab.estimate(one, "t2", BASE, "t1").value)
            for lab in labs
        },
        "outside": sum(not 0.3 <= one <= 0.7 for one in labs[0].estimate(BASE, "t1").by_seed),
        **{"smollm2_policies": smollm2_policies, "smollm2_stages": smollm2_stages},
    }


def stands(claim: dict[str, Any]) -> bool:
    """Whether a verdict stands when the number of claims is allowed for."""
    return claim["verdict"] in ("holds", "contradicted") and claim["p"] < 0.05


def pictures() -> dict[str, str]:
    return {"lab.svg": svg(_picture(load()[0]), "First against second attempts")}


def _picture(labs: Iterable[Lab]) -> Any:
    """First against second attempts: the base's mean plus the method's mean difference to it, with its interval."""
    import altair as alt

    panels, names = [], {one["short"]: one for name, one in METHODS.items() if name != "mean-mean"}
    for lab in labs:
        rows = []
        for method in lab.methods:
            row: dict[str, Any] = {"method": METHODS[method]["short"]}
            for figure in ("t1", "t2"):
                base, moved = lab.estimate(BASE, figure), lab.estimate(method, figure, BASE)
                assert base and moved
                ends = {"": moved.value, "_low": moved.low, "_high": moved.high}
                row |= {f"{figure}{end}": 100 * (base.value + one) for end, one in ends.items()}
            rows.append(row)

        def axis(figure: str, rows: list[Any] = rows) -> Any:  # by the marks: a cross may be far longer
            values = [row[figure] for row in rows]
            return alt.Scale(domain=[min(values) - 5, max(values) + 5], zero=False, nice=False)

        looks = {
            key: alt.Scale(domain=list(names), range=[one[key] for one in names.values()]) for key in ("colour", "mark")
        }
        base = alt.Chart(alt.Data(values=rows)).encode(
            color=alt.Color("method:N", scale=looks["colour"], title=None, legend=alt.Legend(columns=4))
        )
        x = alt.X("t1:Q", title=f"Acc@t1, {lab.title} (%)", scale=axis("t1"))
        y = alt.Y("t2:Q", title="Acc@t2 (%)", scale=axis("t2"))
        top = max(row["t1"] for row in rows) + 5
        line = alt.Chart(alt.Data(values=[{"t1": 0, "t2": 0}, {"t1": top, "t2": top}]))
        panels.append(
            alt.layer(
                line.mark_line(clip=True, color=INK, strokeDash=[4, 3], strokeWidth=0.8).encode(x=x, y=y),
                base.mark_rule(clip=True, opacity=0.5).encode(
                    x=x.copy(), y=alt.Y("t2_low:Q", title="Acc@t2 (%)"), y2="t2_high:Q"
                ),
                base.mark_rule(clip=True, opacity=0.5).encode(x=alt.X("t1_low:Q"), x2="t1_high:Q", y=y),
                base.mark_point(filled=True, size=60, opacity=1).encode(
                    x=x, y=y, shape=alt.Shape("method:N", scale=looks["mark"], title=None)
                ),
            ).properties(width=440, height=280)
        )
    return alt.vconcat(*panels)


# SmolLM2


def smollm2_policies(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """A row for each policy and suite; a policy that several runs share, as their base, once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, run in runs.items():
        for one in run["evaluations"]:
            row = found.setdefault((one["suite"], one["policy_digest"]), {"of": [], "one": one})
            row["of"] += [name] if name not in row["of"] else []
    return [
        {
            **{key: row["one"][key] for key in ("suite", "policy")},
            "run": row["of"][0] if len(row["of"]) == 1 else f"{len(row['of'])} runs",
            "n": row["one"]["self_correction"]["turns"]["1"]["n"],
            **{name: of_correction(row["one"]["self_correction"], name) for name in FIGURES},
        }
        for row in found.values()
    ]


def smollm2_stages(runs: dict[str, Run]) -> list[list[str]]:
    """What training drew, first to last updates, and where its time went: the cells of a row for each stage."""
    keys = {"accuracy/turn_1": "accuracy", "accuracy/turn_2": "accuracy", "copy_rate": "accuracy"}
    keys |= {"kl/turn_1": "h", "kl/turn_2": "h"}
    rows = []
    for name, stage in ((name, stage) for name, run in runs.items() for stage in run["stages"]):
        known = {key: [one for one in values if one is not None] for key, values in stage["history"].items()}
        parts = [
            " to ".join(plain(float(np.mean(part)), unit) for part in (known[key][:_END], known[key][-_END:]))
            if known.get(key)
            else ""
            for key, unit in keys.items()
        ]
        sums, steps = [sum(known[f"seconds/{part}"]) for part in _PARTS], len(stage["history"]["step"])
        times = [f"{sum(sums) / steps:.1f}", *(f"{100 * one / sum(sums):.0f}" for one in sums)]
        rows.append([name, {1: "I", 2: "II"}[stage["stage"]], str(steps), *parts, *times])
    return rows


def one_run(folder: Path) -> Run:
    """One run's values. Raises RunFailed where it was not evaluated with two attempts."""
    events = read_events(folder / FILE_NAME)
    evaluations = [
        {key: one.get(key) for key in ("suite", "policy", "policy_digest", "round")}
        | {"self_correction": {key: value for key, value in one["self_correction"].items() if key != "examples"}}
        for one in of_kind(events, "evaluation")
        if one.get("self_correction")
    ]
    if not evaluations:
        raise RunFailed(f"{folder} has no evaluation with a second attempt: is it finished?")
    started, done = of_kind(events, "run")[-1], of_kind(events, "done")
    trained = [one for one in of_kind(events, "training") if one["stage"] == "score"]
    probes = ("stage", "policy", "prompts", "samples", "figures")
    return {
        **{"git": started["versions"].get("git"), "device": started["device"], "seed": started["recipe"]["seed"]},
        **{"finished": bool(done), "seconds": done[-1].get("seconds") if done else None, "evaluations": evaluations},
        "stages": [
            {
                **{"stage": one.get("score_stage"), "policy": one.get("policy"), "seconds": one.get("seconds")},
                # a list of one value per update for each key
                "history": {
                    key: [row.get(key) for row in one["history"]]
                    for key in sorted({k for row in one["history"] for k in row})
                },
            }
            for one in trained
        ],
        "probes": [{key: one.get(key) for key in probes} for one in of_kind(events, "probe")],
    }


if __name__ == "__main__":
    before = json.loads(SMOLLM2.read_text(encoding="utf-8")) if SMOLLM2.is_file() else {"runs": {}}
    before["runs"] |= {name: one_run(Path(folder)) for name, folder in (one.split("=", 1) for one in sys.argv[1:])}
    write_file(SMOLLM2, (json.dumps(before, separators=(",", ":")) + "\n").encode())
