"""The lab: truths and splits, the corpus's shares of wrong answers, tokenizer and template, and one small run."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.lab import judges, tasks
from benchmarks.lab.collect import auroc
from benchmarks.lab.methods import FAMILIES, lab_recipe
from benchmarks.lab.model import CORPUS, Size, encoder, make_tokenizer, train_base, transcript
from benchmarks.lab.run import run_one, seeds_of, write_results
from selfimprove.models.chat import append_turn, render_example
from selfimprove.suites.suite_kinds import SelfCorrection
from selfimprove.suites.suites import load_suite


def truth_of(prompt: str) -> str:
    """The answer, found in another way than the tasks do."""
    if "+" in prompt:
        return str(sum(map(int, prompt.split("+"))))
    task, letters = prompt.split(" ")
    if task == "reverse":
        return "".join(letters[-place - 1] for place in range(len(letters)))
    return "".join(letter * letters.count(letter) for letter in tasks.LETTERS)


def test_items_have_their_truth_and_fit() -> None:
    rng = random.Random(0)
    for _ in range(600):
        item = tasks.draw(rng.choice(list(tasks.SPLITS)), rng, rng.choice(tasks.TASKS))
        assert item.answer == truth_of(item.prompt)
        wrong = tasks.wrong_answer(item, rng)
        assert wrong != item.answer
        assert max(len(wrong), len(item.answer)) < tasks.MAX_NEW_TOKENS
        assert 0 <= tasks.grade(item.answer, wrong) < tasks.grade(item.answer, item.answer) == 1


def test_grade_by_hand() -> None:
    assert tasks.grade("abcd", "abdc") == 0.5
    assert tasks.grade("12", "123") == pytest.approx(2 / 3)
    assert tasks.grade("12", "") == 0


def test_splits_are_disjoint_within_and_between_seeds(tmp_path: Path) -> None:
    prompts: dict[str, set[str]] = {split: set() for split in tasks.ROWS}
    for seed in (0, 1):
        tasks.write_splits(tmp_path / str(seed), seed)
        for split, count in tasks.ROWS.items():
            rows = [json.loads(line) for line in (tmp_path / str(seed) / f"{split}.jsonl").open()]
            assert len({row["prompt"] for row in rows}) == count
            assert all(("response" in row) == (split == "sft") for row in rows)
            prompts[split] |= {row["prompt"] for row in rows}
    rng = random.Random(0)
    prompts["base"] = {tasks.draw("base", rng).prompt for _ in range(3000)}
    assert sum(map(len, prompts.values())) == len(set.union(*prompts.values()))
    suite = load_suite(str(tmp_path / "0" / "evaluation-turns.yaml"), [Path("/")]).suite
    assert isinstance(suite, SelfCorrection) and suite.instruction == tasks.INSTRUCTION


def test_data_follow_from_the_seed(tmp_path: Path) -> None:
    for place, seed in (("a", 3), ("b", 3), ("c", 4)):
        tasks.write_splits(tmp_path / place, seed)
    a, b, c = ((tmp_path / place / "prompts.jsonl").read_text() for place in "abc")
    assert a == b != c


def test_corpus_has_its_shares_of_wrong_answers() -> None:
    rng = random.Random(0)
    items = [tasks.draw("base", rng) for _ in range(4000)]
    talks = [(item, [turn["content"] for turn in transcript(item, CORPUS, rng)]) for item in items]
    singles = [(item, said) for item, said in talks if len(said) == 2]
    dialogues = [(item, said) for item, said in talks if len(said) == 4]
    wrong = [(item, said) for item, said in dialogues if said[1] != item.answer]
    right = [(item, said) for item, said in dialogues if said[1] == item.answer]
    assert all(said[2] == tasks.INSTRUCTION for _, said in dialogues)
    for share, found, of in (
        (CORPUS.dialogues, len(dialogues), len(talks)),
        (CORPUS.wrong_single, sum(said[1] != item.answer for item, said in singles), len(singles)),
        (CORPUS.wrong_first, len(wrong), len(dialogues)),
        (CORPUS.fixed, sum(said[3] == item.answer for item, said in wrong), len(wrong)),
        (CORPUS.spoilt, sum(said[3] != item.answer for item, said in right), len(right)),
    ):
        assert stats.binomtest(found, of, share).pvalue > 1e-3


def test_judges_turn_their_share_of_labels_round() -> None:
    prompts = [item.prompt for item in tasks.distinct_items("prompts", 4000, 0)]
    for judge, share in ((judges.truth, 0.0), (judges.truth_20, 0.2), (judges.truth_40, 0.4)):
        turned = sum(judge(prompt, "12", "12") < judge(prompt, "13", "12") for prompt in prompts)
        assert stats.binomtest(turned, len(prompts), share).pvalue > 1e-3


def test_auroc_by_hand() -> None:
    assert auroc([2, 1], [0, 1]) == (1 + 1 + 1 + 0.5) / 4
    assert auroc([], [1]) is None
    assert seeds_of("0-2,7") == [0, 1, 2, 7]


def test_every_method_is_a_recipe(tmp_path: Path) -> None:
    for family, one in FAMILIES.items():
        for method in one.methods:
            assert lab_recipe(tmp_path, family, method, 3).seed == 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that was hardly trained, and its data."""
    folder = tmp_path_factory.mktemp("lab")
    train_base(folder / "base-0", 0, size=Size(steps=3, batch=8), log=lambda _: None)
    tasks.write_splits(folder / "data-0", 0)
    return folder


