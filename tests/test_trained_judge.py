"""A judge's folder, a rubric with a model of its own, as the one line `judge: FOLDER` wherever a judge is taken."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from test_chat_server import Loopback, answer
from test_methods import events_of, go, joined, quiet, steps_of, texts
from test_star import talking  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import Store
from selfimprove.cli import check as checking
from selfimprove.errors import GateError, InputError
from selfimprove.judging.agreement import consistency
from selfimprove.judging.judges import judge_responses
from selfimprove.judging.outcomes import Answered
from selfimprove.judging.rewarding import make_checker, reward_step, rewarded
from selfimprove.judging.rubric import load_rubric
from selfimprove.loop.loop import Loop
from selfimprove.models.builtin import BUILTINS
from selfimprove.models.policy import portable_name
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import JudgeOptions, Reader, Reward
from selfimprove.recipe.recipe import Recipe, load_recipe, make_recipe
from selfimprove.report.events import EventLog
from selfimprove.runs.results import Result
from selfimprove.suites.alpaca import measure
from selfimprove.suites.matches import EACH_BY_ITSELF, order_figures, rated_match

MakeRecipe = Callable[..., Recipe]
SHIPPED = Path(__file__).parent.parent / "eval" / "judges" / "self-judge"
ROOM = 8192  # of the judge: the longest pairs of LLMBar

needs_client = pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="needs the openai client")


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped rubric with an adapter on a tiny model as its own."""
    root = tmp_path_factory.mktemp("trained")
    base = save_tiny_model(root / "base", seed=7)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": ROOM}))
    torch.manual_seed(3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, init_lora_weights=False))
    shutil.copytree(SHIPPED, root / "judge")
    adapted.save_pretrained(root / "judge" / "policy")
    return root / "judge"


@pytest.fixture(scope="session")
def by_hand(judge: Path) -> Callable[..., float]:
    """The expected digit, as Transformers and PEFT have it."""
    base = judge.parent / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(judge / "policy")).eval()
    rubric = load_rubric(str(judge), [])
    digits = [tokenizer.encode(str(digit), add_special_tokens=False)[0] for digit in range(10)]

    def expected(prompt: str, response: str, reference: str | None = None) -> float:
        values = {"instruction": prompt, "response": response} | ({"reference": reference} if reference else {})
        messages: Any = rubric.messages(values, "reference" if reference else "")
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(text, add_special_tokens=False)])).logits[0, -1]
        return float((torch.softmax(logits[digits].double(), 0) * torch.arange(10)).sum())

    return expected


@pytest.fixture
def make_loop(tiny_recipe: MakeRecipe) -> Iterator[Callable[..., Loop]]:
    opened: list[EventLog] = []

    def make(method: str, **changes: Any) -> Loop:
        recipe = tiny_recipe(method, **{"evaluate": [], **changes})
        opened.append(EventLog(Path(recipe.output)))
        return Loop(recipe, Store(Path(recipe.output) / "steps"), opened[-1], quiet())

    yield make
    for log in opened:
        log.close()


