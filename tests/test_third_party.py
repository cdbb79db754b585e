"""The house as a stranger uses it: methods, step kinds, judges and rewards of a package, and of a file of one's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_jsonl
from rich.console import Console

import selfimprove
from selfimprove import registry
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.outcomes import Answered
from selfimprove.judging.rewarding import make_checker, reward_step
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.terminal import Progress
from selfimprove.steps.kind import step_versions

MakeRecipe = Callable[..., Recipe]
HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "write-a-method.md"


def run(recipe: Recipe) -> Any:
    return selfimprove.run(recipe, Progress(Console(quiet=True)))


def steps_of(result: Any) -> list[tuple[str, bool]]:
    return [(event["label"], event["reused"]) for event in result.events if event["event"] == "step"]


def entry_points(folder: Path, name: str, lines: str) -> None:
    """An installed distribution, as its metadata lies on the import path."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)


@pytest.fixture
def forget() -> Iterator[None]:
    """What is installed is looked for anew, before and after."""
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()
    for key in [key for key in registry.FOUND if key[1] not in registry.OURS[key[0]]]:
        del registry.FOUND[key]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None) -> Path:
    site = tmp_path / "site"
    points = "[selfimprove.methods]\nshortest = strangers_module:shortest\n"
    entry_points(
        site,
        "strangers",
        points + "[selfimprove.steps]\ncount_words = strangers_module:COUNT_WORDS\n"
        "[selfimprove.suites]\nvowel_share = strangers_module:vowel_share\n"
        "[selfimprove.judges]\nvowels = strangers_module:vowels\nagreement = strangers_module:agreement\n"
        "[selfimprove.samplers]\nplain = strangers_module:Plain\n",
    )
    shutil.copy(HERE / "third_party" / "mine.py", site / "strangers_module.py")
    monkeypatch.syspath_prepend(str(site))
    return site


def values(recipe: Recipe, method: str, **more: Any) -> Recipe:
    """A tiny recipe of the given one's data for another method."""
    own = yaml.safe_load(recipe.as_yaml())
    del own[recipe.section], own["judge"]
    return make_recipe({**own, "method": method, **more}, folder=Path(recipe.folder))


@pytest.mark.usefixtures("installed")
def test_an_installed_method_and_its_step_are_used_by_name(tiny_recipe: MakeRecipe, writing_model: Path) -> None:
    given = tiny_recipe("cream", rounds=1, model=str(writing_model), sampling={"max_new_tokens": 40})
    recipe = values(given, "shortest", shortest={"words": 5})
    assert recipe.options.words == 5 and step_versions()["count_words"] == 1
    result = run(recipe)
    (figures,) = [event for event in result.events if event["event"] == "figures"]
    assert figures["figures"]["wanted"] == 5 and figures["figures"]["words"] > 0
    said = {event["label"]: (event["purpose"], event["policy"]) for event in result.events if event["event"] == "step"}
    assert said["sample M0"] == ("sampling", "M0") and said["count words"] == ("count_words", None)
    assert {purpose for label, (purpose, _) in said.items() if "tiny" in label} == {"evaluation"}
    page = (Path(recipe.output) / "report.html").read_text()
    assert "What else did the method report?" in page and "How short are they?" in page and "Words by round" in page
    assert all(reused for label, reused in steps_of(run(recipe))[len(steps_of(result)) :] if "count" in label)


