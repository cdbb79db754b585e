"""STaR and Pair-SFT: which traces are kept, that they are trained token for token, and what stops a run."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import Artefact, Store, read_rows
from selfimprove.errors import GateError, RunFailed
from selfimprove.loop.loop import Loop
from selfimprove.methods.star import Star, keep
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.recipe.sections import INSTRUCTION
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result

MakeRecipe = Callable[..., Recipe]
AGAIN = "Again."


def go(recipe: Recipe) -> Result:
    return run(recipe, Progress(Console(file=io.StringIO())))


# ---- which traces are kept

R, W, M = True, False, None  # right, wrong, missing


def kept(first: list[bool | None], second: list[bool | None], seed: int = 0, **options: Any) -> list[tuple[int, Any]]:
    return keep(first, second, Star(**options), random.Random(seed))


def test_star_keeps_wrong_attempts_that_were_corrected() -> None:
    first, second = [W, R, W, W, R, W], [R, R, W, R, W, R]
    assert kept(first, second) == [(0, (2, 0)), (3, (2, 3)), (5, (2, 5))]
    assert kept(first, second, most_per_prompt=2) == [(0, (2, 0)), (3, (2, 3))]
    assert kept([R, W], [W, W]) == [] == kept([R], [R]) == kept([], [])


def test_right_to_right_adds_what_stayed_right_after_the_corrections() -> None:
    first, second = [R, W, R, W], [R, R, W, W]
    assert kept(first, second, right_to_right=True) == [(1, (2, 1)), (0, (2, 0))]
    assert kept(first, second, right_to_right=True, most_per_prompt=1) == [(1, (2, 1))]


def test_pairs_put_a_right_answer_of_either_turn_behind_every_wrong_one() -> None:
    first, second = [W, R, W, W], [W, W, R, W]
    right = {(1, 1), (2, 2)}
    drawn = Counter(answer for seed in range(200) for _, answer in kept(first, second, seed, traces="pairs"))
    assert set(drawn) == right and min(drawn.values()) > 200
    assert [start for start, _ in kept(first, second, traces="pairs")] == [0, 2, 3]
    assert kept(first, second, 5, traces="pairs") == kept(first, second, 5, traces="pairs")
    assert len(kept(first, second, traces="pairs", most_per_prompt=2)) == 2
    # with right first attempts too, which may stand before themselves
    both = [kept([R, W], [W, W], seed, traces="pairs", right_to_right=True) for seed in range(5)]
    assert both == [[(1, (1, 0)), (0, (1, 0))]] * 5
    assert kept([W, W], [W, W], traces="pairs") == []


def test_what_is_missing_is_in_no_trace() -> None:
    assert kept([M, W, W], [R, M, R], right_to_right=True) == [(2, (2, 2))]
    pairs = kept([M, W], [M, M], traces="pairs", right_to_right=True)
    assert pairs == [] and kept([M, W], [R, M], traces="pairs") == [(1, (2, 0))]


# ---- whole runs of a tiny model


def mostly(prompt: str, response: str, answer: str | None) -> float:
    """A reward that the tiny model meets now and then, and that fails now and then."""
    code = ord(response[0]) if response else 1
    if code % 7 == 0:
        raise ValueError("no luck")
    return float(code % 3 > 0)


def never(prompt: str, response: str, answer: str | None) -> float:
    return 0.0


def broken(prompt: str, response: str, answer: str | None) -> float:
    raise RuntimeError("no luck")


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers often end."""
    folder = save_tiny_model(tmp_path_factory.mktemp("talking") / "talking", seed=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[2] *= 2
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def star_recipe(tiny_recipe: MakeRecipe, talking: Path) -> MakeRecipe:
    def make(**changes: Any) -> Recipe:
        own = {"reward": {"kind": "function", "function": "test_star:mostly"}, "instruction": AGAIN}
        return tiny_recipe(
            "star", **{"model": str(talking), "evaluate": [], **changes, "star": {**own, **changes.get("star", {})}}
        )

    return make


def steps_of(recipe: Recipe, step: str) -> list[Artefact]:
    store = Store(Path(recipe.store) if recipe.store else Path(recipe.output) / "steps")
    return [artefact for artefact in store.all() if artefact.manifest["step"] == step]


def labelled(recipe: Recipe, label: str) -> Artefact:
    (found,) = [artefact for artefact in steps_of(recipe, "sample") if artefact.manifest["label"] == label]
    return found


def given(artefact: Artefact, name: str) -> list[dict[str, Any]]:
    return read_rows(artefact.folder / "inputs" / f"{name}.arrow")


def traces_of(result: Result) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == "traces"]