def again(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe as it is kept in a run's folder, read back."""
    (folder / "kept.yaml").write_text(recipe.as_yaml())
    return load_recipe(folder / "kept.yaml")


# ---- what ranks the responses of a loop


@pytest.mark.parametrize("method", ["cream", "srlm"])
def test_a_judge_ranks_in_the_place_of_the_implicit_reward(
    method: str, tiny_recipe: MakeRecipe, judge: Path, by_hand: Callable[..., float], tmp_path: Path
) -> None:
    recipe = tiny_recipe(method, judge=str(judge), evaluate=[])
    assert (
        recipe.judge == JudgeOptions(kind="rubric", rubric=str(judge), right_from=4.5) == again(recipe, tmp_path).judge
    )
    result = go(recipe)
    rounds = events_of(result, "round")
    assert [event["judge"] for event in rounds] == [f"rubric {judge}"] * 2
    assert all(event["rewards"]["unit"] == "score" and event["missing"] == {} for event in rounds)
    compared = [event["rankings"] and event["rankings"]["previous"] for event in rounds]
    assert compared == ["M0's likelihood per token" if method == "cream" else None, "M1"]
    assert rounds[1]["rankings"]["current"] == f"rubric {judge}"
    for event in rounds:
        for example in event["examples"]:
            rows = example["responses"]
            said = {row["role"]: example[row["role"]] for row in rows if row["role"]}
            scores = [by_hand(example["prompt"], said[row["role"]] if row["role"] else row["text"]) for row in rows]
            assert [row["reward"] for row in rows] == pytest.approx(scores, abs=1e-4)
            assert example["chosen_reward"] == pytest.approx(max(scores), abs=1e-4)
            if event["rankings"]:
                before = [row["previous"] for row in rows]
                assert example["consistency"] == consistency([row["reward"] for row in rows], before)
    assert f"rubric {judge}" in result.report.read_text()
    assert go(again(recipe, tmp_path)).events == result.events


def test_a_judge_that_was_trained_anew_is_another_one(tiny_recipe: MakeRecipe, judge: Path, tiny_data: Path) -> None:
    shutil.copytree(judge, tiny_data / "judges" / "mine")
    recipe = tiny_recipe("srlm", judge="judges/mine", rounds=1, evaluate=[])  # looked for beside the recipe
    first = go(recipe)
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(judge.parent / "base"), str(judge / "policy")
    )
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.neg_()
    adapted.save_pretrained(tiny_data / "judges" / "mine" / "policy")
    second = go(recipe)
    assert len(events_of(second, "round")) == 1 and len(list(second.folder.glob("metrics-until-*"))) == 1
    chosen = [event["rewards"]["chosen"] for result in (first, second) for event in events_of(result, "round")]
    assert chosen[0] != chosen[1]


def test_in_iterative_dpo_it_is_the_sections_own_judge(
    tiny_recipe: MakeRecipe, judge: Path, by_hand: Callable[..., float], tmp_path: Path
) -> None:
    short = tiny_recipe("iterative_dpo", judge=str(judge), rounds=1, evaluate=[])
    assert short == tiny_recipe("iterative_dpo", iterative_dpo={"judge": str(judge)}, rounds=1, evaluate=[])
    assert again(short, tmp_path).iterative_dpo.judge.rubric == str(judge)
    (event,) = events_of(go(short), "round")
    assert event["judge"] == f"rubric {judge}"
    example = event["examples"][0]
    assert example["chosen_reward"] == pytest.approx(by_hand(example["prompt"], example["chosen"]), abs=1e-4)
    with pytest.raises(InputError, match=r"`judge` and `iterative_dpo\.judge` are the same: keep one"):
        tiny_recipe("iterative_dpo", judge=str(judge), iterative_dpo={"judge": {"kind": "random"}})


@pytest.mark.parametrize("method", ["sft", "dpo", "score", "evaluate"])
def test_other_methods_have_no_use_for_it(method: str, tiny_recipe: MakeRecipe, judge: Path) -> None:
    changes: dict[str, Any] = {"training": {"batch_size": 6}} if method == "score" else {}
    with pytest.raises(InputError, match=f"`judge` is for methods that rank .* nothing with method '{method}'"):
        tiny_recipe(method, judge=str(judge), **changes)
    assert "\njudge:" not in tiny_recipe(method, **changes).as_yaml()


def test_missing_scores_make_no_pair_and_are_counted(tiny_recipe: MakeRecipe, judge: Path, tiny_data: Path) -> None:
    shutil.copytree(judge, tiny_data / "narrow")
    config = json.loads((judge.parent / "base" / "config.json").read_text())
    base = tiny_data / "narrow-base"
    shutil.copytree(judge.parent / "base", base)
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 200}))
    adapter = tiny_data / "narrow" / "policy" / "adapter_config.json"
    adapter.write_text(json.dumps(json.loads(adapter.read_text()) | {"base_model_name_or_path": str(base)}))
    recipe = tiny_recipe("cream", judge="narrow", rounds=1, evaluate=[])
    too_long = "gate judge_health.*It is the judge: 24 x longer than the judge's context"
    with pytest.raises(GateError, match=too_long):
        go(recipe)
    with pytest.raises(GateError, match=too_long):
        go(tiny_recipe("srlm", judge="narrow", rounds=1, evaluate=[], output=str(tiny_data / "srlm")))