@pytest.mark.usefixtures("installed")
def test_a_strangers_step_that_says_nothing_is_no_guess(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    from selfimprove.cli.check import check_recipe

    console = Console(record=True, width=200, file=(tiny_data / "out.txt").open("w"))
    check_recipe(values(tiny_recipe("cream"), "shortest"), console)
    assert "step 'count_words' does not say what it takes (`dry=` of its StepKind)" in console.export_text()


@pytest.mark.usefixtures("installed")
def test_a_strangers_section_is_as_strict_as_ours(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match=r"unknown key `shortest\.word`; did you mean `words`"):
        values(tiny_recipe(), "shortest", shortest={"word": 5})
    with pytest.raises(InputError, match=r"section `score` does nothing with method 'shortest'"):
        values(tiny_recipe(), "shortest", score={})
    with pytest.raises(InputError, match=r"`sampling\.n` is 1, and method 'shortest' compares"):
        values(tiny_recipe(), "shortest", sampling={"n": 1})


def test_two_methods_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None) -> None:
    entry_points(tmp_path / "site", "clashes", "[selfimprove.methods]\ncream = nowhere:cream\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(InputError, match="two methods go by the name 'cream'"):
        registry.find("method", "dpo2")


def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: None, tiny_recipe: MakeRecipe
) -> None:
    entry_points(tmp_path / "site", "broken", "[selfimprove.methods]\nbroken = no_such_module:broken\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(
        InputError, match="'broken' of an installed package: 'no_such_module:broken' cannot be imported"
    ):
        values(tiny_recipe(), "broken")


def example_of_the_page(name: str = "my_method") -> str:
    """The method, or the judge, that docs/write-a-method.md shows."""
    (code,) = re.findall(rf"```python\n(# {name}\.py\n.*?)```", PAGE.read_text(), re.S)
    return str(code)


def test_the_pages_file_runs_with_resume_gates_evaluation_and_report(
    tiny_recipe: MakeRecipe, tiny_data: Path, writing_model: Path
) -> None:
    code = example_of_the_page()
    assert len([line for line in code.splitlines()[1:] if line.strip()]) <= 20
    (tiny_data / "my_method.py").write_text(code)
    given = tiny_recipe("cream", model=str(writing_model), sampling={"max_new_tokens": 40})
    recipe = values(given, "my_method.py:best_of_n", evaluate=["suite.yaml"])
    first = run(recipe)
    kinds = {event["event"] for event in first.events}
    assert {"step", "gate", "evaluation", "training", "done"} <= kinds
    assert first.policy.name == "M2" and (Path(recipe.output) / "report.html").is_file()
    again = run(recipe)
    assert all(reused for _, reused in steps_of(again)[len(steps_of(first)) :])
    assert again.policy.digest == first.policy.digest
    (tiny_data / "my_method.py").write_text(code + "\n")  # another file, the same steps: said, and nothing is made anew
    third = values(given, "my_method.py:best_of_n", evaluate=["suite.yaml"])
    console = Console(record=True, width=200, file=(tiny_data / "out.txt").open("w"))
    selfimprove.run(third, Progress(console))
    assert "the method changed since this run was last started" in console.export_text()


def test_check_walks_the_pages_file_which_says_nothing_of_what_it_takes(
    tiny_recipe: MakeRecipe, tiny_data: Path
) -> None:
    from selfimprove.cli.check import check_recipe

    (tiny_data / "my_method.py").write_text(example_of_the_page())
    console = Console(record=True, width=200, quiet=False, file=(tiny_data / "out.txt").open("w"))
    check_recipe(values(tiny_recipe("cream"), "my_method.py:best_of_n"), console)
    said = console.export_text()
    assert said.startswith("needs ") and "runs your code: my_method.py:best_of_n" in said
    assert "2 x SFT; 2 policies evaluated" in said and "DPO" not in said


