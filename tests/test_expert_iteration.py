"""Expert iteration: what is accepted and kept, its controls, that it trains what it kept, and what stops it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS, write_jsonl
from kill_and_resume import kill_and_compare
from rich.console import Console

from selfimprove.artefacts import Artefact, Store, read_rows
from selfimprove.data.rows import RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.gates import drifted
from selfimprove.judging.judges import judge_responses, lenient_scores
from selfimprove.loop.loop import Loop
from selfimprove.methods.expert_iteration.expert_iteration import accepted_of, kept_of, pairs_of, trained_rows
from selfimprove.methods.expert_iteration.options import ExpertIteration
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.outcome import ORACLE, outcome_sentences
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.outcome import Outcome

MakeRecipe = Callable[..., Recipe]


def go(recipe: Recipe) -> Result:
    return run(recipe, Progress(Console(file=io.StringIO())))


def told(recipe: Recipe) -> tuple[Result, list[str]]:
    """The result, and what a person was told while it ran."""
    said = io.StringIO()
    result = run(recipe, Progress(Console(file=said, width=1000)))
    return result, said.getvalue().splitlines()


# ---- which responses are accepted and kept


def responses_of(**by_prompt: list[str]) -> Responses:
    """Responses of these texts; one that ends with … was cut off."""
    rows = {
        id: [Response(id, i, (i, 2), "length" if text.endswith("…") else "stop", text) for i, text in enumerate(texts)]
        for id, texts in by_prompt.items()
    }
    return Responses({id: RenderedPrompt(id, (1,), f"ask {id}", group=id) for id in rows}, rows)


SAID = responses_of(a=["one", "two", "ONE ", "cut…"], b=["x", "y", "z", "w"], c=["p", "q", "r", "s"])
SCORES: Scores = {"a": [1.0, 0.0, 1.0, 1.0], "b": [None, 0.7, 0.9, 0.2], "c": [0.0, 0.0, None, 0.1]}


def options(**given: Any) -> ExpertIteration:
    return ExpertIteration.model_validate({"judge": {"kind": "exact_match"}, **given})


def accepted(**given: Any) -> set[tuple[str, int]]:
    return accepted_of(SAID, SCORES, options(**given))


def kept(**given: Any) -> dict[str, list[str]]:
    found = kept_of(SAID, SCORES, accepted(**given), options(**given))
    return {one.prompt.id: [response.text for response in one.accepted] for one in found}


def test_a_threshold_accepts_what_scores_enough_and_ended() -> None:
    assert accepted() == {("a", 0), ("a", 2), ("b", 1), ("b", 2)}
    assert accepted(judge={"kind": "exact_match", "right_from": 0.8}) == {("a", 0), ("a", 2), ("b", 2)}


def test_the_best_of_a_prompt_are_accepted_whatever_they_score() -> None:
    assert accepted(accept="best") == {("a", 0), ("a", 2), ("b", 2), ("c", 3)}


def test_the_top_share_is_of_all_that_ended_and_have_a_score() -> None:
    known = 9  # of 12: one was cut, two are missing
    for share in (0.1, 0.5, 1.0):
        assert len(accepted(accept="top_share", top_share=share)) == round(share * known)
    assert accepted(accept="top_share", top_share=0.3) == {("a", 0), ("a", 2), ("b", 2)}


def test_of_a_prompt_s_accepted_ones_the_best_distinct_ones_are_kept() -> None:
    assert kept() == {"a": ["one"], "b": ["z", "y"]}
    assert kept(distinct=False) == {"a": ["one", "ONE "], "b": ["z", "y"]}
    assert kept(distinct=False, most_per_prompt=1) == {"a": ["one"], "b": ["z"]}


def test_a_text_that_comes_again_stays_where_it_was_best() -> None:
    said = responses_of(a=["A", "B", "C", "a"])
    everything = {("a", place) for place in range(4)}

    def kept_first(scores: list[float | None], most: int) -> list[str]:
        (one,) = kept_of(said, {"a": scores}, everything, options(most_per_prompt=most))
        return [response.text for response in one.accepted]

    assert kept_first([1.0, 1.0, 1.0, 1.0], 2) == ["A", "B"]
    assert kept_first([0.9, 0.6, 0.5, 0.7], 1) == ["A"] and kept_first([0.1, 0.6, 0.5, 0.7], 1) == ["a"]


def test_an_oracle_accepts_from_where_the_judge_behind_it_does() -> None:
    behind = {"kind": "exact_match", "right_from": 0.8}
    assert accepted(judge={"kind": "oracle", "of": behind}) == accepted(judge=behind) != accepted()


def test_mixed_only_drops_prompts_whose_responses_were_all_accepted() -> None:
    everything = {"judge": {"kind": "exact_match", "right_from": 0.0}, "distinct": False}
    assert set(kept(**everything)) == {"a", "b", "c"}
    assert kept(**everything, mixed_only=True) == {}
    assert set(kept(mixed_only=True)) == {"a", "b"}


def test_pairs_are_of_the_same_prompt_the_best_against_the_worst() -> None:
    found = kept_of(SAID, SCORES, accepted(), options())
    pairs = pairs_of(found, SCORES)
    assert [(p.prompt.id, p.chosen.text, p.rejected.text) for p in pairs] == [
        ("a|0", "one", "two"),
        ("b|0", "z", "w"),
        ("b|1", "y", "w"),  # there is one refused response: x has no score, so it is no refused one
    ]
    assert [(p.chosen_reward, p.rejected_reward) for p in pairs] == [(1.0, 0.0), (0.9, 0.2), (0.7, 0.2)]
    same = responses_of(a=["Yes.", "yes. ", "no"])
    (kept,) = kept_of(same, {"a": [1.0, 0.0, 0.0]}, {("a", 0)}, options())
    assert [(p.chosen.text, p.rejected.text) for p in pairs_of([kept], {"a": [1.0, 0.0, 0.0]})] == [("Yes.", "no")]
    (kept,) = kept_of(same, {"a": [1.0, 0.0, None]}, {("a", 0)}, options())
    assert pairs_of([kept], {"a": [1.0, 0.0, None]}) == []  # the same text would be on both sides


def rows(*numbers: int) -> list[dict[str, list[int]]]:
    return [{"prompt_ids": [n], "response_ids": [n]} for n in numbers]


def test_replay_brings_a_share_of_every_earlier_round_back() -> None:
    by_round = [rows(1, 2, 3, 4), rows(5, 6), rows(7)]
    assert trained_rows(by_round, options(), 0) == rows(7)
    again = trained_rows(by_round, options(replay=0.5), 0)
    assert again[0] == rows(7)[0] and len(again) == 1 + 2 + 1
    assert again == trained_rows(by_round, options(replay=0.5), 0) != trained_rows(by_round, options(replay=0.5), 2)
    everything = trained_rows(by_round, options(replay=1.0), 0)
    assert sorted(row["prompt_ids"][0] for row in everything) == [1, 2, 3, 4, 5, 6, 7]


def test_the_compute_matched_control_trains_round_one_again_as_many_rows_as_this_round_kept() -> None:
    control = options(rows="first_round")
    assert trained_rows([rows(1, 2)], control, 0) == rows(1, 2)
    assert trained_rows([rows(1, 2), rows(5, 6, 7, 8, 9)], control, 0) == rows(1, 2, 1, 2, 1)
    assert trained_rows([rows(1, 2), rows(5)], control, 0) == rows(1)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"judge": "likelihood"}, "needs `judge.right_from`"),
        ({"judge": {"kind": "incorrect"}}, "needs `of`"),
        ({"judge": "oracle"}, "needs `of`"),
        ({"judge": {"kind": "majority", "of": "exact_match"}}, "`of` belongs to"),
        ({"judge": {"kind": "random", "rate": 0.5, "of": "exact_match"}}, "takes one of `rate` and `of`"),
        ({"judge": {"kind": "oracle", "of": {"kind": "random", "of": "math"}}}, "has no `of` of its own"),
        ({"top_share": 0.2}, "is for accept: top_share"),
        ({"rows": "first_round", "replay": 1.0}, "leave `replay` and `pairs` out"),
        ({"pairs": True, "replay": 1.0}, "leave one of them out"),
        ({"pairs": True, "rows": "first_round"}, "leave `replay` and `pairs` out"),
        ({"accept": "best", "judge": {"kind": "random", "of": "exact_match"}}, "take accept: threshold"),
        ({"judge": {"kind": "oracle", "of": "likelihood"}}, "needs `judge.right_from`"),
        ({"judge": {"kind": "random", "of": {"kind": "rubric", "rubric": "x"}}}, "needs `judge.right_from`"),
        ({"jugde": "random"}, "did you mean `judge`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tiny_recipe: MakeRecipe, section: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        tiny_recipe("expert_iteration", expert_iteration=section)


def test_a_judge_may_be_bare_text() -> None:
    def judge(text: str) -> JudgeOptions:
        return JudgeOptions.model_validate(text)

    assert judge("constraints").kind == "constraints"
    assert (judge("mine.py:good").kind, judge("mine.py:good").function) == ("function", "mine.py:good")
    assert (judge("package.module:good").kind, judge("runs/x/judge").kind) == ("function", "rubric")


# ---- whole runs of a tiny model that ends its sentences


@pytest.fixture
def expert_recipe(tiny_recipe: MakeRecipe, tiny_data: Path, writing_model: Path) -> MakeRecipe:
    """Two rounds of six prompts, four responses each, which end with one of two words or do not."""
    asked = [
        {
            "prompt": f"Tell of {word}.",
            "group": word[0],
            "constraints": [{"kind": "words_at_most", "n": 3}],
            "limit": 3,
        }
        for word in WORDS
    ]
    write_jsonl(tiny_data / "asked.jsonl", asked)
    (tiny_data / "mine.py").write_text("def short(response):\n    return len(response.split()) <= 3\n")
    suite = {"suite": "mine", "kind": "checked", "data": "held.jsonl", "function": "mine.py:short"}
    write_jsonl(tiny_data / "held.jsonl", [{"prompt": f"Say of {word}.", "group": "all"} for word in WORDS[:6]])

    def make(**changes: Any) -> Recipe:
        given: dict[str, Any] = {
            "model": str(writing_model),
            "rounds": 2,
            "data": {"prompts": "asked.jsonl", "prompts_per_round": 6},
            "sampling": {"n": 4, "max_new_tokens": 40},
            "expert_iteration": {"judge": "constraints"},
            "evaluate": [suite | {"max_new_tokens": 30}],
            "gates": {"disabled": ["degeneration"]},
        }
        for name, value in changes.items():
            given[name] = {**given[name], **value} if isinstance(given.get(name), dict) else value
        return tiny_recipe("expert_iteration", **given)

    return make


def steps_of(recipe: Recipe, step: str) -> list[Artefact]:
    store = Store(Path(recipe.store) if recipe.store else Path(recipe.output) / "steps")
    return [artefact for artefact in store.all() if artefact.manifest["step"] == step]


def events_of(result: Result, kind: str) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == kind]


def test_it_trains_the_very_tokens_that_it_kept(expert_recipe: MakeRecipe) -> None:
    recipe = expert_recipe()
    result = go(recipe)
    drawn = steps_of(recipe, "sample")
    first, second = (one for one in drawn if one.manifest["label"].startswith("sample "))
    sampled = {tuple(row["ids"]) for one in (first, second) for row in one.rows() if row["finish"] == "stop"}
    short = {
        tuple(row["ids"])
        for one in (first, second)
        for row in one.rows()
        if row["finish"] == "stop" and len(row["text"].split()) <= 3
    }
    trained = [
        tuple(row["response_ids"])
        for one in steps_of(recipe, "sft")
        for row in read_rows(one.folder / "inputs" / "examples.arrow")
    ]
    assert trained and set(trained) <= short < sampled
    rounds = events_of(result, "acceptance")
    assert [event["round"] for event in rounds] == [1, 2] and sum(event["kept"] for event in rounds) == len(trained)
    for event in rounds:
        assert event["responses"] == 24 and event["kept"] <= event["accepted"]
        assert event["pass_1"] == event["accepted_share"]
        assert event["pass_1"]["value"] == pytest.approx(event["accepted"] / 24)
        assert event["lenient_1"]["value"] >= event["pass_1"]["value"] and event["entropy"]["value"] > 0
        assert sum(prompts for _, prompts in event["without"].values()) == 6
    page = result.report.read_text()
    assert "What was accepted?" in page and "mine: M0" in page  # the first line says what came of it


def test_every_round_trains_the_base_again_or_goes_on(expert_recipe: MakeRecipe) -> None:
    def starts(restart: str) -> list[str]:
        recipe = expert_recipe(expert_iteration={"restart": restart}, output=f"out-{restart}", evaluate=[])
        recipe = recipe.model_copy(update={"output": str(Path(recipe.folder) / f"run-{restart}")})
        go(recipe)
        return [one.manifest["policy_digests"]["start"] for one in steps_of(recipe, "sft")]

    base, current = starts("base"), starts("current")
    assert len(set(base)) == 1 and len(set(current)) == 2 and set(base) < set(current)


def test_pairs_of_the_same_samples_are_trained_by_dpo(expert_recipe: MakeRecipe) -> None:
    recipe = expert_recipe(expert_iteration={"pairs": True}, rounds=1, evaluate=[])
    go(recipe)
    (dpo,) = steps_of(recipe, "dpo")
    pairs = read_rows(dpo.folder / "inputs" / "pairs.arrow")
    assert pairs and all(len(row["chosen"].split()) <= 3 < len(row["rejected"].split()) for row in pairs)
    assert dpo.manifest["options"]["reference_is_start"] and not steps_of(recipe, "sft")


def test_a_killed_run_ends_as_an_undisturbed_one(expert_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = expert_recipe(training={"checkpoint_steps": 1, "batch_size": 2}, sft={"epochs": 2})
    file = Path(recipe.folder) / "recipe.yaml"
    file.write_text(recipe.as_yaml())
    killed, undisturbed = kill_and_compare(str(file), tmp_path / "work", 3, 7.0, 1, [])
    assert killed == undisturbed


def test_nothing_accepted_says_which_kinds_and_trains_nothing(expert_recipe: MakeRecipe) -> None:
    recipe = expert_recipe(expert_iteration={"judge": {"kind": "random", "rate": 0.0}}, evaluate=[])
    with pytest.raises(RunFailed, match=r"round 1: no response was accepted.*prompts with none: .*\(\d prompts\)"):
        go(recipe)
    assert not steps_of(recipe, "sft")


def test_a_held_out_prompt_among_the_prompts_is_a_leak(expert_recipe: MakeRecipe, tiny_data: Path) -> None:
    write_jsonl(tiny_data / "held.jsonl", [{"prompt": "tell of  CAT!"}, {"prompt": "Say of sun."}])
    with pytest.raises(GateError, match="no_leak"):
        go(expert_recipe())


# ---- controls


@pytest.fixture
def make_loop(expert_recipe: MakeRecipe) -> Callable[..., Loop]:
    def make(**changes: Any) -> Loop:
        recipe = expert_recipe(evaluate=[], **changes)
        folder = Path(recipe.output)
        return Loop(recipe, Store(folder / "steps"), EventLog(folder), Progress(Console(file=io.StringIO())))

    return make


def judged(loop: Loop, judge: Any, responses: Responses = SAID) -> tuple[Scores, dict[str, int]]:
    return judge_responses(loop, JudgeOptions.model_validate(judge), responses, loop.base_policy)


def with_answers(responses: Responses, answer: str) -> Responses:
    asked = {p.id: RenderedPrompt(p.id, p.prompt_ids, p.text, answer) for p in responses.prompts.values()}
    return Responses(asked, responses.by_prompt)


def test_the_placebo_accepts_as_many_finished_responses_as_the_judge_that_it_stands_for(
    make_loop: Callable[..., Loop],
) -> None:
    said = responses_of(**{f"p{n}": ["yes", "no", "maybe", "so…"] for n in range(40)})
    said = with_answers(said, "yes")
    drawn = []
    for seed in (0, 1):
        loop = make_loop(seed=seed)
        right, _ = judged(loop, "exact_match", said)
        random, missing = judged(loop, {"kind": "random", "of": "exact_match"}, said)
        assert sum(map(sum, random.values())) == sum(map(sum, right.values())) == 40 and not missing  # type: ignore[arg-type]
        assert all(row[3] == 0.0 for row in random.values())  # cut off: no judge would accept it
        assert random == judged(loop, {"kind": "random", "of": "exact_match"}, said)[0]
        drawn.append(random)
        half, _ = judged(loop, {"kind": "random", "rate": 0.5}, said)
        assert sum(map(sum, half.values())) == 60  # type: ignore[arg-type]
    assert drawn[0] != drawn[1]
    hits = sum(row[0] for row in drawn[0].values())  # type: ignore[misc]
    assert 4 < hits < 24  # of 40 drawn from 120 about 13 are right


def test_incorrect_accepts_what_the_judge_refuses_and_missing_stays_missing(make_loop: Callable[..., Loop]) -> None:
    said = with_answers(responses_of(a=["yes", "no"]), "yes")
    nothing = responses_of(b=["yes", "no"])
    both = Responses({**said.prompts, **nothing.prompts}, {**said.by_prompt, **nothing.by_prompt})
    scores, missing = judged(make_loop(), {"kind": "incorrect", "of": "exact_match"}, both)
    assert scores == {"a": [0.0, 1.0], "b": [None, None]}
    assert missing == {"the prompt has no reference answer": 2}


def test_format_accepts_whatever_ended_and_says_something(make_loop: Callable[..., Loop]) -> None:
    assert judged(make_loop(), "format", responses_of(a=["x", " ", "y…"]))[0] == {"a": [1.0, 0.0, 0.0]}


def test_an_oracle_is_named_in_the_first_and_the_last_line(expert_recipe: MakeRecipe) -> None:
    recipe = expert_recipe(expert_iteration={"judge": {"kind": "oracle", "of": "constraints"}}, rounds=1)
    result, said = told(recipe)
    assert said[0] == ORACLE and result.kept.endswith(ORACLE)
    assert "ORACLE" in result.report.read_text()
    plain, _ = told(expert_recipe(rounds=1, output=str(Path(recipe.output).parent / "plain")))
    assert "ORACLE" not in plain.kept
    accepted = [events_of(one, "acceptance")[0]["accepted"] for one in (result, plain)]
    assert accepted[0] == accepted[1]  # here the program is the truth


def test_lenient_scores_forgive_the_form() -> None:
    said = with_answers(responses_of(a=["The answer is yes.", "yes", "no", "yes…"]), "yes")
    exact = JudgeOptions(kind="exact_match")
    assert lenient_scores(exact, said) == {"a": [1.0, 1.0, 0.0, 0.0]}
    assert lenient_scores(JudgeOptions(kind="majority"), said) is None


# ---- the user's function


def write_checker(folder: Path, body: str) -> None:
    (folder / "mine.py").write_text(f"import math, time\n\n\ndef short({body}\n")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("response):\n    raise KeyError(response)", "the function raised KeyError"),
        ("response):\n    return math.nan", "the function's score is not finite"),
        ("response):\n    return None", "the function returned None"),
        ("response):\n    return 'good'", "the function returned str, not a number"),
        ("response):\n    time.sleep(60)", "the function took more than 0.2 s (`seconds`)"),
        ("response):\n    while 1:\n        try: time.sleep(9)\n        except Exception: pass",
         "the function took more than 0.2 s (`seconds`)"),
        ("response):\n    raise SystemExit", "the function raised SystemExit"),
        ("response):\n    return 10 ** 400", "the function returned int, not a number"),
        ("response):\n    from nowhere_at_all import x", "the function raised ModuleNotFoundError"),
        ("response):\n    for _ in range(99):\n        try: time.sleep(9)\n        except: pass\n    return 1",
         "the function took more than 0.2 s (`seconds`)"),
    ],
)  # fmt: skip
def test_what_a_checker_fails_at_is_missing_and_never_wrong(
    make_loop: Callable[..., Loop], tiny_data: Path, body: str, reason: str
) -> None:
    loop = make_loop()
    write_checker(tiny_data, body)
    judge = {"kind": "function", "function": "mine.py:short", "seconds": 0.2}
    scores, missing = judged(loop, judge, responses_of(a=["x"], b=["y"]))
    assert scores == {"a": [None], "b": [None]} and missing == {reason: 2}


def test_a_checker_that_mostly_fails_stops_the_run(expert_recipe: MakeRecipe, tiny_data: Path) -> None:
    write_checker(tiny_data, "response):\n    raise KeyError(response)")
    recipe = expert_recipe(expert_iteration={"judge": "mine.py:short"}, evaluate=[])
    with pytest.raises(GateError, match=r"judge_health.*missing"):
        go(recipe)


def test_a_checker_reads_what_it_names(make_loop: Callable[..., Loop], tiny_data: Path) -> None:
    asked = RenderedPrompt("a", (1,), "ask a", "yes", row={"limit": 2, "tags": ["x"]})
    said = Responses({"a": asked}, {"a": [Response("a", 0, (1, 2), "stop", "so")]})
    (tiny_data / "beside.py").write_text("value = 3.5\n")
    for body, value in (
        ("response, row):\n    return row['limit'] + len(row['tags'])", 3.0),
        ("prompt, response):\n    return (prompt, response) == ('ask a', 'so')", 1.0),
        ("answer):\n    return answer == 'yes'", 1.0),
        ("question, said, truth):\n    return [question, said, truth] == ['ask a', 'so', 'yes']", 1.0),
        ("response, *, weight=7):\n    return weight", 7.0),
        ("response):\n    from beside import value\n    return value", 3.5),
    ):
        loop = make_loop()
        write_checker(tiny_data, body)
        assert judged(loop, "mine.py:short", said)[0] == {"a": [value]}, body


def test_a_changed_checker_is_asked_again_and_an_unchanged_one_is_not(
    expert_recipe: MakeRecipe, tiny_data: Path
) -> None:
    recipe = expert_recipe(expert_iteration={"judge": "mine.py:short"}, rounds=1)
    first = go(recipe)
    _, said = told(recipe)
    assert any("judge" in line and "reused" in line for line in said)
    text = (tiny_data / "mine.py").read_text()
    (tiny_data / "mine.py").write_text(text.replace("<= 3", "<= 2"))
    again, said = told(recipe)
    assert any(line.startswith("the judge changed since") or "changed since" in line for line in said)
    values = [events_of(one, "evaluation")[0]["value"] for one in (first, again)]
    counted = [events_of(one, "acceptance")[0]["accepted"] for one in (first, again)]
    assert values[1] < values[0] or counted[1] < counted[0]  # the old figures are not shown again


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nowhere.py:short", "", "no file 'nowhere.py'"),
        ("mine.py:shirt", "def short(response): ...", "has no attribute 'shirt'"),
        ("mine.py:short", "import no_such_module", "No module named 'no_such_module'"),
        ("mine.py:short", "def short(:", r"mine\.py, line 1\): SyntaxError"),
        ("mine.py:short", "x = 1\n1 / 0", r"mine\.py, line 2\): ZeroDivisionError"),
        ("mine.py:short", "raise SystemExit(3)", "SystemExit"),
        ("mine.py:short", "short = 3", "is no function, but int"),
        ("mine.py:short", "def short(text): ...", "takes text; name what it reads among prompt, response"),
        ("mine.py:short", "def short(response, prompt, gold): ...", "takes response, prompt, gold; name what it reads"),
        ("mine.py:short", "def short(): ...", "takes nothing; name what it reads"),
    ],
)
def test_a_checker_that_cannot_be_had_is_said_before_anything_is_sampled(
    expert_recipe: MakeRecipe, tiny_data: Path, name: str, text: str, said: str
) -> None:
    (tiny_data / "mine.py").write_text(text)
    recipe = expert_recipe(expert_iteration={"judge": name}, evaluate=[])
    with pytest.raises(InputError, match=said):
        go(recipe)
    assert not list((Path(recipe.output) / "steps").glob("sample-*"))


def test_prompts_and_checker_in_one_file(expert_recipe: MakeRecipe, tiny_data: Path) -> None:
    (tiny_data / "own.py").write_text(
        "PROMPTS = [f'Tell of {w}.' for w in 'cat dog sun map pen cup'.split()]\n"
        "def held():\n    return [{'prompt': f'Say of {w}.', 'group': w} for w in ('hat', 'box')]\n"
        "def short(response):\n    return len(response.split()) <= 3\n"
        "bad = ['Tell of cat.', {'prompt': 'Tell of dog.', 'tags': {1, 2}}]\n"
        "def word():\n    return 'abc'\n"
        "def leaves():\n    raise SystemExit(3)\n"
    )
    suite = {"suite": "own", "kind": "checked", "data": "own.py:held", "function": "own.py:short"}
    recipe = expert_recipe(
        rounds=1,
        data={"prompts": "own.py:PROMPTS"},
        expert_iteration={"judge": "own.py:short"},
        evaluate=[suite | {"max_new_tokens": 30}],
    )
    result = go(recipe)
    assert events_of(result, "acceptance")[0]["prompts"] == 6
    assert [event["n"] for event in events_of(result, "evaluation")] == [2, 2]
    for source, said in (
        ("own.py:nothing", "has no attribute 'nothing'"),
        ("own.py:short", "raised TypeError"),
        ("own.py:bad", "row 2: holds what JSON cannot"),
        ("own.py:word", "expected a list of texts or of rows, found str"),
        ("own.py:leaves", "raised SystemExit"),
        ("own.py", "a list in it is `own.py:NAME`"),
        ("gone.py:PROMPTS", "no file 'gone.py'"),
    ):
        with pytest.raises(InputError, match=said):
            go(expert_recipe(data={"prompts": source}, evaluate=[]))


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ([{"kind": "begin_with", "word": "Open"}], "did you mean 'begins_with'"),
        ([{"kind": "begins_with"}], "takes `word`"),
        ([{"kind": "words_at_most", "n": 0}], "whole number from 1"),
        ([], "must be a list such as"),
        (None, "must be a list such as"),
        ("not json", "text that is not JSON"),
    ],
)
def test_constraints_that_no_checker_knows_are_refused_at_the_door(
    expert_recipe: MakeRecipe, tiny_data: Path, constraints: Any, said: str
) -> None:
    write_jsonl(tiny_data / "asked.jsonl", [{"prompt": f"Tell of {w}.", "constraints": constraints} for w in WORDS])
    with pytest.raises(InputError, match=said):
        go(expert_recipe(evaluate=[]))


# ---- stop rules, and what is kept

BOUNDS = {"distinct": 0.5, "entropy": 0.5, "length": 0.5}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"distinct_2": 0.6, "entropy": 2.0, "mean_length": 20.0}, None),
        ({"distinct_2": 0.39, "entropy": 2.0, "mean_length": 20.0}, "distinct-2: 0.39 after 0.8 in round 1, -51%"),
        ({"distinct_2": 0.8, "entropy": 0.9, "mean_length": 20.0}, "mean -log p"),
        ({"distinct_2": 0.8, "mean_length": 31.0}, r"mean length, tokens: 31 after 20 in round 1, \+55%"),
    ],
)
def test_drift_is_against_the_first_round_either_way(now: dict[str, float], said: str | None) -> None:
    first = {"distinct_2": 0.8, "entropy": 2.0, "mean_length": 20.0}
    found = drifted(now, first, BOUNDS)
    assert (found is None) == (said is None)
    if said:
        assert found and re.match(said, found)
    assert drifted(now, first, dict.fromkeys(BOUNDS)) is None


def test_a_development_score_below_its_best_for_so_many_rounds_stops_the_loop(
    expert_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = {"M0": 0.5, "M1": 0.6, "M2": 0.4, "M3": 0.5}
    monkeypatch.setattr(Outcome, "mean", lambda self: means[self.policy.name])
    development = {"suite": "dev", "kind": "checked", "data": "held.jsonl", "function": "mine.py:short"}
    recipe = expert_recipe(
        rounds=4,
        data={"prompts_per_round": 3},
        evaluate=[],
        development=development,
        stop={"patience": 2},
        keep="best",
    )
    result = go(recipe)
    assert [event["round"] for event in events_of(result, "acceptance")] == [1, 2, 3]
    (stop,) = events_of(result, "stop")
    assert stop["round"] == 3 and "below that of M1 for 2 policies in a row (stop.patience)" in stop["reason"]
    assert result.policy is not None and result.policy.name == "M1"
    assert result.kept.startswith("kept M1, the best of 4 on dev") and "stopped after round 3" in result.kept


def test_a_rule_that_needs_development_items_says_so(expert_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match=r"stop\.patience needs a `development` suite"):
        expert_recipe(stop={"patience": 2})


def test_a_changed_constraint_is_a_changed_input(expert_recipe: MakeRecipe, tiny_data: Path) -> None:
    """The prompts' texts stay, so nothing is sampled again, and the old round's figures are not shown."""
    recipe = expert_recipe(rounds=1, evaluate=[])
    before = events_of(go(recipe), "acceptance")[0]["accepted"]
    text = (tiny_data / "asked.jsonl").read_text()
    (tiny_data / "asked.jsonl").write_text(text.replace('"n": 3', '"n": 2'))
    result, said = told(recipe)
    assert any(line.startswith("data.prompts changed") for line in said)
    assert any("sample M0" in line and "reused" in line for line in said)
    assert events_of(result, "acceptance")[0]["accepted"] < before


def test_what_a_checker_cannot_say_is_in_no_share(expert_recipe: MakeRecipe, tiny_data: Path) -> None:
    write_checker(
        tiny_data,
        "prompt, response):\n    if 'cat' in prompt or 'map' in prompt:\n        raise KeyError\n    return 1",
    )
    result = go(expert_recipe(expert_iteration={"judge": "mine.py:short"}, rounds=1, evaluate=[], seed=2))
    (event,) = events_of(result, "acceptance")
    ended = 1 - event["truncated_share"]
    assert event["missing_share"] > 0 and event["pass_1"]["n"] < 6
    assert event["pass_1"]["value"] > ended * (1 - event["missing_share"])
    assert sum(prompts for _, prompts in event["without"].values()) == event["pass_1"]["n"]


def test_prompts_without_answers_are_refused_where_the_judge_compares_with_them(expert_recipe: MakeRecipe) -> None:
    for judge in ("exact_match", {"kind": "random", "of": "math"}):
        with pytest.raises(InputError, match=r"no prompt has an `answer`"):
            go(expert_recipe(expert_iteration={"judge": judge}, evaluate=[]))


def test_a_kept_start_is_said(expert_recipe: MakeRecipe) -> None:
    def event(policy: str, value: float, **more: Any) -> dict[str, Any]:
        return {"event": "evaluation", "suite": "own", "policy": policy, "metric": "accuracy", "value": value,
                "round": int(policy[1:]), **more}  # fmt: skip

    paired = {"against": "M0", "difference": -0.2, "low": -0.3, "high": -0.1, "n": 5}
    events = [event("M0", 0.6), event("M1", 0.4, paired=paired), {"event": "done", "policy": "M0", "oracle": True}]
    assert outcome_sentences(events) == [
        ORACLE,
        "own: M0 60.0%, M1 40.0%: -20.0 points [-30.0, -10.0] with 95%, 5 items, paired; M0 is kept: no round is "
        "better on the development suite.",
    ]
