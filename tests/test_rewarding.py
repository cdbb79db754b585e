"""Rewards: a checker's own failure is missing, the policy's is wrong, and the same answer is never judged twice."""

from __future__ import annotations

import importlib.util
import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model
from test_chat_server import Loopback, answer
from test_code_tasks import BODY, HUMANEVAL, MBPP, SIGNATURE, needs_sandbox
from test_methods import RUBRIC, joined, quiet, save_reward_model, steps_of, texts

from selfimprove.artefacts import Store, digest_of
from selfimprove.cli import check as checking
from selfimprove.data.rows import Responses
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers import math_answers
from selfimprove.judging.checkers.math_answers import NO_ANSWER
from selfimprove.judging.judges import judge_responses
from selfimprove.judging.outcomes import TRUNCATED, Answered, Rewarded
from selfimprove.judging.reward_readers import rubric_as_options, rubric_of_options
from selfimprove.judging.rewarding import Checker, check_reward, make_checker, reward_step, rewarded
from selfimprove.judging.rubric import load_rubric
from selfimprove.loop.loop import Loop
from selfimprove.models.chat import render_example
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import JudgeOptions, Reward
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import FOUND
from selfimprove.report.events import EventLog
from selfimprove.steps.kind import step_kind

MakeRecipe = Callable[..., Recipe]
RIGHT, WRONG, CUT = Rewarded(1.0), Rewarded(0.0), Rewarded(0.0, TRUNCATED)
NO_REFERENCE = Rewarded(None, missing="the prompt has no reference answer")

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)
needs_client = pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="needs the openai client")


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    math_answers._stop_all()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Loopback()
    yield server
    server.stop()


@pytest.fixture
def make_loop(tiny_recipe: MakeRecipe) -> Iterator[Callable[..., Loop]]:
    opened: list[EventLog] = []

    def make(**changes: Any) -> Loop:
        recipe = tiny_recipe("iterative_dpo", **{"evaluate": [], **changes})
        opened.append(EventLog(Path(recipe.output)))
        return Loop(recipe, Store(Path(recipe.output) / "steps"), opened[-1], quiet())

    yield make
    for log in opened:
        log.close()


def reward_of(**given: Any) -> Reward:
    """With the score from which on an answer is right, which scores of a judge must be given."""
    return Reward(**{"right_from": 0.5, **given})


def checker(search: Path = Path(), journal: Path | None = None, batch_tokens: int = 4096, **reward: Any) -> Checker:
    options, policies, execution = reward_step(reward_of(**reward), [search], "float32", "cpu", batch_tokens)
    # As a step's folder has them: through JSON.
    return make_checker(json.loads(json.dumps(options)), policies.get("judge"), execution, journal)


def said(
    *texts: str, reference: str | None = None, prompt: str = "How many?", truncated: bool = False
) -> list[Answered]:
    return [Answered(prompt, text, reference, truncated) for text in texts]


# ---- what is compared with a reference


def test_short_answers() -> None:
    asked = said("Cat.", "dog", " . ", reference="cat") + said("cat") + said("cat", reference=".")
    *found, no_reference, empty = checker().check(asked)
    assert found == [RIGHT, WRONG, Rewarded(0.0, NO_ANSWER)] and no_reference == NO_REFERENCE
    assert empty.value is None and "reference" in str(empty.missing)  # else saying nothing would be right
    assert checker(normalize=["strip"]).check(said("Cat.", reference="cat")) == [WRONG]


def test_a_truncated_answer_is_wrong_whatever_it_says() -> None:
    assert checker().check(said("cat", reference="cat", truncated=True)) == [CUT]
    assert checker().check(said("cat", truncated=True)) == [CUT]  # no checker sees it, so that nothing is missing
    assert checker().check([]) == []


@needs_library
def test_mathematics() -> None:
    asked = said("So \\boxed{\\frac{1}{2}}", "#### 0.5", "#### 2", "I do not know", "\\boxed{}", reference="0.5")
    asked += said("#### 2", reference="####") + said("#### 2")
    done: list[int] = []
    *found, unreadable, no_reference = checker(kind="math").check(asked, done.append)
    assert found == [RIGHT, RIGHT, WRONG, Rewarded(0.0, NO_ANSWER), Rewarded(0.0, NO_ANSWER)]
    assert unreadable == Rewarded(None, missing="the checker cannot read the reference answer")
    assert no_reference == NO_REFERENCE and sum(done) == len(asked)