def value(row: dict[str, Any]) -> float | None:
    """The reward as the function says it; a response that was cut off is wrong."""
    if row["finish"] == "length":
        return 0.0
    try:
        return mostly("", row["text"], None)
    except ValueError:
        return None


@pytest.mark.parametrize("traces", ["corrections", "pairs"])
@pytest.mark.parametrize("right_to_right", [False, True])
def test_the_trained_ids_are_those_that_were_read_and_written(
    star_recipe: MakeRecipe, talking: Path, traces: str, right_to_right: bool
) -> None:
    most = 6 if right_to_right else 3
    options = {"traces": traces, "right_to_right": right_to_right, "most_per_prompt": most}
    recipe = star_recipe(star=options, rounds=1, sampling={"n": 6}, data={"prompts_per_round": 12})
    result = go(recipe)

    one, two = labelled(recipe, "sample M0"), labelled(recipe, "second attempts of M0")
    asked, read = ({row["prompt_id"]: row["prompt_ids"] for row in given(step, "prompts")} for step in (one, two))
    first = {f"{row['prompt_id']}|{row['index']}": row for row in one.rows()}
    second = {row["prompt_id"]: row for row in two.rows()}
    assert len(first) == len(second) == 12 * 6
    tokenizer = AutoTokenizer.from_pretrained(talking)
    for id, row in first.items():  # x2 is x1 and y1, token for token, and the instruction
        before = [*asked[row["prompt_id"]], *row["ids"]]
        assert read[id][: len(before)] == before
        closed = "" if row["finish"] == "stop" else "<|im_end|>"
        turn = f"{closed}\n<|im_start|>user\n{AGAIN}<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.decode(read[id][len(before) :]) == turn

    transitions, expected, pools = Counter[tuple[float | None, float | None]](), [], []
    for prompt_id in asked:
        ids = [f"{prompt_id}|{n}" for n in range(6)]
        values = [(value(first[id]), value(second[id])) for id in ids]
        transitions.update(values)
        pool = [first[id]["ids"] for id, (a, _) in zip(ids, values, strict=True) if a == 1]
        pool += [second[id]["ids"] for id, (_, b) in zip(ids, values, strict=True) if b == 1]
        for start in (0.0, 1.0) if right_to_right else (0.0,):
            for id, (a, b) in zip(ids, values, strict=True):
                if a == start and (pool if traces == "pairs" else b == 1):
                    expected.append((prompt_id, read[id], second[id]["ids"]))
                    pools.append(pool)
    cut = [n for n, row in enumerate(expected) if sum(one[0] == row[0] for one in expected[:n]) < most]
    (trained,) = steps_of(recipe, "sft")
    rows = given(trained, "examples")
    assert len(rows) == len(cut) > 5 and set(rows[0]) == {"prompt_ids", "response_ids"}
    assert [row["prompt_ids"] for row in rows] == [expected[n][1] for n in cut]
    if traces == "corrections":
        assert [row["response_ids"] for row in rows] == [expected[n][2] for n in cut]
    else:
        assert all(row["response_ids"] in pools[n] for row, n in zip(rows, cut, strict=True))
        assert any(row["response_ids"] != expected[n][2] for row, n in zip(rows, cut, strict=True))
    assert all(row["response_ids"][-1] == 2 for row in rows), "an answer that was cut off is trained"

    (event,) = traces_of(result)
    names = {(0, 1): "incorrect_to_correct", (1, 0): "correct_to_incorrect", (1, 1): "correct_to_correct"}
    for key, name in {**names, (0, 0): "incorrect_to_incorrect"}.items():
        assert event["transitions"][name] == transitions[key], name
    assert event["kept"] == len(rows) == event["corrections"] + event["right_to_right"]
    assert (event["right_to_right"] > 0) == right_to_right
    missing = sum(value(row) is None for row in [*first.values(), *second.values()])
    assert sum(event["missing"].values()) == missing > 0
    assert (event["round"], event["policy"], event["traces"], event["prompts"]) == (1, "M0", traces, 12)
    assert event["attempts"] == 144
    cut_off = [sum(row["finish"] == "length" for row in side.values()) for side in (first, second)]
    assert [event["failures"][f"turn_{turn}"].get("truncated", 0) for turn in (1, 2)] == cut_off and min(cut_off) > 0