# ---- as a reward


def test_a_reward_is_the_judges_score(
    make_loop: Callable[..., Loop], judge: Path, by_hand: Callable[..., float]
) -> None:
    loop = make_loop("iterative_dpo")
    responses = joined(texts("a", "one", "two", "one"), texts("b", "three", "x" * ROOM))
    reward = Reward.model_validate(str(judge))
    assert (reward.kind, reward.right_from) == ("rubric", 4.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = {id: [one.value for one in row] for id, row in rewarded(loop, responses, reward, "rewards").items()}
    assert torch.equal(torch.rand(3), expected)  # a training that goes on meets the same noise
    assert found["a"][:2] == pytest.approx([by_hand("ask a", "one"), by_hand("ask a", "two")], abs=1e-4)
    assert found["a"][0] == found["a"][2] and found["b"][1] is None
    (long,) = rewarded(loop, responses, reward, "rewards")["b"][1:]
    assert long.missing == "longer than the judge's context"
    options = JudgeOptions.model_validate(str(judge))
    scores, missing = judge_responses(loop, options, responses, loop.base_policy)
    assert missing == {"longer than the judge's context": 1}
    for id, row in scores.items():
        assert row == pytest.approx(found[id], abs=1e-4)
    shown = rewarded(loop, texts("a", "one", answer="two"), reward, "with a reference")["a"]
    assert shown[0].value == pytest.approx(by_hand("ask a", "one", "two"), abs=1e-4)


def test_star_and_score_are_rewarded_by_it(
    tiny_recipe: MakeRecipe,
    judge: Path,
    by_hand: Callable[..., float],
    talking: Path,  # noqa: F811
    tiny_data: Path,
) -> None:
    write_jsonl(tiny_data / "asked.jsonl", [{"prompt": f"Say {word}"} for word in ("cat", "dog", "sun", "map")])
    data = {"prompts": "asked.jsonl", "prompts_per_round": 4}
    usual: dict[str, Any] = {"model": str(talking), "data": data, "evaluate": [], "rounds": 1}
    reward = {"kind": "rubric", "rubric": str(judge), "right_from": 0.0}
    recipe = tiny_recipe("star", star={"reward": reward, "right_to_right": True}, **usual)
    go(recipe)
    (step,) = steps_of(recipe, "rewards")
    inputs = {(row["prompt_id"], row["index"]): row for row in step_inputs(step.folder)}
    checked = 0
    for row in step.rows():
        asked = inputs[row["prompt_id"], row["index"]]
        if not asked["truncated"]:
            assert row["value"] == pytest.approx(by_hand(asked["prompt"], asked["text"]), abs=1e-4)
            checked += 1
    assert checked

    stages = {"stage_one": {"updates": 1}, "stage_two": {"updates": 1}, "probe_prompts": 2, "instruction": "Again."}
    recipe = tiny_recipe(
        "score",
        score={"reward": str(judge), **stages},
        sampling={"n": 4, "max_new_tokens": 8},
        training={"batch_size": 16, "learning_rate": 1e-3},
        gates={"disabled": ["first_attempt", "change_rate", "copy_rate", "kl", "weights_moved"]},
        output=str(tiny_data / "score"),
        **usual,
    )
    assert again(recipe, tiny_data).score.reward == recipe.score.reward
    histories = [event["history"] for event in events_of(go(recipe), "training")]
    assert [len(history) for history in histories] == [1, 1]
    assert all(0 <= row[0]["reward/turn_2"] <= 9 and row[0]["reward_coverage"] == 1 for row in histories)


def step_inputs(folder: Path) -> list[dict[str, Any]]:
    from selfimprove.artefacts import read_rows

    return read_rows(folder / "inputs" / "texts.arrow")


@needs_client
def test_a_server_is_asked_for_its_likeliest_first_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Loopback()

    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        listed = {"7": math.log(0.3), "8": math.log(0.1), "The": math.log(0.6)}
        return answer("The", {"The": -0.5} if "none" in question else listed if "logprobs" in body else {})

    server.reply = reply
    try:
        served = {"base_url": server.url, "model": "judge", "retries": 0, "timeout_s": 10.0}
        given = {"kind": "rubric", "rubric": "self-judge", "right_from": 5, "server": served}

        def check(*said: str, **changes: Any) -> list[Any]:
            reward = Reward.model_validate({**given, **changes})
            options, policies, execution = reward_step(reward, [], "float32", "cpu", 4096)
            checker = make_checker(json.loads(json.dumps(options)), None, execution, tmp_path / "journal.jsonl")
            assert policies == {}
            return checker.check([Answered("How many?", text, None, False) for text in said])

        (found, none) = check("seven", "none")
        assert found.value == pytest.approx(0.75 * 7 + 0.25 * 8)
        assert (none.value, none.missing) == (None, "no digit is among the judge's first tokens")
        assert all(body["top_logprobs"] == 20 and body["max_tokens"] == 1 for body in server.bodies)
        count = len(server.bodies)
        assert check("seven", "none") == [found, none] and len(server.bodies) == count  # from the journal
        assert check("seven", log_probs=5)[0].value == found.value and server.bodies[-1]["top_logprobs"] == 5
        (written,) = check("seven", log_probs=0)
        assert (
            written.missing == "the judge's answer does not begin with a digit" and "logprobs" not in server.bodies[-1]
        )
    finally:
        server.stop()


# ---- as the judge of a suite


WORDS = [
    f"{animal} {place}" for animal in ("cat", "dog", "bee", "owl", "elk") for place in ("top", "end", "old", "far")
]


def suites(folder: Path, model: Path, *chosen: dict[str, Any], **changes: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    write_jsonl(
        folder / "items.jsonl",
        [{"instruction": f"Name {w}", "output": w, "generator": "baseline-model"} for w in WORDS],
    )
    for kind, rubric in (("preference", "alpaca-eval"), ("rating", "mt-bench-single")):
        (folder / f"{kind}.yaml").write_text(
            f"name: tiny-{kind}\nkind: {kind}\ndata: items.jsonl\nrubric: {rubric}\nmax_new_tokens: 6\n"
        )
    values = {
        "method": "evaluate",
        "model": str(model),
        "output": str(folder / "run"),
        "evaluate": list(chosen),
        "sampling": {"backend": "transformers"},
        **changes,
    }
    return make_recipe(values, folder=folder)


def by_suite(result: Result) -> dict[str, dict[str, Any]]:
    return {event["suite"]: event for event in events_of(result, "evaluation")}


def test_it_compares_by_its_scores_and_it_rates(
    tmp_path: Path, tiny_model: Path, judge: Path, by_hand: Callable[..., float], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = {"suite": "preference.yaml", "judge": str(judge), "order": "both"}
    recipe = suites(tmp_path, tiny_model, pairs, {"suite": "rating.yaml", "judge": str(judge)})
    result = go(recipe)
    found = by_suite(result)
    figures = found["tiny-preference"]["preference"]
    rows = json.loads((result.folder / "annotations" / "tiny-preference-tiny.json").read_text())
    scores = [[by_hand(row["instruction"], row[side]) for side in ("output_1", "output_2")] for row in rows]
    expected = [float(ours > theirs) for theirs, ours in scores]
    assert min(abs(a - b) for a, b in scores) > 1e-3 and 0 < sum(expected) < len(WORDS)
    assert [row["preference"] - 1 for row in rows] == expected
    assert found["tiny-preference"]["value"] == pytest.approx(sum(expected) / len(WORDS))
    assert (figures["judge"], figures["order"]) == (str(judge), EACH_BY_ITSELF)
    assert figures["flip_rate"] is None and figures["first_rate"] is None and not figures["published_form"]
    assert figures["cost"]["requests"] == 2 * len(WORDS) and figures["length_controlled"] is not None
    rating = found["tiny-rating"]
    assert rating["value"] == pytest.approx(sum(ours for _, ours in scores) / len(WORDS), abs=1e-4)
    assert (rating["rating"]["low"], rating["rating"]["high"]) == (0, 9)
    report = result.report.read_text()
    assert EACH_BY_ITSELF in report and "mostly followed" not in report
    assert go(recipe).events == result.events
    (one,) = measure(result.folder / "annotations" / "tiny-preference-tiny.json")
    assert one.rate.win_rate == pytest.approx(100 * found["tiny-preference"]["value"])


def test_equal_outputs_are_ties_and_what_is_too_long_is_missing(tmp_path: Path, tiny_model: Path, judge: Path) -> None:
    pairs = {"suite": "preference.yaml", "judge": str(judge), "against": "base"}
    event = by_suite(go(suites(tmp_path, tiny_model, pairs)))["tiny-preference"]
    assert event["value"] == 0.5 and event["preference"]["cost"]["requests"] == 0
    recipe = suites(tmp_path, tiny_model, pairs | {"against": "baseline"}, output=str(tmp_path / "long"))
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "items.jsonl", [rows[0] | {"output": "x" * ROOM}, *rows[1:]])
    event = by_suite(go(recipe))["tiny-preference"]
    assert event["preference"]["missing"] == {"longer than the judge's context": 1} and event["n"] == len(WORDS) - 1


def test_llmbar_is_judged_by_the_scores(tmp_path: Path, judge: Path, by_hand: Callable[..., float]) -> None:
    from selfimprove.suites.suites import load_suite

    values = {
        "method": "evaluate_judge",
        "output": str(tmp_path / "run"),
        "evaluate": [{"suite": "llmbar", "judge": str(judge), "limit": 8}],
        "sampling": {"backend": "transformers"},
    }
    result = go(make_recipe(values, folder=tmp_path))
    (event,) = events_of(result, "judge_evaluation")
    right = []
    for pair in load_suite("llmbar", change={"limit": 8}).pairs:
        asked = pair.messages[-1]["content"]
        first, second = by_hand(asked, pair.output_1), by_hand(asked, pair.output_2)
        assert abs(first - second) > 1e-3
        right.append(float((second > first) == (pair.votes[0] == 1.0)))
    assert event["accuracy"]["value"] == pytest.approx(sum(right) / 8) and event["accuracy"]["n"] == 8
    assert event["order"] == EACH_BY_ITSELF and event["accuracy_first_order"] is None
    assert event["flip_rate"] is None and event["first_rate"] is None and event["cost"]["requests"] == 16
    assert EACH_BY_ITSELF in result.report.read_text()


scores_or_none = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 4.5, 9.0]))