def test_a_function_without_the_decorator_is_explained(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    (tiny_data / "plain.py").write_text("def mine(loop):\n    return loop.base_policy\n")
    with pytest.raises(InputError, match=r"'plain\.py:mine' is no method: put `@selfimprove\.method"):
        values(tiny_recipe(), "plain.py:mine")
    with pytest.raises(InputError, match=r"no file 'none\.py'"):
        values(tiny_recipe(), "none.py:mine")
    (tiny_data / "broken.py").write_text("1/0\n")
    with pytest.raises(InputError, match=r"broken\.py, line 1\): ZeroDivisionError"):
        values(tiny_recipe(), "broken.py:mine")


def test_a_judge_under_any_name_is_looked_for_before_anything_is_written(
    tiny_recipe: MakeRecipe, tiny_data: Path
) -> None:
    code = example_of_the_page().replace("    judge: JudgeOptions", "    self_reward: JudgeOptions")
    (tiny_data / "my_method.py").write_text(code.replace("options.judge", "options.self_reward"))
    own = {"self_reward": {"kind": "function", "function": "gone.py:score"}}
    recipe = values(tiny_recipe("cream"), "my_method.py:best_of_n", best_of_n=own)
    with pytest.raises(InputError, match=r"best_of_n\.self_reward\.function: no file 'gone\.py'"):
        run(recipe)
    assert not Path(recipe.output).exists()


def keys_of(recipe: Recipe, *steps: str) -> dict[str, str]:
    """The keys of a run's finished steps of some kinds, by label."""
    manifests = [json.loads(path.read_text()) for path in Path(recipe.output).glob("steps/*/manifest.json")]
    return {one["label"]: one["key"] for one in manifests if one["step"] in steps}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["vowels", "mine.py:vowels"])
def test_a_strangers_function_ranks_and_rewards(tiny_recipe: MakeRecipe, tiny_data: Path, name: str) -> None:
    shutil.copy(HERE / "third_party" / "mine.py", tiny_data / "mine.py")
    recipe = tiny_recipe("iterative_dpo", rounds=1, evaluate=[], iterative_dpo={"judge": name})
    assert run(recipe).policy.name == "M2"
    assert list(keys_of(recipe, "function")) == [f"judge {name}"]
    reward = tiny_recipe("star", rounds=1, star={"reward": {"kind": name, "right_from": 3}}).rewarded_by()
    assert reward is not None
    options, _, execution = reward_step(reward, [tiny_data], "float32", "cpu", 64)
    checker = make_checker(json.loads(json.dumps(options)), None, json.loads(json.dumps(execution)))
    assert [one.value for one in checker.check([Answered("say", "aeio", None, False)])] == [5.0]
    assert ("digest" in options) == (name != "vowels"), "a file's text is in the key"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["agreement", "my_judge.py:agreement"])
def test_a_strangers_judge_of_a_batch_ranks(tiny_recipe: MakeRecipe, tiny_data: Path, name: str) -> None:
    (tiny_data / "my_judge.py").write_text(example_of_the_page("my_judge"))

    def ranked(**judge: Any) -> Recipe:
        own = {"judge": {"kind": name, **judge}}
        return tiny_recipe("iterative_dpo", rounds=1, evaluate=[], iterative_dpo=own, gates={"max_ties": 1})

    recipe = ranked(options={"letters": 2})
    (event,) = [one for one in run(recipe).events if one["event"] == "round"]
    assert set(event["missing"]) <= {"the judge gave no score"} and name in str(event)
    assert not keys_of(recipe, "function"), "its own steps alone are kept"
    kept = (Path(recipe.output) / "recipe.yaml").read_text()
    assert yaml.safe_load(kept)["iterative_dpo"]["judge"]["options"] == {"letters": 2}
    with pytest.raises(InputError, match=r"iterative_dpo\.judge.*unknown key `letter`; did you mean `letters`"):
        run(ranked(options={"letter": 2}))
    with pytest.raises(InputError, match=r"all responses of a round at once|scores a batch of responses"):
        run(tiny_recipe("star", star={"reward": {"kind": name}}))


