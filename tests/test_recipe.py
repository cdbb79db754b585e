"""Recipes are strict: what is misspelt, missing or out of place is said with its key, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from selfimprove.errors import InputError
from selfimprove.recipe.recipe import Recipe, changed_keys, load_recipe, make_recipe
from selfimprove.recipe.sections import Lora
from selfimprove.shipped import shipped_recipes

SFT = {"method": "sft", "output": "runs/x", "data": {"seed": "seed.jsonl"}}
CREAM = {**SFT, "method": "cream", "data": {"seed": "seed.jsonl", "prompts": "prompts.jsonl"}}
SHIPPED = sorted((Path(__file__).parent.parent / "recipes").glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def _free_models() -> None:
    """No model is loaded here, and collecting garbage after every test takes longer than the tests."""


def write(folder: Path, text: str | dict[str, Any], name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


def refusal(folder: Path, text: str | dict[str, Any], *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(write(folder, text), overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "key", "near"),
    [
        ({"trainning": {}}, "trainning", "training"),
        ({"sampling": {"temprature": 1}}, "sampling.temprature", "temperature"),
        ({"training": {"learning_rat": 1e-4}}, "training.learning_rat", "learning_rate"),
        ({"training": {"lora": {"alhpa": 8}}}, "training.lora.alhpa", "alpha"),
        ({"data": {"seed": {"path": "a", "limt": 3}}}, "data.seed.0.limt", "limit"),
        ({"data": {"seed": ["a", {"path": "a", "feilds": {}}]}}, "data.seed.1.feilds", "fields"),
        ({"gates": {"max_tie": 0.1}}, "gates.max_tie", "max_ties"),
    ],
)
def test_a_misspelt_key_names_the_one_that_was_meant(
    tmp_path: Path, values: dict[str, Any], key: str, near: str
) -> None:
    message = refusal(tmp_path, {**SFT, **values})
    assert f"unknown key `{key}`; did you mean `{near}`?" in message
    assert str(tmp_path / "mine.yaml") in message


def test_a_misspelt_judge_option_names_the_one_that_was_meant(tmp_path: Path) -> None:
    values = {**CREAM, "method": "iterative_dpo", "iterative_dpo": {"judge": {"kind": "rubric", "rubrik": "x"}}}
    assert "unknown key `iterative_dpo.judge.rubrik`; did you mean `rubric`?" in refusal(tmp_path, values)


def test_a_key_that_is_like_none_lists_what_is_known(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**SFT, "training": {"lora": {"rank": 8}}})
    assert "unknown key `training.lora.rank`; known here: r, alpha, dropout, target_modules" in message


def test_the_internal_folder_is_no_key(tmp_path: Path) -> None:
    assert "unknown key `folder`" in refusal(tmp_path, {**SFT, "folder": "/elsewhere"})


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, {**SFT, "rounds": 0, "sampling": {"n": "many", "typical_p": 5}}).splitlines()
    assert len(lines) == 3 and all(line.startswith(str(tmp_path)) for line in lines)


@pytest.mark.parametrize(
    ("values", "key", "found"),
    [
        ({"sampling": {"n": "three"}}, "sampling.n", "'three'"),
        ({"sampling": {"n": 0}}, "sampling.n", "0"),
        ({"sampling": {"top_p": 1.5}}, "sampling.top_p", "1.5"),
        ({"sampling": {"temperature": 0}}, "sampling.temperature", "0"),
        ({"sampling": 3}, "sampling", "3"),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate", "'fast'"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate", "inf"),
        ({"training": {"epochs": float("nan")}}, "training.epochs", "nan"),
        ({"training": {"lora": "yes"}}, "training.lora", "'yes'"),
        ({"training": {"lora": {"dropout": 1}}}, "training.lora.dropout", "1"),
        ({"rounds": 0}, "rounds", "0"),
        ({"seed": 1.5}, "seed", "1.5"),
        ({"output": None}, "output", "None"),
        ({"evaluate": "words"}, "evaluate", "'words'"),
        ({"gates": {"disabled": ["nothing"]}}, "gates.disabled.0", "'nothing'"),
        ({1: 2}, "1", "1"),
    ],
)
def test_a_wrong_value_is_said_with_its_key_and_what_was_found(
    tmp_path: Path, values: dict[Any, Any], key: str, found: str
) -> None:
    message = refusal(tmp_path, {**SFT, **values})
    assert f"key `{key}`: " in message
    assert message.endswith(f"; found {found}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml: no such file and no shipped recipe.*`selfimprove ls`"):
        load_recipe(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_recipe(tmp_path)


def test_broken_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, "method: sft\noutput: x\ndata: {seed: [a, b}\n")
    assert "mine.yaml: not valid YAML: line 3" in message
    assert "mine.yaml: not valid YAML: line 2" in refusal(tmp_path, "method: sft\n\toutput: x\n")


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a\n- b\n", "list"), ("just words", "str")])
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str, found: str) -> None:
    assert refusal(tmp_path, text).endswith(f"a recipe is a mapping of keys; found {found}")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"method: sft\noutput: \xff\xfe\n")
    with pytest.raises(InputError, match=r"mine\.yaml: cannot be read"):
        load_recipe(tmp_path / "mine.yaml")


def test_yaml_tags_run_no_code(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, "method: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({**CREAM, "data": {"prompts": "prompts.jsonl"}}, "method 'cream' needs `data.seed`"),
        ({**CREAM, "data": {"seed": "seed.jsonl"}}, "method 'cream' needs `data.prompts`"),
        ({**CREAM, "method": "srlm", "data": {"prompts": "prompts.jsonl"}}, "method 'srlm' needs `data.seed`"),
        ({**CREAM, "method": "dpo"}, "method 'dpo' needs `data.pairs`"),
        ({"method": "evaluate", "output": "x"}, "needs at least one suite under `evaluate`"),
        ({**SFT, "data": {"seed": None}}, "method 'sft' needs `data.seed`"),
        ({**CREAM, "seed": -1}, "seed"),
        ({**CREAM, "seed": 2**32}, "seed"),
        (
            {**CREAM, "method": "iterative_dpo", "iterative_dpo": {"sft": False}},
            "the implicit reward of every response is 0",
        ),
        ({**CREAM, "method": "iterative_dpo", "data": {"prompts": "p"}}, "set iterative_dpo.sft=false"),
        ({**SFT, "keep": "best"}, "needs a `development` suite"),
        ({**SFT, "evaluate": ["words"], "development": "words"}, "must not be one of the suites under `evaluate`"),
        ({"output": "x", "data": {"seed": "s"}}, "key `method` is missing"),
    ],
)
def test_what_a_method_needs_is_asked_for(tmp_path: Path, values: dict[str, Any], missing: str) -> None:
    assert missing in refusal(tmp_path, values)


@pytest.mark.parametrize(
    ("values", "section"),
    [
        ({**SFT, "cream": {"weight": "dyn"}}, "cream"),
        ({**SFT, "cream": {}}, "cream"),
        ({**CREAM, "iterative_dpo": {"sft": False}}, "iterative_dpo"),
        ({**CREAM, "method": "srlm", "cream": {"floor": True}}, "cream"),
    ],
)
def test_a_section_of_another_method_is_refused(tmp_path: Path, values: dict[str, Any], section: str) -> None:
    assert f"section `{section}` does nothing with method '{values['method']}'" in refusal(tmp_path, values)


# ---- overrides


def test_overrides_replace_keys_at_any_depth(tmp_path: Path) -> None:
    path = write(tmp_path, {**SFT, "sampling": {"n": 8, "top_p": 0.5}})
    recipe = load_recipe(
        path, ["training.lora=true", "sampling.n=3", "training.learning_rate=1e-4", "output=runs/other", "seed=7"]
    )
    assert recipe.training.lora == Lora()
    assert (recipe.sampling.n, recipe.sampling.top_p) == (3, 0.5)
    assert recipe.training.learning_rate == 1e-4, "YAML reads 1e-4 as text"
    assert (recipe.output, recipe.seed) == ("runs/other", 7)


def test_overrides_read_yaml_values(tmp_path: Path) -> None:
    path = write(tmp_path, {**SFT, "training": {"lora": {"r": 4}}})
    assert load_recipe(path, ["training.lora=false"]).training.lora is None
    assert load_recipe(path, ["training.lora=null"]).training.lora is None
    assert load_recipe(path, ["training.lora.alpha=2"]).training.lora == Lora(r=4, alpha=2)
    assert load_recipe(path, ["training.lora=true", "training.lora.r=2"]).training.lora == Lora(r=2)
    assert [one.suite for one in load_recipe(path, ["evaluate=[words]"]).evaluate] == ["words"]
    assert load_recipe(path, ["output=a=b"]).output == "a=b"


@pytest.mark.parametrize("override", ["sampling.n", "=3", ""])
def test_an_override_without_key_or_value_shows_how_one_looks(tmp_path: Path, override: str) -> None:
    message = refusal(tmp_path, SFT, override)
    assert f"override {override!r}: expected key=value, for example training.learning_rate=1e-4" in message


def test_an_override_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    assert "override 'evaluate=[words': the value is not valid YAML" in refusal(tmp_path, SFT, "evaluate=[words")


@pytest.mark.parametrize("override", ["sampling.m=3", "samplin.n=3", "seed.x=3"])
def test_an_override_of_no_known_key_is_refused(tmp_path: Path, override: str) -> None:
    assert "`" + override.split("=")[0].split(".")[0] in refusal(tmp_path, SFT, override)


# ---- reading, writing and comparing


def test_data_may_be_a_path_a_mapping_or_a_list(tmp_path: Path) -> None:
    forms = ["a.jsonl", {"path": "a.jsonl"}, ["a.jsonl"], [{"path": "a.jsonl"}]]
    recipes = [load_recipe(write(tmp_path, {**SFT, "data": {"seed": form}})) for form in forms]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_a_recipe_without_output_runs_under_its_own_name(tmp_path: Path) -> None:
    values = {name: value for name, value in SFT.items() if name != "output"}
    assert load_recipe(write(tmp_path, values, "first.yaml")).output == "runs/first"
    with pytest.raises(InputError, match="key `output` is missing"):
        make_recipe(values)


HUB = {"hub": "org/set", "config": "main", "revision": "abc", "where": {"level": 1}, "fields": {"prompt": "question"}}
DEEP: dict[str, Any] = {
    **CREAM,
    "data": {"seed": ["seed.jsonl", {"path": "b.jsonl", "limit": 3, "template": "{x}?"}], "prompts": HUB},
    "training": {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}, "gradient_checkpointing": True},
    "cream": {"weight": "dyn", "floor": True},
    "evaluate": ["words"],
    "development": "development.yaml",
    "keep": "best",
    "gates": {"disabled": ["consistency"], "max_ties": 0.5},
    "seed": 3,
}
JUDGED = {**CREAM, "method": "iterative_dpo", "iterative_dpo": {"judge": {"kind": "rubric", "rubric": "five-points"}}}


@pytest.mark.parametrize(
    "values", [SFT, CREAM, DEEP, JUDGED, {**CREAM, "method": "srlm"}, {**CREAM, "training": {"lora": True}}]
)
def test_the_resolved_recipe_reads_back_as_the_same(tmp_path: Path, values: dict[str, Any]) -> None:
    recipe = load_recipe(write(tmp_path, values))
    again = load_recipe(write(tmp_path, recipe.as_yaml(), "resolved.yaml"))
    assert again == recipe
    assert again.as_yaml() == recipe.as_yaml()


def test_the_resolved_recipe_has_every_option_of_its_method() -> None:
    written = yaml.safe_load(make_recipe(CREAM).as_yaml())
    assert set(written) == {*Recipe.model_fields, "cream"} - {"folder"}
    assert set(written["cream"]) == {"measure", "weight", "constant", "first_round", "floor"}
    assert written["training"]["lora"] is None


def test_changed_keys_name_every_leaf_that_differs() -> None:
    def resolved(**values: Any) -> dict[str, Any]:
        return yaml.safe_load(make_recipe({**CREAM, **values}).as_yaml())

    assert changed_keys(resolved(), resolved()) == []
    changed = resolved(sampling={"n": 3}, training={"lora": True}, evaluate=["words"])
    assert changed_keys(resolved(), changed) == [
        "sampling.n: 5 -> 3",
        "training.lora: None -> {'r': 32, 'alpha': 64, 'dropout': 0.1, 'target_modules': 'all-linear'}",
        "evaluate: [] -> ['words']",
    ]
    assert changed_keys({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> None", "b: None -> {'c': 2}"]


# ---- what is shipped


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_recipe_loads_and_is_short(path: Path) -> None:
    recipe = load_recipe(path)
    assert len(path.read_text().splitlines()) < 40, "a recipe is read at a glance"
    assert load_recipe(f"{path.parent.name}/{path.stem}") == recipe


def test_shipped_recipes_are_known_by_name() -> None:
    assert list(shipped_recipes().values()) == SHIPPED


def test_the_accelerate_files_that_recipes_name_are_shipped() -> None:
    for path in shipped_recipes().values():
        recipe = load_recipe(path)
        if recipe.training.accelerate:
            found = next(
                p for folder in recipe.search_folders() if (p := folder / recipe.training.accelerate).is_file()
            )
            assert yaml.safe_load(found.read_text())["num_processes"] == recipe.training.processes


def test_what_compares_responses_needs_two(tmp_path: Path) -> None:
    assert "`sampling.n` is 1, and method 'cream'" in refusal(tmp_path, {**CREAM, "sampling": {"n": 1}})
    data = {"prompts": "labelled.jsonl"}
    recipe = make_recipe({"method": "self_judge", "output": "runs/x", "data": data, "sampling": {"n": 1}})
    assert recipe.sampling.n == 1 and recipe.rounds == 1


def test_a_section_that_is_null_is_not_given() -> None:
    """So that a command line or an arm of a study can have another method than the recipe that it changes."""
    values = {**CREAM, "cream": {"weight": "dyn"}}
    assert make_recipe({**values, "method": "srlm", "cream": None}).method == "srlm"
    with pytest.raises(InputError, match="section `cream` does nothing with method 'srlm'"):
        make_recipe({**values, "method": "srlm"})
    assert make_recipe({**values, "judge": None, "evaluate": None}).evaluate == ()


def test_an_unknown_method_names_the_nearest_and_how_to_give_your_own(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**SFT, "method": "creme"})
    assert "key `method`: no method 'creme'; did you mean 'cream'?" in message
    assert "file.py:thing beside the recipe" in message