PASSES = f"```python\n{SIGNATURE}{BODY}```"


def programs(*bodies: str) -> list[str]:
    return [f"```python\n{SIGNATURE}    {body}\n```" for body in bodies]


@needs_sandbox
def test_programs() -> None:
    bodies = programs("return 0", "while True: pass", "import os; os._exit(0)", "import os; os.abort()")
    found = checker(kind="code", tests="humaneval", seconds=0.7).check(
        said(PASSES, *bodies, "I cannot.", reference=json.dumps(HUMANEVAL))
    )
    assert found[0] == RIGHT and found[2] == Rewarded(0.0, "program timed out")
    assert found[1] == found[3] == found[5] == Rewarded(0.0, "program failed")
    assert found[4] == Rewarded(0.0, "program crashed")


@needs_sandbox
def test_programs_for_a_task_that_cannot_be_read() -> None:
    for reference in ("no JSON", "[]", "{}", json.dumps(HUMANEVAL | {"entry_point": "other"})):
        (found,) = checker(kind="code", tests="humaneval").check(said(PASSES, reference=reference))
        assert found.value is None and "is no task of humaneval" in str(found.missing)
    assert checker(kind="code", tests="humaneval").check(said(PASSES)) == [NO_REFERENCE]
    right = str(MBPP["code"])
    assert checker(kind="code", tests="mbpp").check(said(right, "x", reference=json.dumps(MBPP))) == [
        RIGHT,
        Rewarded(0.0, "program failed"),
    ]


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """No file of this process, or of those it starts, may have more than 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_sandbox
@pytest.mark.usefixtures("no_large_files")
def test_a_failure_of_the_sandbox_itself_is_missing_and_of_nothing_else_is_raised() -> None:
    check = checker(kind="code", tests="humaneval").check
    large = [f"```python\n{SIGNATURE}{BODY}{sign * 200_000}\n```" for sign in "#;"]  # their jobs do not fit a file
    found = check(said(PASSES, *large, reference=json.dumps(HUMANEVAL)))
    assert found == [RIGHT, *[Rewarded(None, missing="the checker could not be run (OSError)")] * 2]
    assert check(said(large[0], reference=json.dumps(HUMANEVAL)))[0].value is None  # it may be this one's fault
    with pytest.raises(RunFailed, match="the sandbox for programs could not be started"):
        check(said(*large, reference=json.dumps(HUMANEVAL)))


# ---- the user's function


ASKED: list[tuple[str, str, str | None]] = []


def own_reward(prompt: str, response: str, answer: str | None) -> Any:
    ASKED.append((prompt, response, answer))
    if response == "raise":
        raise KeyError("no such thing")
    return {"none": None, "text": "five", "nan": float("nan")}.get(response, len(response))


OWN = {"kind": "function", "function": "test_rewarding:own_reward"}


def test_a_functions_failures_are_missing_and_its_numbers_rewards() -> None:
    raised, none, text, nan, number = checker(**OWN).check(said("raise", "none", "text", "nan", "1234567"))
    assert [one.value for one in (raised, none, text, nan)] == [None] * 4
    assert raised.missing == "the function raised KeyError" and none.missing == "the function returned None"
    assert text.missing == "the function returned str, not a number" and number == Rewarded(7.0)


def test_equal_answers_are_checked_once_and_truncated_ones_never() -> None:
    ASKED.clear()
    done: list[int] = []
    asked = said("one", "two", "one") + said("one", reference="x") + said("one", prompt="Other?")
    found = checker(**OWN).check([*asked, *said("one", truncated=True), *said("cut", truncated=True)], done.append)
    assert found == [Rewarded(3.0)] * 5 + [CUT] * 2
    assert ASKED == [
        ("How many?", "one", None),
        ("How many?", "two", None),
        ("How many?", "one", "x"),
        ("Other?", "one", None),
    ]
    assert sum(done) == 7


# ---- models that judge


@pytest.fixture
def rubric_folder(tmp_path: Path) -> Path:
    for name in ("mine", "shows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prompt.txt").write_text(RUBRIC)
        (tmp_path / name / "rubric.yaml").write_text("parser: score\nlow: 1\nhigh: 5\nmax_new_tokens: 10\n")
    (tmp_path / "shows" / "prompt-reference.txt").write_text(RUBRIC + "\nIt should be: {reference}")
    return tmp_path


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learned to answer "Score: 2" where it is shown a reference, and else "Score: 4"."""
    folder = save_tiny_model(tmp_path_factory.mktemp("judge") / "judge", seed=7)
    policy = resolve_policy(str(folder))
    model, tokenizer = MODELS.get(policy, torch.float32, "cpu")[0], load_tokenizer(policy)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    verdicts = {"": "Score: 4", "\nIt should be: cat": "Score: 2"}
    for step in range(250):
        loss = torch.zeros(())
        for end, verdict in verdicts.items():
            asked, written = ("How many?", "ask a", "ask b")[step % 3], ("one", "two", "three", "four")[step % 4]
            text = RUBRIC.replace("{instruction}", asked).replace("{response}", written) + end
            prompt, ids = render_example(tokenizer, [{"role": "user", "content": text}], verdict)
            labels = torch.tensor([[-100] * len(prompt) + ids])
            loss = loss + model(input_ids=torch.tensor([prompt + ids]), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    MODELS.free()
    return folder


def test_a_judge_policy_scores_and_what_it_does_not_say_is_missing(
    rubric_folder: Path, judge_model: Path, tiny_model: Path
) -> None:
    read = checker(rubric_folder, kind="rubric", rubric="mine", model=str(judge_model))
    assert read.check(said("three", "four", "three")) == [Rewarded(4.0)] * 3
    nonsense = checker(rubric_folder, kind="rubric", rubric="mine", model=str(tiny_model))
    assert nonsense.check(said("three")) == [Rewarded(None, missing="the verdict was cut off by the length limit")]


def test_a_judge_is_shown_the_reference_where_the_rubric_can(rubric_folder: Path, judge_model: Path) -> None:
    shows, hides = (
        checker(rubric_folder, kind="rubric", rubric=name, model=str(judge_model)) for name in ("shows", "mine")
    )
    asked = said("three", reference="cat") + said("three")
    assert [one.value for one in shows.check(asked)] == [2.0, 4.0]
    assert [one.value for one in hides.check(asked)] == [4.0, 4.0]


def test_what_is_too_long_for_a_judge_is_missing_and_the_rest_is_judged(rubric_folder: Path, judge_model: Path) -> None:
    done: list[int] = []
    read = checker(rubric_folder, kind="rubric", rubric="mine", model=str(judge_model))
    found = read.check(said("x" * 500, "three", "x" * 501), done.append)
    long = Rewarded(None, missing="longer than the judge's context")
    assert found == [long, Rewarded(4.0), long] and sum(done) == 3


def test_a_judge_stays_loaded_and_changes_no_noise(rubric_folder: Path, judge_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(judge_model), LoraConfig(r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    read = checker(rubric_folder, kind="rubric", rubric="mine", model=str(tmp_path / "adapter"))
    assert read.check(said("three")) == [Rewarded(4.0)]
    loaded = MODELS._model
    assert read.check(said("four")) == [Rewarded(4.0)] and MODELS._model is loaded
    assert torch.equal(torch.rand(3), expected)


def test_a_judge_policy_says_what_it_says_in_iterative_dpo(
    make_loop: Callable[..., Loop], tiny_data: Path, rubric_folder: Path, judge_model: Path
) -> None:
    assert tiny_data == rubric_folder  # where the recipe's rubrics are looked for
    loop, responses = make_loop(), joined(texts("a", "one", "two"), texts("b", "three", "x" * 500))
    given = {"kind": "rubric", "rubric": "mine", "model": str(judge_model)}
    scores, _ = judge_responses(loop, JudgeOptions(**given), responses, loop.base_policy)
    found = rewarded(loop, responses, reward_of(**given), "rewards")
    assert {id: [one.value for one in rewards] for id, rewards in found.items()} == scores
    assert scores == {"a": [4.0, 4.0], "b": [4.0, None]}


def test_a_rubric_is_whole_in_a_steps_options(rubric_folder: Path) -> None:
    for name in ("shows", "mt-bench-single", "five-points"):
        rubric = load_rubric(name, [rubric_folder])
        again = rubric_of_options(json.loads(json.dumps(rubric_as_options(rubric))))
        values = {"instruction": "Say </response>", "response": "{instruction}</response>", "reference": "cat"}
        assert again.digest == rubric.digest and again.max_new_tokens == rubric.max_new_tokens
        for variant in {"", "reference"} & set(rubric.prompts):
            assert again.messages(values, variant) == rubric.messages(values, variant)
        for verdict in ("Score: 4", "[[4]]", "Score: 11", "nothing"):
            assert again.parse(verdict) == rubric.parse(verdict)


def test_a_template_without_a_system_turn_can_judge(rubric_folder: Path, tmp_path: Path) -> None:
    (rubric_folder / "mine" / "system.txt").write_text("You judge.")
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = save_tiny_model(tmp_path / "gemma", seed=2, template=template)
    (found,) = checker(rubric_folder, kind="rubric", rubric="mine", model=str(model)).check(said("three"))
    assert found == Rewarded(None, missing="the verdict was cut off by the length limit")


def test_a_reward_models_scores_are_those_of_its_own_step(
    make_loop: Callable[..., Loop], tiny_model: Path, tmp_path: Path
) -> None:
    given = {"kind": "reward_model", "model": str(save_reward_model(tiny_model, tmp_path / "rm"))}
    loop, responses = make_loop(), joined(texts("a", "x", "a much longer answer than x"), texts("b", "dog", ""))
    scores, _ = judge_responses(loop, JudgeOptions(**given), responses, loop.base_policy)
    found = rewarded(loop, responses, reward_of(**given), "rewards")
    for id, values in scores.items():
        assert [one.value for one in found[id]] == pytest.approx(values, abs=1e-5)
    long, short = checker(**given).check(said("x" * 600, "short"))
    assert long == Rewarded(None, missing="longer than the judge's context") and short.value is not None


def test_a_reward_model_without_a_trained_head_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"reward\.model: .*score\.weight"):
        checker(kind="reward_model", model=str(tiny_model))


@needs_client
def test_a_served_judge(loopback: Loopback, rubric_folder: Path) -> None:
    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        if "refuse" in question:
            return 400, {}, {"error": {"message": "too long"}}
        return answer("nonsense" if "nonsense" in question else "Fine. Score: 5")

    loopback.reply = reply
    served = {"server": {"base_url": loopback.url, "model": "judge", "retries": 0, "timeout_s": 10.0}}
    journal = rubric_folder / "journal.jsonl"
    read = checker(rubric_folder, journal, kind="rubric", rubric="mine", **served)
    good, nonsense, refused, again = read.check(said("good", "nonsense", "refuse", "good"))
    assert good == again == Rewarded(5.0) and nonsense == Rewarded(None, missing="the verdict has no score")
    assert refused.value is None and "the server refused it (400)" in str(refused.missing)
    assert all(body["max_tokens"] == 10 and "logprobs" not in body for body in loopback.bodies)
    asked = len(loopback.asked)
    resumed = checker(rubric_folder, journal, kind="rubric", rubric="mine", **served)
    assert resumed.check(said("good", "nonsense")) == [good, nonsense] and len(loopback.asked) == asked
    loopback.reply = lambda body, question, nth: answer("Score: 3", model="judge-2")
    with pytest.raises(RunFailed, match=r"several models, judge-1, judge-2, .*raise the reward's `version`"):
        resumed.check(said("later"))


# ---- as a step


def several(answer: str | None, *attempts: str) -> Responses:
    """Two prompts' attempts of two turns, some equal and one of them truncated."""
    parts = joined(*(texts(id, *attempts, attempts[0], attempts[-1], answer=answer, cut=(1,)) for id in ("a", "b")))
    assert {one.index for one in parts.by_prompt["a"]} == set(range(len(attempts) + 2))
    return parts


@pytest.mark.parametrize(
    ("reward", "answer", "attempts"),
    [
        ({}, "cat", ["cat", "cat", "dog", ""]),
        pytest.param({"kind": "math"}, "#### 2", ["\\boxed{2}", "2", "3", "none"], marks=needs_library),
        pytest.param(
            {"kind": "code", "tests": "humaneval", "seconds": 5.0},
            json.dumps(HUMANEVAL),
            [PASSES, PASSES, *programs("return 0")],
            marks=needs_sandbox,
        ),
        (OWN, None, ["raise", "number", "none", "other"]),
        ({"kind": "rubric", "rubric": "mine", "model": "JUDGE"}, None, ["one", "two", "three"]),
        ({"kind": "reward_model", "model": "RM"}, None, ["one", "two", "three"]),
        pytest.param(
            {"kind": "rubric", "rubric": "mine", "server": {"base_url": "URL", "model": "judge"}},
            None,
            ["one", "two", "three"],
            marks=needs_client,
        ),
    ],
    ids=["exact", "math", "code", "function", "policy", "reward model", "server"],
)
def test_the_step_gives_what_the_checker_gives(
    reward: dict[str, Any],
    answer: str | None,
    attempts: list[str],
    make_loop: Callable[..., Loop],
    rubric_folder: Path,
    judge_model: Path,
    tiny_model: Path,
    loopback: Loopback,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import test_chat_server

    monkeypatch.setitem(FOUND, ("step", "rewards"), replace(step_kind("rewards"), shard_groups=1))
    loopback.reply = lambda body, question, nth: test_chat_server.answer("Score: 2" if "two" in question else "Hm")
    reward = json.loads(json.dumps(reward).replace("JUDGE", str(judge_model)).replace("URL", loopback.url))
    if reward.get("model") == "RM":
        reward["model"] = str(save_reward_model(tiny_model, rubric_folder / "rm"))
    loop, responses = make_loop(), several(answer, *attempts)
    found = rewarded(loop, responses, reward_of(**reward), "check")
    assert rewarded(loop, responses, reward_of(**reward, right_from=0.9), "check again") == found  # found, not made
    (step,) = steps_of(loop.recipe, "rewards")
    assert len(list(step.folder.glob("rows-*.arrow"))) == 2 and not (step.folder / "journal.jsonl").exists()
    asked = [
        Answered(prompt.text, one.text, prompt.answer, one.finish == "length")
        for prompt, its_responses in responses
        for one in its_responses
    ]
    expected = checker(rubric_folder, **reward).check(asked)
    flat = [one for id in ("a", "b") for one in found[id]]
    if reward.get("kind") == "reward_model":  # batches of another composition round otherwise
        assert [one.value for one in flat] == pytest.approx([one.value for one in expected], abs=1e-5)
    else:
        assert flat == expected
    assert [one.failure for one in found["a"]].count(TRUNCATED) == 1 and found["a"][1] == CUT
    assert found["a"][0] == found["a"][len(attempts)]


def test_nothing_to_check_is_no_step(make_loop: Callable[..., Loop]) -> None:
    loop = make_loop()
    assert rewarded(loop, Responses({}, {}), Reward(), "check") == {}
    assert rewarded(loop, replace(texts("a", "x"), by_prompt={"a": []}), Reward(), "check") == {"a": []}
    assert steps_of(loop.recipe, "rewards") == []


SERVER = {"base_url": "http://127.0.0.1:1/v1", "model": "judge"}


@pytest.mark.parametrize(
    ("reward", "changes", "keeps"),
    [
        (
            {},
            {"normalize": ["strip"]},
            {"right_from": 0.7, "version": 2, "seconds": 3, "function": "x:y", "rubric": "mine"},
        ),
        ({"kind": "math"}, {}, {"normalize": ["strip"], "version": 2}),
        ({"kind": "code", "tests": "mbpp"}, {"tests": "humaneval", "seconds": 3}, {"normalize": ["strip"]}),
        (OWN, {"function": "operator:eq", "version": 2, "seconds": 3}, {"right_from": 0.7}),
        (
            {"kind": "rubric", "rubric": "mine", "server": SERVER},
            {"rubric": "five-points", "version": 2, "server": SERVER | {"model": "other"}},
            {
                "server": SERVER | {"base_url": "http://127.0.0.1:2/v1", "concurrency": 1, "api_key_env": "PATH"},
                "log_probs": 0,
                "prices": {"input": 1, "output": 1},
            },
        ),
        ({"kind": "rubric", "rubric": "mine", "model": "TINY"}, {"model": "OTHER"}, {"version": 2, "log_probs": 0}),
    ],
)
def test_what_changes_a_reward_is_in_its_key(
    reward: dict[str, Any],
    changes: dict[str, Any],
    keeps: dict[str, Any],
    rubric_folder: Path,
    tiny_model: Path,
    judge_model: Path,
) -> None:
    def key(**change: Any) -> str:
        places = {"TINY": str(tiny_model), "OTHER": str(judge_model)}
        given = reward | change
        if "model" in given:
            given["model"] = places[given["model"]]
        options, policies, _ = reward_step(reward_of(**given), [rubric_folder], "float32", "cpu", 4096)
        return digest_of([options, {role: policy.digest for role, policy in policies.items()}])

    assert len({key(), *(key(**{name: value}) for name, value in changes.items())}) == 1 + len(changes)
    for name, value in keeps.items():
        assert key(**{name: value}) == key(), name


def test_a_rubrics_text_is_in_the_key_and_its_description_is_not(rubric_folder: Path) -> None:
    def key() -> str:
        reward = reward_of(kind="rubric", rubric="mine", server=SERVER)
        return digest_of(reward_step(reward, [rubric_folder], "float32", "cpu", 4096)[0])

    before = key()
    with (rubric_folder / "mine" / "rubric.yaml").open("a") as file:
        file.write("description: other words\n")
    assert key() == before
    (rubric_folder / "mine" / "prompt.txt").write_text(RUBRIC + "!")
    assert key() != before


# ---- before anything is trained


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"kind": "function", "function": "no_such:thing"}, r"score\.reward\.function: 'no_such:thing' cannot be"),
        ({"kind": "rubric", "rubric": "nine", "server": SERVER}, r"score\.reward\.rubric: no folder 'nine'"),
        ({"kind": "rubric", "rubric": "pair-plain", "server": SERVER}, r"score\.reward\.rubric: .*one that rates"),
        ({"kind": "rubric", "rubric": "mine", "model": "./nowhere"}, r"score\.reward\.model: no folder './nowhere'"),
        ({"kind": "reward_model", "model": "./nowhere"}, r"score\.reward\.model: no folder './nowhere'"),
        (
            {"kind": "rubric", "rubric": "mine", "server": SERVER | {"api_key_env": "SURELY_NOT_SET"}},
            r"score\.reward\.server\.api_key_env: .*SURELY_NOT_SET",
        ),
    ],
)
def test_what_a_reward_lacks_is_said_with_its_key(reward: dict[str, Any], said: str, rubric_folder: Path) -> None:
    with pytest.raises(InputError, match=said):
        check_reward(reward_of(**reward), [rubric_folder])


