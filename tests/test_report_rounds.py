"""The figures of a round: two rankings, reward and length, examples and why they were made."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.judging.agreement import consistency
from selfimprove.judging.pairs import best_and_worst, softened
from selfimprove.loop.example_parts import ordinal, pairs_part
from selfimprove.loop.record import Record
from selfimprove.loop.reward_length import reward_by_length
from selfimprove.loop.rounds import Ranking, round_figures
from selfimprove.methods.cream import _STANDS_IN
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.general import time_part
from selfimprove.report.judged_examples import Judged
from selfimprove.report.summary import length_means, stage_of, tau_of
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run

MakeRecipe = Callable[..., Recipe]
RANKING = Ranking("implicit reward", "nats", "M2", "M1", "kendall", "dyn")


def made(scores: dict[str, list[float | None]], cut: str = "") -> Responses:
    """Responses "a", "bb", "ccc", ... to each prompt; the right answer is "bb"; texts in `cut` are truncated."""
    prompts = {id: RenderedPrompt(id, (1,), f"ask {id}", "bb") for id in scores}
    rows = {}
    for id, values in scores.items():
        texts = ["abcdefg"[place] * (place + 1) for place in range(len(values))]
        rows[id] = [
            Response(id, place, (7,) * len(text), "length" if text[0] in cut else "stop", text)
            for place, text in enumerate(texts)
        ]
    return Responses(prompts, rows)


def figures(
    now: dict[str, list[float | None]], before: dict[str, list[float | None]] | None, mode: str = "dyn", **more: Any
) -> dict[str, Any]:
    responses = made(now, more.get("cut", ""))
    pairs, skipped = best_and_worst(responses, now, more.get("truncated", "keep"))
    agreement = {id: consistency(now[id], before[id]) for id in now} if before else None
    pairs = softened(pairs, agreement, mean=0.7) if agreement and mode == "dyn" else softened(pairs, more.get("c", 1.0))
    ranking = Ranking("implicit reward", "nats", "M2", "M1", "kendall", mode)
    return round_figures(responses, now, pairs, skipped, agreement, margins=[], ranking=ranking, before=before)


# ---- the two rankings


def test_tau_is_kendalls_of_both_rankings_by_prompt() -> None:
    now = {"p": [3.0, 2.0, 1.0], "q": [1.0, 2.0, 3.0], "tied": [1.0, 1.0, 1.0]}
    before = {"p": [3.0, 2.0, 1.0], "q": [1.0, 3.0, 2.0], "tied": [1.0, 2.0, 3.0]}
    event = figures(now, before)
    tau = event["rankings"]["tau"]
    assert tau["values"] == pytest.approx([1.0, 1 / 3]) and tau["undefined"] == 1
    assert (tau["mean"], tau["low"] <= tau["mean"] <= tau["high"]) == (pytest.approx(2 / 3), True)
    assert (event["rankings"]["current"], event["rankings"]["previous"]) == ("M2", "M1")
    assert [(e["tau"], e["consistency"]) for e in event["examples"]] == [
        (pytest.approx(1), pytest.approx(1)),
        (pytest.approx(1 / 3), pytest.approx(2 / 3)),
    ]


def test_without_a_second_ranking_there_is_no_tau() -> None:
    event = figures({"p": [3.0, 2.0]}, None)
    assert event["rankings"] is None and event["consistency"] is None and tau_of(event) is None
    assert event["examples"][0]["responses"][0]["previous"] is None


def test_examples_are_the_first_pairs_and_the_most_doubtful_of_the_others() -> None:
    now: dict[str, list[float | None]] = {f"p{i}": [1.0, 2.0, 3.0] for i in range(14)}
    before = {**now, "p3": [3.0, 2.0, 1.0], "p12": [3.0, 2.0, 1.0], "p9": [2.0, 1.0, 3.0]}
    picked = [(e["prompt"], e["picked"]) for e in figures(now, before)["examples"]]
    assert [prompt for prompt, _ in picked] == [f"ask p{i}" for i in (*range(8), 12, 9, 8)]
    assert [why for _, why in picked] == ["first"] * 8 + ["least agreement"] * 3


def test_an_example_holds_every_response_once() -> None:
    (example,) = figures({"p": [2.0, None, 1.0]}, {"p": [0.5, 0.4, 0.6]}, cut="c")["examples"]
    rows = example["responses"]
    assert [row["role"] for row in rows] == ["chosen", None, "rejected"]
    assert [row["text"] for row in rows] == [None, "bb", None], "chosen and rejected are written once"
    assert [row["right"] for row in rows] == [False, True, False]
    assert [row["truncated"] for row in rows] == [False, False, True]
    assert [row["reward"] for row in rows] == [2.0, None, 1.0] and [row["previous"] for row in rows] == [0.5, 0.4, 0.6]


# ---- why a pair was made


def example_of(event: dict[str, Any]) -> Judged:
    """The first example pair as the report shows it."""
    (group,) = pairs_part([{"event": "round", "round": 1, **event}]).examples
    return group.examples[0]


def why(now: list[float | None], before: list[float | None] | None = None, **more: Any) -> str:
    event = figures({"p": now}, {"p": before} if before else None, **more)
    return example_of(event).text


def test_why_names_places_ties_and_what_happened_to_the_label() -> None:
    assert why([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == (
        "Chosen: highest implicit reward of 3 (previous ranking: 2nd). Rejected: lowest implicit reward of 3 (previous "
        "ranking: 3rd). The two rankings agree with tau +0.33, and the label is softened to c = 0.67, this prompt's "
        "consistency."
    )
    assert "highest implicit reward of 3, which 1 more has" in why([3.0, 1.0, 3.0])
    assert "the label is softened to c = 0.81, the round's mean" in why([1.0, 2.0], [1.0, 2.0], mode="avg", c=0.81)
    assert "is turned round by c = 0.30" in why([1.0, 2.0], [2.0, 1.0], mode="avg", c=0.3)
    assert "softened to c = 0.70, the round's mean, as this prompt has none" in why([1.0, 2.0], [1.0, 1.0])
    assert "as the recipe says" in why([1.0, 2.0], [1.0, 2.0], mode="constant", c=0.9)
    assert why([1.0, 2.0], mode="none").endswith("of 2. The label is not softened.")


def test_why_tells_of_responses_that_do_not_count() -> None:
    found = why([1.0, 2.0, 3.0], cut="c", truncated="drop")
    assert found.startswith("Chosen: implicit reward in 2nd place of 3; the others do not count.")


def test_responses_are_shown_in_order_of_their_rank() -> None:
    event = figures({"p": [1.0, None, 3.0, 3.0]}, {"p": [4.0, 3.0, 2.0, 1.0]})
    example = example_of(event)
    assert example.all is not None
    assert [row[:3] for row in example.all.cells] == [
        ["1st", "3rd", "ccc"], ["1st", "4th", "dddd"], ["3rd", "1st", "a"], ["", "2nd", "bb"],
    ]  # fmt: skip
    assert [side.right for side in example.sides] == [False, False]
    assert example.sides[0].note == "reward +3.000, 1st · previous +2.000, 3rd"


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112, None)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th", "",
    ]  # fmt: skip


# ---- reward and length


def grown(slope: float, prompts: int = 60, seed: int = 0) -> list[list[tuple[float, int]]]:
    dice = np.random.default_rng(seed)
    groups = []
    for _ in range(prompts):
        lengths = dice.integers(5, 60, size=5)
        groups.append([(slope * length + dice.normal(), int(length)) for length in lengths])
    return groups


@pytest.mark.parametrize("slope", [-0.2, 0.0, 0.05])
def test_correlation_is_spearmans_with_an_interval_around_it(slope: float) -> None:
    groups = grown(slope)
    found = reward_by_length(groups)
    assert found is not None
    rewards, lengths = zip(*[one for group in groups for one in group], strict=True)
    assert found["value"] == pytest.approx(stats.spearmanr(rewards, lengths).statistic)
    assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert (found["low"] <= 0 <= found["high"]) == (slope == 0)
    assert sum(one["n"] for one in found["bins"]) == len(rewards)
    means = [one["length"] for one in found["bins"]]
    assert means == sorted(means) and all(one["low"] <= one["reward"] <= one["high"] for one in found["bins"])
    assert reward_by_length(groups) == found, "the same resamples every time"


def test_interval_draws_prompts_and_not_responses() -> None:
    groups = grown(0.02, prompts=12)
    copies = [group * 50 for group in groups]  # fifty times the responses are no more evidence
    few, many = reward_by_length(groups), reward_by_length(copies)
    assert few is not None and many is not None
    assert many["high"] - many["low"] == pytest.approx(few["high"] - few["low"], rel=0.05)


def test_correlation_of_what_is_constant_or_alone() -> None:
    assert reward_by_length([]) is None and reward_by_length([[], []]) is None
    assert reward_by_length([[(1.0, 3), (1.0, 4)]]) is None and reward_by_length([[(1.0, 3), (2.0, 3)]]) is None
    alone = reward_by_length([[(1.0, 3), (2.0, 4), (3.0, 6)]])
    assert alone is not None and alone["value"] == 1.0 and alone["low"] == alone["high"] == pytest.approx(1.0)
    huge = reward_by_length([[(1e9 + i, 1000 + i) for i in range(4)]] * 3)
    assert huge is not None and huge["value"] == pytest.approx(1.0)


def test_mean_lengths_of_lists_and_of_numbers() -> None:
    event = {"event": "round", "lengths": {"mean": 4.0, "chosen": [1, 3, None], "rejected": 5}}
    assert length_means(event) == {"mean": 4.0, "chosen": 2.0, "rejected": 5.0}
    assert length_means({"event": "round", "lengths": {"chosen": [], "rejected": None}}) == {}


# ---- time


def test_stages_are_told_apart_by_their_labels() -> None:
    steps = [("sample", "sample M1"), ("sample", "words with M1"), ("sample", "rubric (M1)"), ("sample", None)]
    steps += [("log_probs", "log-probs under M1"), ("dpo", "DPO M1 to M2"), ("new", "x")]
    found = [stage_of({"event": "step", "step": step, "label": label}) for step, label in steps]
    assert found == ["sampling", "evaluation", "judging", "sampling", "scoring", "DPO", "new"]


def test_share_of_the_floor_counts_only_steps_that_have_one() -> None:
    def step(seconds: float, tokens: int | None, floor: float | None, **more: Any) -> dict[str, Any]:
        return {
            "event": "step", "step": "dpo", "round": 1, "seconds": seconds, "tokens": tokens, "floor_seconds": floor,
            **more,
        }  # fmt: skip

    events = [step(10, 100, 5), step(30, None, None), step(99, 1, 1, reused=True), step(20, 400, None, step="sft")]
    (table,) = time_part(events).tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.cells]
    assert [(r["stage"], r["steps"], r["time"]) for r in rows] == [("DPO", "2", "40.0 s"), ("SFT", "1", "20.0 s")]
    assert (rows[0]["tokens per second"], rows[0]["share of the floor, %"]) == ("10", "50")
    assert (rows[1]["tokens per second"], rows[1]["share of the floor, %"]) == ("20", "")


# ---- whole runs


@pytest.mark.parametrize(
    ("recipe", "made_so_far", "expected"),
    [
        ({"method": "cream"}, ["M1", "M2"], ("implicit reward", "M1", "M0's likelihood per token", "avg")),
        ({"method": "cream"}, ["M1", "M2", "M3"], ("implicit reward", "M2", "M1", "avg")),
        ({"method": "srlm"}, ["M1", "M2", "M3"], ("implicit reward", "M2", "M1", "none")),
        ({"method": "iterative_dpo", "judge": "exact_match"}, ["M1"], ("exact match", "M0", "M0", "none")),
    ],
)
def test_a_round_names_whose_rankings_are_compared(
    recipe: dict[str, str], made_so_far: list[str], expected: tuple[str, ...], tiny_recipe: MakeRecipe
) -> None:
    changes: dict[str, Any] = {}
    if recipe["method"] == "iterative_dpo":
        changes["iterative_dpo"] = {"judge": {"kind": recipe["judge"]}, "sft": False}
    record = Record(tiny_recipe(recipe["method"], **changes), None, None, None)  # type: ignore[arg-type]
    record.made = [SimpleNamespace(name=name) for name in made_so_far]  # type: ignore[misc]
    stands_in = _STANDS_IN["likelihood"] if recipe["method"] == "cream" else None
    found = record._ranking(True, "kendall", expected[-1], stands_in)
    assert (found.judge, found.current, found.previous, found.mode) == expected


def test_a_round_that_trained_nothing_keeps_its_names(tiny_recipe: MakeRecipe) -> None:
    record = Record(tiny_recipe("cream", cream={"floor": True}), None, None, None)  # type: ignore[arg-type]
    record.made = [SimpleNamespace(name="M1")]  # type: ignore[list-item]
    found = record._ranking(False, "kendall", "avg", _STANDS_IN["likelihood"])
    assert (found.current, found.previous) == ("M1", "M0's likelihood per token")


@pytest.mark.parametrize("method", ["cream", "srlm"])
def test_a_whole_run_reports_both_rankings(method: str, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(method)
    result = run(recipe, Progress(Console(file=io.StringIO())))
    rounds = [event for event in result.events if event["event"] == "round"]
    assert [event["rankings"] is not None for event in rounds] == [method == "cream", True]
    for event in rounds:
        if event["rankings"]:
            assert np.mean(event["rankings"]["tau"]["values"]) == pytest.approx(2 * event["consistency"]["mean"] - 1)
            assert all(row["previous"] is not None for one in event["examples"] for row in one["responses"])
        assert {len(one["responses"]) for one in event["examples"]} == {recipe.sampling.n}
    against = [
        (event["policy"], (event["paired"] or {}).get("against"), (event["paired_previous"] or {}).get("against"))
        for event in result.events
        if event["event"] == "evaluation"
    ]
    assert against == [("M0", None, None), ("M1", "M0", "M0"), ("M2", "M1", "M1"), ("M3", "M1", "M2")]
    page = Path(result.report).read_text(encoding="utf-8")
    assert "Do two successive models rank alike?" in page and "All 3 responses in both rankings" in page