@pytest.mark.parametrize("restart", [True, False])
def test_each_round_trains_the_base_or_the_last_policy(star_recipe: MakeRecipe, restart: bool) -> None:
    recipe = star_recipe(star={"restart": restart, "right_to_right": True}, evaluate=["suite.yaml"])
    result = go(recipe)
    trainings = {event["policy"]: event for event in result.events if event["event"] == "training"}
    assert list(trainings) == ["M1", "M2"]
    base = resolve_policy(recipe.model).digest
    starts = [trainings[name]["start_digest"] for name in ("M1", "M2")]
    assert starts == [base, base if restart else trainings["M1"]["policy_digest"]]
    assert [event["policy"] for event in traces_of(result)] == ["M0", "M1"]  # the current policy's own traces
    prompts = [given(labelled(recipe, f"sample {name}"), "prompts") for name in ("M0", "M1")]
    assert not {row["prompt_id"] for row in prompts[0]} & {row["prompt_id"] for row in prompts[1]}
    evaluated = [(e["policy"], e["round"]) for e in result.events if e["event"] == "evaluation"]
    assert evaluated == [("M0", 0), ("M1", 1), ("M2", 2)]
    assert result.policy is not None and result.policy.digest == trainings["M2"]["policy_digest"]
    made = result.report.read_text()
    assert "Which traces were kept?" in made

    count = len(steps_of(recipe, "sft"))
    again = go(recipe)
    assert len(steps_of(recipe, "sft")) == count == 2 and traces_of(again) == traces_of(result)


def test_a_copy_is_as_right_as_the_attempt_it_copies(star_recipe: MakeRecipe) -> None:
    """Both turns of a prompt are checked in one step."""
    recipe = star_recipe(rounds=1, star={"right_to_right": True})
    go(recipe)
    (checked,) = steps_of(recipe, "rewards")
    rows = given(checked, "texts")
    assert len(rows) == 8 * 3 * 2 and {row["index"] for row in rows} == set(range(6))
    assert {row["prompt"] for row in rows} <= {f"Say {row['answer']} {n}" for row in rows for n in (1, 2)}


def test_no_trace_ends_the_run_and_says_what_there_was(star_recipe: MakeRecipe) -> None:
    recipe = star_recipe(star={"reward": {"kind": "function", "function": "test_star:never"}})
    said = r"round 1: no trace is left .*incorrect to incorrect 24, of 24 traces\)\. Raise sampling\.n"
    with pytest.raises(RunFailed, match=said):
        go(recipe)
    events = (Path(recipe.output) / "metrics.jsonl").read_text()
    assert '"event": "traces"' in events and '"kept": 0' in events


def test_a_checker_that_fails_stops_the_run(star_recipe: MakeRecipe) -> None:
    recipe = star_recipe(star={"reward": {"kind": "function", "function": "test_star:broken"}})
    with pytest.raises(GateError, match=r"judge_health.*share of scores that are missing is 1\.00"):
        go(recipe)


def test_an_answer_that_ends_with_the_tokenizers_own_end_passes_the_rendering(
    tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("sft", evaluate=[])
    with EventLog(Path(recipe.output)) as log:
        loop = Loop(recipe, Store(Path(recipe.output) / "steps"), log, Progress(Console(file=io.StringIO())))
        loop.stops = [2, 0]
        trained: list[Any] = []

        def train(step: str, start: Any, options: Any, name: str, rows: list[Any]) -> Any:
            trained.append(rows)
            raise RunFailed("enough")

        monkeypatch.setattr(loop, "train", train)
        rows = [{"prompt_ids": loop.data.seed_examples[0]["prompt_ids"], "response_ids": [70, 71, 0]}]
        with pytest.raises(RunFailed, match="enough"):
            loop.sft(loop.base_policy, rows)
        assert trained == [rows]
        with pytest.raises(GateError, match="do not end with the end-of-turn"):
            loop.sft(loop.base_policy, [{**rows[0], "response_ids": [70, 71]}])


def test_the_defaults_are_the_papers(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe("star")
    assert recipe.star == Star(instruction=INSTRUCTION, traces="corrections", restart=True, right_to_right=False)
    assert (recipe.sampling.temperature, recipe.rounds) == (1.0, 2)
