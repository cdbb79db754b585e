"""The evidence for CREAM: intervals and figures with values computed by hand, and the committed page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from cream_evidence.claims import CLAIMS  # noqa: E402
from cream_evidence.figures import Results  # noqa: E402
from cream_evidence.intervals import Estimate, crossed, drawn_seeds, nested, over_seeds, share, verdict  # noqa: E402
from cream_evidence.lab import Lab, load_lab  # noqa: E402
from cream_evidence.lab_claims import CLAIMS as LAB_CLAIMS  # noqa: E402
from cream_evidence.matrix import SEEDS  # noqa: E402
from cream_evidence.page import page_text, write_page  # noqa: E402

DOCS = ROOT / "docs" / "evidence"


def ends(estimate: Estimate | None) -> tuple[float, float, float]:
    assert estimate is not None
    return estimate.value, estimate.low, estimate.high


def test_crossed_interval_of_one_seed_is_the_binomial_one() -> None:
    # P(Bin(10, 1/2) <= 1) = 11/1024 = .011 and <= 2: 56/1024 = .055, so the 2.5% quantile is 2; 7 of 10: 1 - .055
    # = .945 is at most 7, 1 - .011 = .989 at most 8: the 97.5% quantile is 8.
    found = crossed([[0, 1] * 5])
    assert ends(found) == pytest.approx((0.5, 0.2, 0.8))
    assert (found.n, found.by_seed) == (10, (0.5,))


def test_crossed_interval_draws_seeds_too() -> None:
    # Every item is alike, so only seeds vary: both draws are seed 0 with probability 1/4 > .025, likewise seed 1.
    assert ends(crossed([[0] * 50, [1] * 50])) == pytest.approx((0.5, 0, 1))
    # Three seeds: all draws are the first with probability 1/27 = .037 > .025.
    assert ends(crossed([[0] * 9, [1] * 9, [1] * 9])) == pytest.approx((2 / 3, 0, 1))


def test_crossed_interval_keeps_items_together() -> None:
    """Copies of one seed carry nothing new about items: the interval is that of a single seed."""
    one = [0, 1] * 5
    assert ends(crossed([one] * 3)) == pytest.approx((0.5, 0.2, 0.8))


def test_nested_interval_draws_within_seeds() -> None:
    # Half of Bin(10, 1/2) / 10 plus half of 1: ends (.2 + 1) / 2 and (.8 + 1) / 2.
    found = nested([[0, 1] * 5, [1] * 4])
    assert ends(found) == pytest.approx((0.75, 0.6, 0.9))
    assert (found.n, found.by_seed) == (14, (0.5, 1.0))


def test_over_seeds_is_students_interval() -> None:
    # mean 2, standard deviation 1, t(.975, 2 degrees) = 4.30265; half width 4.30265 / sqrt(3)
    assert ends(over_seeds([1, 2, 3])) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert np.isnan(over_seeds([5.0]).low)


def test_share_takes_the_seeds_counts_together() -> None:
    # Wilson for 5 of 10, as in Newcombe (1998)
    assert ends(share([2, 3, 0], [4, 6, 0])) == pytest.approx((0.5, 0.2366, 0.7634), abs=5e-5)
    assert share([0], [0]) is None


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=4))
def test_intervals_contain_the_estimate_and_do_not_change(table: list[list[int]]) -> None:
    for found, again in ((crossed(table), crossed(table)), (nested(table), nested(table))):
        assert found == again
        assert found.low <= found.value + 1e-12
        assert found.value <= found.high + 1e-12


@pytest.mark.parametrize(
    ("low", "high", "above", "bound", "expected"),
    [
        (0.1, 0.3, True, 0.0, "holds"),
        (-0.3, -0.1, True, 0.0, "contradicted"),
        (-0.3, -0.1, False, 0.0, "holds"),
        (0.5, 0.7, False, 0.38, "contradicted"),
        (-0.1, 0.1, True, 0.0, "not distinguishable here"),
        (0.0, 0.1, True, 0.0, "not distinguishable here"),
        (0.0, 0.0, False, 0.0, "not distinguishable here"),
    ],
)
def test_verdict_follows_from_the_interval(low: float, high: float, above: bool, bound: float, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, 1), above=above, bound=bound) == expected
    assert verdict(None) == "not finished"


def made_up(*arms: str, agreements: str = "10 0 -5") -> dict[str, Any]:
    """results.json with M2 and M3 one item better than M1 for every arm but srlm."""
    runs = {}
    for arm in arms:
        for seed in SEEDS:
            m1 = "10" * 99
            better = m1 if arm == "srlm" else m1[:3] + "1" + m1[4:]
            rounds = [
                {
                    "round": number,
                    "policy": f"M{number + 1}",
                    "prompts": 3,
                    "pairs": 3,
                    "labels_right": 1,
                    "labels_telling": 2,
                    "mean_length": 3.0 + seed,
                    "reward_length_correlation": 0.1,
                    "mean_abs_h": 0.1,
                    "agreement": {
                        "models": "M2, M1",
                        "pairs_per_prompt": 10,
                        "prompts": "x",
                        "order": agreements,
                        "untied": "10 0 5",
                    },
                }
                for number in (1, 2)
            ]
            policies = {"M0": "0" * 198, "M1": m1, "M2": better, "M3": better}
            runs[f"paper-beta-{arm}-seed{seed}"] = {
                "setting": "paper-beta",
                "arm": arm,
                "seed": seed,
                "git": "abcdefgh",
                "device": "cpu",
                "policies": {name: {"right": right} for name, right in policies.items()},
                "rounds": rounds,
                "last_agreement": rounds[1]["agreement"],
            }
    return {"runs": runs, "missing": {"paper-beta-verifier-seed2": "not started"}}


def test_figures_by_hand() -> None:
    results = Results(made_up("cream", "srlm"))
    setting = "paper-beta"
    assert ends(results.change(setting, "srlm", "M3")) == (0, 0, 0)
    change = results.change(setting, "cream", "M3")
    assert change
    assert change.value == pytest.approx(1 / 198)
    assert change.n == 3 * 198
    assert results.difference(setting, "cream", "srlm", "M3") == change
    # two prompts with untied pairs: 10 of 10 and -5 of 5; tau-a of the second is -5 of 10
    assert results.tau(setting, "cream", 3).value == pytest.approx(0)  # type: ignore[union-attr]
    assert results.tau(setting, "cream", 3, ties=True).value == pytest.approx(0.25)  # type: ignore[union-attr]
    assert ends(results.tau_difference(setting, "cream", "srlm", 3)) == (0, 0, 0)
    assert results.labels(setting, "srlm", [1, 2]).n == 12  # type: ignore[union-attr]
    assert ends(results.per_seed(setting, "srlm", 1, "mean_length"))[0] == 6
    assert results.compared(setting, "cream", "srlm") == 3
    results.runs[0]["last_agreement"] = None
    assert results.compared(setting, "cream", "srlm") == 2
    assert results.ties(setting, "srlm", 2).value == pytest.approx(0.5)  # type: ignore[union-attr]


def test_a_verdict_waits_for_every_seed() -> None:
    values = made_up("cream", "srlm")
    del values["runs"]["paper-beta-srlm-seed4"]
    results = Results(values)
    assert results.change("paper-beta", "srlm", "M3").n == 2 * 198  # type: ignore[union-attr]
    assert results.difference("paper-beta", "cream", "srlm", "M3").n == 2 * 198  # type: ignore[union-attr]
    verdicts = {claim.number: claim.verdict(results, "paper-beta") for claim in CLAIMS}
    assert {verdicts[number] for number in ("1a", "1c", "2", "3", "4", "6")} == {"not finished"}
    assert verdicts["1b"] != "not finished"
    page = page_text(results)
    assert "not started: paper-beta-verifier-seed2" in page
    assert "SRLM (c = 1), only seeds 2, 3" in page


def lab_run(m2: float, m4: float, wrong: int) -> dict[str, Any]:
    """One run on the lab model: M1 at one half, 10 telling pairs and 5 others a round, `wrong` of them wrong."""
    values = {"M1": 0.5, "M2": m2, "M3": m2, "M4": m4}
    one_round = {
        "pairs": 15,
        "labels": {"right": 10 - wrong, "wrong": wrong, "equal": 5},
        "tau_untied": 0.5,
        "prediction": {"auroc": 0.75},
    }
    return {
        "evaluations": {"lab-evaluation": {name: {"value": value} for name, value in values.items()}},
        "rounds": [one_round] * 3,
    }


def test_lab_figures_by_hand() -> None:
    runs = {
        "cream": {str(seed): lab_run(0.6, 0.5 + seed / 100, 2) for seed in range(10)},
        "srlm": {str(seed): lab_run(0.6, 0.4, 6) for seed in range(9)} | {"9": {"stopped": "a gate"}},
    }
    lab = Lab(runs)
    assert ends(lab.change("srlm", "M4")) == pytest.approx((-0.1, -0.1, -0.1))
    assert ends(lab.change("cream", "M4"))[0] == pytest.approx(0.045)
    difference = lab.difference("cream", "srlm")
    assert difference and difference.n == 9
    assert difference.value == pytest.approx(0.14)  # the mean of 0 to 8 is 4
    assert ends(lab.wrong("cream"))[0] == pytest.approx(0.2)
    assert ends(lab.equal("cream"))[0] == pytest.approx(1 / 3)
    verdicts = {claim.number: claim.verdict(lab) for claim in LAB_CLAIMS}
    assert {verdicts[number] for number in ("1a", "2", "3", "8b")} == {"not finished"}  # a seed of SRLM is missing
    assert {verdicts[number] for number in ("4", "6", "7a", "9")} == {"not run"}
    assert (verdicts["1b"], verdicts["8a"]) == ("holds", "holds")


def test_drawn_seeds_is_the_percentile_bootstrap() -> None:
    # As for the crossed interval of one seed: half of ten are 1, so the ends are 2 and 8 of 10.
    assert ends(drawn_seeds([0, 1] * 5)) == pytest.approx((0.5, 0.2, 0.8))


def test_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    assert write_page(tmp_path, {"runs": {}, "missing": {}}).is_file()
    assert write_page(tmp_path, {"runs": {}, "missing": {}}, {"lab-cream": {}}).is_file()


def test_committed_page_is_what_results_give(tmp_path: Path) -> None:
    results = json.loads((DOCS / "cream" / "results.json").read_text())
    for run in results["runs"].values():  # as the page says: of one seed, all methods start from the same M1
        others = [one for one in results["runs"].values() if one["seed"] == run["seed"]]
        assert len({one["policies"]["M1"]["digest"] for one in others}) == 1
        assert len({one["policies"]["M0"]["right"] for one in results["runs"].values()}) == 1
        assert {len(one["right"]) for one in run["policies"].values()} == {198}
    assert write_page(tmp_path, results, load_lab()).read_text() == (DOCS / "cream.md").read_text()
    pinned = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for plot in sorted((DOCS / "cream").glob("*.svg")):
        again = (tmp_path / "cream" / plot.name).read_text()
        if matplotlib.__version__ == pinned[1]:  # another version draws the same values in other bytes
            assert again == plot.read_text()