def test_tokenizer_writes_and_reads_every_item(lab: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lab / "base-0")
    rng = random.Random(0)
    for _ in range(100):
        item = tasks.draw("base", rng, rng.choice(tasks.TASKS))
        for text in (item.prompt, item.answer):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(tasks.INSTRUCTION)["input_ids"]) == 1


def test_the_corpus_is_encoded_as_the_template_does(lab: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lab / "base-0")
    assert len(tokenizer) == len(make_tokenizer())
    turns = [
        {"role": "user", "content": "sort caba"},
        {"role": "assistant", "content": "aabc"},
        {"role": "user", "content": tasks.INSTRUCTION},
        {"role": "assistant", "content": "abca"},
    ]
    ids, own = encoder()(turns)
    prompt, answer = render_example(tokenizer, turns[:1], "aabc")
    asked = append_turn(tokenizer, prompt + answer, tasks.INSTRUCTION)
    second = render_example(tokenizer, turns[:3], "abca")
    assert ids == second[0] + second[1]
    assert asked == second[0]
    assert [id for id, trained in zip(ids, own, strict=True) if trained] == answer + second[1]


def test_a_base_follows_from_its_seed(lab: Path, tmp_path: Path) -> None:
    again = train_base(tmp_path / "again", 0, size=Size(steps=3, batch=8), log=lambda _: None)
    first, second = (AutoModelForCausalLM.from_pretrained(folder) for folder in (lab / "base-0", again))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert one.equal(other)


def test_one_small_run_from_base_to_results(lab: Path, tmp_path: Path) -> None:
    small = {
        "rounds": 2,
        "data.seed_limit": 64,
        "data.prompts_per_round": 16,
        "sft.epochs": 1,
        "evaluate_limit": 20,
        "sampling.temperature": 0.7,
    }
    for method in ("srlm", "truth-40"):
        recipe = lab_recipe(lab, "cream", method, 0, small)
        figures = run_one(recipe)
        assert run_one(recipe) == figures
        assert set(figures["evaluations"]["lab-evaluation"]) == {"M0", "M1", "M2", "M3"}
        for one in figures["rounds"]:
            assert sum(one["labels"].values()) == one["pairs"] > 0
        write_results(tmp_path / "results.json", "cream", {method: {"0": figures}})
        if method == "srlm":
            assert figures["rounds"][1]["prediction"]["n_right"] <= figures["rounds"][1]["labels"]["right"]
            assert -1 <= figures["rounds"][1]["tau_untied"] <= 1
    assert set(json.loads((tmp_path / "results.json").read_text())["runs"]) == {"srlm", "truth-40"}