def test_what_a_strangers_judge_does_wrong_is_said_with_its_place(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    made = "from selfimprove import judge\n\n@judge()\ndef mine(loop, options, responses, policy):\n    return "
    recipe = tiny_recipe("iterative_dpo", rounds=1, evaluate=[], iterative_dpo={"judge": "wrong.py:mine"})
    for said, match in (
        ("{}[1]", r"judge function wrong\.py:mine raised KeyError \(.*wrong\.py, line 5\): 1"),
        ("{}", r"of 24 responses to 8 prompts it gave 0, to 0 prompts"),
        ("3", "it gave int"),
        ("{p.id: ['much'] * len(r) for p, r in responses}", "the judge gave str, not a number"),
    ):
        (tiny_data / "wrong.py").write_text(made + said + "\n")
        with pytest.raises(RunFailed, match=match):
            run(recipe)


def test_an_unknown_judge_or_sampler_is_answered_with_the_nearest(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(
        InputError, match=r"`iterative_dpo\.judge`: no judge 'majorty'; did you mean 'majority'\? There"
    ):
        tiny_recipe("iterative_dpo", iterative_dpo={"judge": {"kind": "majorty"}})
    with pytest.raises(InputError, match=r"`star\.reward`: no judge 'maths'; did you mean 'math'\? There are"):
        tiny_recipe("star", star={"reward": {"kind": "maths"}})
    with pytest.raises(InputError, match="judge 'majority' scores a batch of responses, and a reward one answer"):
        tiny_recipe("star", star={"reward": {"kind": "majority"}})
    with pytest.raises(
        InputError, match=r"`sampling\.backend`: no sampler 'vlm'; did you mean 'vllm'\? There are auto"
    ):
        tiny_recipe(sampling={"backend": "vlm"})


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["plain", "mine.py:Plain"])
def test_a_strangers_sampler_samples(tiny_recipe: MakeRecipe, tiny_data: Path, name: str) -> None:
    shutil.copy(HERE / "third_party" / "mine.py", tiny_data / "mine.py")
    recipe = tiny_recipe("cream", rounds=1, sampling={"backend": name})
    result = run(recipe)
    gates = [event for event in result.events if event["event"] == "gate" and event["gate"] == "sampler_agrees"]
    assert gates and all(event["passed"] for event in gates)
    first = keys_of(recipe, "sample")
    again = run(recipe)
    assert all(reused for _, reused in steps_of(again)[len(steps_of(result)) :])
    made = next(Path(recipe.output).glob("steps/sample-*"))
    shutil.copytree(made, alone := tiny_data / "alone")  # a worker process has the step's folder alone
    rows = [path.read_bytes() for path in alone.glob("rows-*.arrow")]
    for path in alone.glob("rows-*.arrow"):
        path.unlink()
    command, path = [sys.executable, "-m", "selfimprove.steps.worker", str(alone), "0"], os.pathsep.join(sys.path)
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    assert [path.read_bytes() for path in alone.glob("rows-*.arrow")] == rows
    with (tiny_data / "mine.py").open("a") as file:
        file.write("# another file\n")
    run(recipe)
    both = list(Path(recipe.output).glob("steps/sample-*"))
    assert len(both) == (len(first) if name == "plain" else 2 * len(first)), "a file's text is in the key"


def test_what_a_strangers_sampler_does_wrong_is_said_with_its_place(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    made = (
        "from selfimprove import Sampled\n\nclass Mine:\n    name = 'mine'\n"
        "    def __init__(self, options, execution, folder): pass\n"
        "    def set_weights(self, policy, model=None): pass\n"
        "    def sample(self, requests, decoding, advance):\n        return "
    )
    recipe = tiny_recipe("cream", rounds=1, sampling={"backend": "bad.py:Mine"})
    for said, match in (
        ("1 / 0", r"sampler bad\.py:Mine raised ZeroDivisionError \(.*bad\.py, line 8\)"),
        ("[[Sampled([2], 'stop', -1.0)] for r in requests]", r"asked for 24 responses to 8 prompts and gave 8 to 8"),
        ("[[Sampled([2], 'eos', -1.0)] * r.n for r in requests]", "with finish 'eos'; a finish is 'stop'"),
    ):
        (tiny_data / "bad.py").write_text(made + said + "\n")
        with pytest.raises(RunFailed, match=match):
            run(recipe.model_copy(update={"evaluate": ()}))
    (tiny_data / "bad.py").write_text("Mine = 3\n")
    with pytest.raises(InputError, match=r"'bad\.py:Mine' makes no sampler: a class or a function"):
        run(recipe)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["vowel_share", "mine.py:vowel_share"])
def test_a_strangers_kind_of_suites_measures(tiny_recipe: MakeRecipe, tiny_data: Path, kind: str) -> None:
    shutil.copy(HERE / "third_party" / "mine.py", tiny_data / "mine.py")
    (tiny_data / "vowels.yaml").write_text(f"name: vowels\nkind: {kind}\ndata: items.jsonl\n")
    recipe = tiny_recipe("cream", evaluate=["vowels.yaml"])
    (event,) = [one for one in run(values(recipe, "evaluate")).events if one["event"] == "evaluation"]
    assert event["suite"] == "vowels" and event["metric"] == "answers with a vowel" and event["n"] == 6
    assert 0 <= event["low"] <= event["value"] <= event["high"] <= 1
    with pytest.raises(InputError, match="unknown key `max_tokens`; did you mean `max_new_tokens`"):
        (tiny_data / "vowels.yaml").write_text(f"name: v\nkind: {kind}\ndata: items.jsonl\nmax_tokens: 3\n")
        run(values(recipe, "evaluate"))


def test_the_public_names_can_be_imported_and_are_documented() -> None:
    for name in selfimprove.__all__:
        assert getattr(selfimprove, name), name
    assert (Path(selfimprove.__file__).parent / "py.typed").is_file()
    said = PAGE.read_text()
    for name in (
        "Needs",
        "Options",
        "Loop",
        "loop.judge",
        "loop.report",
        "loop.dpo",
        "StepKind",
        "entry-points",
        "Sampler",
        "selfimprove.judge",
    ):
        assert name in said, name


def test_reading_a_recipe_does_not_import_torch() -> None:
    code = "import sys, selfimprove; selfimprove.load_recipe('cream'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recipe_may_be_a_dictionary(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "seed.jsonl", [{"prompt": "a", "response": "b"}])
    given = {"method": "sft", "output": str(tmp_path / "run"), "data": {"seed": str(tmp_path / "seed.jsonl")}}
    assert selfimprove.load_recipe(given, ["seed=3"]).seed == 3 and "seed" not in given


def test_a_run_is_read_as_data_frames(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe("cream", rounds=1)
    result = selfimprove.Result.read(run(recipe).folder)
    metrics = result.metrics()
    assert list(metrics["policy"]) == ["M0", "M1", "M2"] and set(metrics["suite"]) == {"tiny"}
    assert (metrics["low"] <= metrics["value"]).all() and (metrics["value"] <= metrics["high"]).all()
    responses, pairs = result.responses(1), result.pairs(1)
    assert len(responses) == 24 and set(responses["policy"]) == {"M1"} and (responses["tokens"] > 0).all()
    assert 0 < len(pairs) <= 8 and set(pairs["prompt_id"]) <= set(responses["prompt_id"])
    assert result.responses(7).empty and result.pairs(0).empty
    assert "kept M2" in result._repr_html_() and result.policy_folder is not None
    with pytest.raises(InputError, match="no run here"):
        selfimprove.Result.read(recipe.folder)


def test_the_notebook_runs(tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, writing_model: Path) -> None:
    """Every cell of docs/a-run-from-python.ipynb, on a tiny recipe in the place of the quickstart."""
    small = tiny_recipe("sharpening", rounds=1, model=str(writing_model), sampling={"max_new_tokens": 40})
    monkeypatch.setattr(selfimprove, "load_recipe", lambda name, overrides: small, raising=False)
    notebook = json.loads((PAGE.parent / "a-run-from-python.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "no output is kept in the repository"
            exec(cell["source"], names)
    assert names["result"].policy.name == "M1" and len(names["responses"]) == 24