@given(scores_or_none, scores_or_none)
def test_the_higher_score_wins(ours: float | None, theirs: float | None) -> None:
    def verdict(score: float | None) -> tuple[float | None, str | None]:
        return (score, None) if score is not None else (None, "too long")

    match, mirrored = (rated_match("a", 0, verdict(a), verdict(b)) for a, b in ((ours, theirs), (theirs, ours)))
    value, other = match.preference(False), mirrored.preference(False)
    if ours is None or theirs is None:
        assert value is other is None and match.reason == "too long"
    else:
        assert value is not None and other is not None
        assert value + other == 1 and (value > 0.5) == (ours > theirs) and match.reason is None
    assert match.flipped() is None
    assert order_figures([match]) == {"flip_rate": None, "first_rate": None}


# ---- folders that are no judge


def test_what_is_no_judge_is_said_before_anything_is_trained(
    tiny_recipe: MakeRecipe, judge: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    empty = tiny_data / "empty"
    shutil.copytree(SHIPPED, empty)
    (empty / "policy").mkdir()
    own = {"training": {"batch_size": 6}, "evaluate": []}
    cases: list[tuple[Recipe, str]] = [
        (tiny_recipe("cream", judge="nowhere"), r"judge\.rubric: no folder 'nowhere' with a rubric\.yaml"),
        (
            tiny_recipe("srlm", judge="empty"),
            r"judge\.rubric: the judge empty cannot be read: model: .*empty/policy has",
        ),
        (
            tiny_recipe("cream", judge={"kind": "rubric", "rubric": "self-judge", "model": "./no"}),
            r"judge\.model: no folder './no'",
        ),
        (tiny_recipe("iterative_dpo", judge="nowhere"), r"iterative_dpo\.judge\.rubric: no folder 'nowhere'"),
        (tiny_recipe("score", score={"reward": "empty"}, **own), r"score\.reward\.rubric: the judge empty cannot"),
        (
            tiny_recipe("star", star={"reward": "self-judge"}, **own),
            r"star\.reward: nobody reads the rubric self-judge; give `model`",
        ),
        (
            suites(tmp_path / "suites", tiny_model, {"suite": "preference.yaml", "judge": "self-judge"}),
            "nobody reads the rubric; give a judge",
        ),
        (suites(tmp_path / "suites", tiny_model, {"suite": "rating.yaml", "judge": "nowhere"}), "no folder 'nowhere'"),
    ]
    for recipe, said in cases:
        with pytest.raises(InputError, match=said):
            go(recipe)
        assert not (Path(recipe.output) / "steps").exists()


def test_a_rubric_alone_is_read_by_the_policy_itself(tiny_recipe: MakeRecipe, tiny_model: Path) -> None:
    recipe = tiny_recipe("srlm", judge="self-judge", rounds=1, evaluate=[])
    result = go(recipe)
    (event,) = events_of(result, "round")
    assert event["judge"] == "rubric self-judge" and event["missing"] == {} and event["pairs"] > 0
    scored = [one for one in steps_of(recipe, "log_probs") if one.manifest["label"].startswith("rubric (")]
    assert [one.manifest["label"] for one in scored] == ["rubric (M1)"]


def test_a_function_that_ranks_is_said_by_check(tiny_recipe: MakeRecipe) -> None:
    output = Console(width=200, file=io.StringIO())
    checking.check_recipe(tiny_recipe("cream", judge={"kind": "function", "function": "operator:eq"}), output)
    assert "this recipe runs your code: operator:eq" in output.file.getvalue()  # type: ignore[attr-defined]


def test_a_reader_is_read_from_its_folder_alone(judge: Path) -> None:
    def read(section: type[Reader]) -> Mapping[str, Any]:
        return section.model_validate(yaml.safe_load(str(judge))).model_dump(exclude_unset=True)

    assert read(Reader) == {"rubric": str(judge)}
    assert read(JudgeOptions) == {"rubric": str(judge), "kind": "rubric", "right_from": 4.5} == read(Reward)


def test_a_base_is_named_as_other_machines_know_it(
    judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--org--some-model" / "snapshots" / "abc123"
    assert portable_name(str(cached)) == ("org/some-model", "abc123")
    builtin = BUILTINS["smollm2-135m-instruct"]
    folder = f"/cache/models/{builtin.name}-{builtin.wheel_sha256[:12]}"
    assert portable_name(folder) == ("smollm2-135m-instruct", None)
    assert portable_name("/data/my-model") == ("/data/my-model", None)

    # An adapter on a base of the hub is found at that commit.
    shutil.copytree(judge.parent / "base", cached)
    shutil.copytree(judge / "policy", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": "org/some-model", "revision": "abc123"}
    file.write_text(json.dumps(config))
    asked = []

    def snapshot_download(hub_id: str, revision: str | None, **options: Any) -> str:
        asked.append((hub_id, revision))
        return str(cached)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_policy(str(tmp_path / "adapter")).digest == resolve_policy(str(judge)).digest
    assert asked == [("org/some-model", "abc123")]