def test_what_is_there_is_accepted(rubric_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    for reward in (
        {},
        OWN,
        {"kind": "rubric", "rubric": "mine", "model": str(tiny_model)},
        {"kind": "rubric", "rubric": "mine", "server": SERVER},
    ):
        check_reward(reward_of(**reward), [rubric_folder])
    if importlib.util.find_spec("math_verify"):
        check_reward(Reward(kind="math"), [])


def test_an_adapter_is_no_reward_model(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2)).save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=r"star\.reward\.model: .* is an adapter; merge it"):
        check_reward(reward_of(kind="reward_model", model=str(tmp_path / "a")), [], "star.reward")


@pytest.mark.parametrize("method", ["score", "star"])
def test_a_recipes_reward_is_looked_for_before_anything_is_trained(
    method: str, tiny_recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    training = {"batch_size": 6, "micro_batch_size": 3}
    recipe = tiny_recipe(method, training=training, **{method: {"reward": OWN}})
    checking.check_recipe(recipe, Console(width=200))
    assert f"this recipe runs your code: {OWN['function']}" in capsys.readouterr().out
    bad = {"reward": {"kind": "function", "function": "test_rewarding:nothing"}}
    with pytest.raises(InputError, match=rf"{method}\.reward\.function: 'test_rewarding:nothing' cannot be imported"):
        checking.check_recipe(tiny_recipe(method, training=training, **{method: bad}), Console(width=200))
