"""The bridge to lm-evaluation-harness: its figures against plain transformers, results found again, and refusals."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import save_tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import Store
from selfimprove.errors import InputError, RunFailed
from selfimprove.loop.loop import Loop
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.suites import lm_eval as bridge
from selfimprove.suites.lm_eval import TaskFigure, run_tasks

TASKS = Path(__file__).parent / "data" / "lm_eval"
ITEMS = [json.loads(line) for line in (TASKS / "capitals.jsonl").read_text().splitlines()]
needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval (pip install -e '.[lm-eval]')")


@pytest.fixture(autouse=True)
def _beside_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TASKS.parent.parent)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes most answers."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


def figures(policy: Policy, tasks: Sequence[str], **options: Any) -> dict[tuple[str, str], TaskFigure]:
    found = run_tasks(policy, tasks, include_path=TASKS, **options)
    return {(one.task, one.metric): one for one in found}


def by_hand(model: Any, tokenizer: Any, before: str = "Question: {}\nAnswer:", space: str = " ") -> tuple[float, float]:
    """(acc, acc_norm): the likeliest choice by summed log-probs, and by those divided by the choice's characters."""
    right, right_by_length = [], []
    for item in ITEMS:
        prompt = tokenizer(before.format(item["question"]), add_special_tokens=False)["input_ids"]
        values = []
        for choice in item["choices"]:
            answer = tokenizer(space + choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_probs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            values.append(sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)))
        per_character = [value / len(choice) for value, choice in zip(values, item["choices"], strict=True)]
        right.append(values.index(max(values)) == item["answer"])
        right_by_length.append(per_character.index(max(per_character)) == item["answer"])
    return sum(right) / len(right), sum(right_by_length) / len(right)


@needs_lm_eval
def test_accuracy_is_that_of_the_models_log_probs_with_and_without_adapter(tiny_model: Path, adapter: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plain = by_hand(model, tokenizer)
    adapted = by_hand(PeftModel.from_pretrained(model, adapter).eval(), tokenizer)
    assert plain != adapted
    for folder, expected in ((tiny_model, plain), (adapter, adapted)):
        policy = resolve_policy(str(folder))
        found = figures(policy, ["si_capitals"])
        one = found["si_capitals", "acc"]
        assert (one.value, found["si_capitals", "acc_norm"].value) == pytest.approx(expected)
        assert one.standard_error == pytest.approx((one.value * (1 - one.value) / 11) ** 0.5)
        assert (one.n, one.filter, one.version, one.num_fewshot, one.truncated) == (12, "none", "2.0", 0, 0)
        assert one.higher_is_better and one.policy_digest == policy.digest


@needs_lm_eval
def test_chat_puts_the_question_into_a_turn(tiny_model: Path, tiny_policy: Policy) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    chatml = "<|im_start|>user\nQuestion: {}\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = by_hand(model, tokenizer, chatml, space="")  # lm-eval puts none behind the generation prompt
    found = figures(tiny_policy, ["si_capitals"], chat=True)
    assert tuple(found["si_capitals", name].value for name in ("acc", "acc_norm")) == pytest.approx(expected)


@needs_lm_eval
def test_a_group_a_text_task_and_perplexity(tiny_policy: Policy, capfd: pytest.CaptureFixture[str]) -> None:
    found = run_tasks(tiny_policy, ["si_both", "si_surprise"], include_path=TASKS, num_fewshot=1, limit=4)
    assert [(one.task, one.metric, one.n) for one in found] == [
        ("si_both", "acc", 8),
        ("si_capitals", "acc", 4),
        ("si_capitals", "acc_norm", 4),
        ("si_words", "exact_match", 4),
        ("si_surprise", "bits_per_byte", 4),
    ]
    assert found[0].value == found[1].value and found[0].version == "3"
    assert found[1].num_fewshot == 1 and not found[4].higher_is_better and found[4].standard_error is None
    out, said = capfd.readouterr()
    assert out == "" and "it/s" not in said and "WARNING" not in said
    assert "si_both: 16 requests" in said and "si_surprise: done, 4 documents" in said
    assert "si_words: 0 examples, not 1: its task file fixes the number" in said
    json.dumps([one.as_json() for one in found])


@needs_lm_eval
def test_results_are_found_again_and_never_from_a_damaged_file(
    tiny_policy: Policy, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = figures(tiny_policy, ["si_capitals"], output=tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.read_text()
    assert json.loads(written)["policy_digest"] == tiny_policy.digest
    capsys.readouterr()
    assert figures(tiny_policy, ["si_capitals"], output=tmp_path, batch_size=3) == first
    assert capsys.readouterr().err == "si_capitals: already done, reused\n"
    path.write_text(written.replace('"n": 12', '"n": 13'))
    assert figures(tiny_policy, ["si_capitals"], output=tmp_path) == first
    path.write_text(written[:200])
    assert figures(tiny_policy, ["si_capitals"], output=tmp_path) == first
    assert capsys.readouterr().err.count("damaged; si_capitals is measured again") == 2
    assert path.read_text() == written
    # anything else that was asked is another result
    figures(tiny_policy, ["si_capitals"], output=tmp_path, limit=3)
    figures(resolve_policy(str(adapter)), ["si_capitals"], output=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_changed_task_file_is_another_task(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a\n")
    before = bridge._folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "code.pyc").write_text("x")
    assert bridge._folder_digest(tmp_path) == before
    (tmp_path / "a.yaml").write_text("task: b\n")
    assert bridge._folder_digest(tmp_path) != before


@needs_lm_eval
def test_what_was_cut_is_counted_and_said(tiny_policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven examples of 45 bytes and the question are more than the tiny model's 512 positions."""
    one = figures(tiny_policy, ["si_capitals"], num_fewshot=11, limit=2)["si_capitals", "acc"]
    assert one.truncated == 8
    assert "si_capitals: 8 requests were longer than the model's context" in capsys.readouterr().err


@needs_lm_eval
def test_a_model_that_diverged_gets_no_figure(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    with pytest.raises(RunFailed, match="si_capitals: the model's log-likelihoods are not numbers"):
        figures(resolve_policy(str(tmp_path / "model")), ["si_capitals"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- refusals


def test_without_lm_eval_the_error_says_what_to_install(tiny_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match="pip install 'lm-eval>="):
        run_tasks(tiny_policy, ["arc_easy"])


@needs_lm_eval
@pytest.mark.parametrize(
    ("tasks", "options", "said"),
    [
        ([], {}, "--tasks: name at least one task"),
        (["si_capitls"], {}, "no task 'si_capitls'; did you mean si_capitals"),
        (["si_capitals", "arc_eesy"], {}, "no task 'arc_eesy'; did you mean arc_easy"),
        (["qqqqqqqqqqqqqqqqqqqqq"], {}, "`lm-eval ls tasks` lists all there are"),
        (["si_capitals"], {"limit": 0}, "--limit: must be 1 or more; found 0"),
        (["si_capitals"], {"num_fewshot": -1}, "--num-fewshot: must be 0 or more; found -1"),
        (["si_capitals"], {"include_path": Path("nowhere")}, "--include-path: nowhere is not a folder"),
        (["si_missing_file"], {}, "si_missing_file (json): the data are not there (FileNotFoundError"),
    ],
)
def test_wrong_options_are_said(tiny_policy: Policy, tasks: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        run_tasks(tiny_policy, tasks, **{"include_path": TASKS, **options})
    assert said in str(refused.value)


@needs_lm_eval
def test_data_that_cannot_be_fetched_are_said_with_the_task(
    tiny_policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"data of si_elsewhere \(selfimprove-tests/nowhere\) cannot be fetched"):
        figures(tiny_policy, ["si_elsewhere"])


@needs_lm_eval
def test_chat_needs_a_template(tmp_path: Path) -> None:
    policy = resolve_policy(str(save_tiny_model(tmp_path / "plain", template=None)))
    with pytest.raises(InputError, match="has no chat template; measure it without --chat"):
        figures(policy, ["si_capitals"], chat=True)


# ---- lm-eval's own bars


def test_bars_that_take_long_are_shown_as_ours() -> None:
    shown = io.StringIO()
    bars = bridge._Bars(Progress(Console(file=shown), interval=0.0), "mmlu")
    for total, elapsed in ((50, 0.5), (900, 3.0)):
        for done in (0, total // 2, total):
            bars.write("\r" + tqdm.format_meter(done, total, elapsed, prefix="Building"))
    bars.end()
    assert shown.getvalue().splitlines() == [
        "mmlu, prompts: 900 left to do",
        "mmlu, prompts: 50% (450 of 900 left to do), 0 s left",
        "mmlu, prompts: done, 900 left to do in 0.0 s",
    ]


# ARC's and OpenBookQA's own forms, on items of ours: lm-eval's question, our template, and the columns that both read
FORMS = {
    "arc": ("Question: {{question}}\nAnswer:", {"template": "Question: {question}\nAnswer:"}, "question"),
    "openbookqa": ("question_stem", {"fields": {"prompt": "question_stem"}}, "question_stem"),
}
ASKED = [
    ("Which is a source of light?", ["the sun", "a stone that lies in the dark", "soil", "a wooden chair"]),
    ("Frozen water is called", ["ice", "steam from a kettle", "sea", "rain that falls in autumn"]),
    ("Which of these is an animal?", ["oak tree", "a frog", "granite", "the wind over the hills"]),
    ("A magnet attracts", ["iron", "paper made of wood", "glass", "a leaf"]),
    ("Plants need this to grow:", ["sunlight and water", "music", "salt", "a roof over their heads"]),
    ("Which moves fastest?", ["light", "a snail on a wall", "sound in air", "a train"]),
]


@needs_lm_eval
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("score", "metric"), [("summed", "acc"), ("per_character", "acc_norm")])
def test_a_choice_is_the_one_that_lm_eval_takes(
    form: str, score: str, metric: str, tiny_recipe: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """The data are labelled with what the suite takes of each item, so lm-eval agrees with each where it has 100%.

    lm-eval counts white space at the end of a prompt to the choice (`_encode_pair`): of ChatML's prompt the line
    break, which is the same of all choices, but not over their lengths. So this template ends with none."""
    shutil.copytree(tiny_model, tmp_path / "model")
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    template = turns + "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "model")
    policy = resolve_policy(str(tmp_path / "model"))
    theirs, ours, column = FORMS[form]
    rows = [
        {"id": str(n), column: asked, "choices": {"text": choices, "label": list("ABCD")}, "answerKey": "A"}
        for n, (asked, choices) in enumerate(ASKED)
    ]
    taken = {}
    for label in "ABCD":
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(row | {"answerKey": label}) + "\n" for row in rows))
        data = {
            "path": str(tmp_path / "items.jsonl"),
            **ours,
            "fields": {"answer": "answerKey", **ours.get("fields", {})},
        }
        suite = {"suite": "mc", "kind": "multiple_choice", "data": data, "score": score}
        recipe = tiny_recipe("evaluate", evaluate=[suite], model=str(tmp_path / "model"))
        with EventLog(Path(recipe.output)) as events:
            loop = Loop(recipe, Store(Path(recipe.output) / "steps"), events, Progress(Console(file=io.StringIO())))
            values = loop.evaluator.evaluate(loop.base_policy, 0)["mc"]["values"]
        taken |= {row["id"]: label for row, value in zip(rows, values, strict=True) if value}
    assert len(taken) == len(rows) and len(set(taken.values())) > 1
    labelled = "".join(json.dumps(row | {"answerKey": taken[str(row["id"])]}) + "\n" for row in rows)
    (tmp_path / "items.jsonl").write_text(labelled)
    task = {
        **{"task": f"si_{form}", "dataset_path": "json", "output_type": "multiple_choice", "test_split": "test"},
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "items.jsonl")}},
        **{"doc_to_text": theirs, "doc_to_choice": "{{choices.text}}"},
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1.0},
    }
    (tmp_path / f"{form}.yaml").write_text(yaml.safe_dump(task))
    found = run_tasks(policy, [f"si_{form}"], include_path=tmp_path, chat=True)
    assert {one.metric: one.value for one in found}[metric] == 1.0


MINERVA = """
task: si_minerva
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
process_docs: !function own.process_docs
doc_to_text: !function own.doc_to_text
process_results: !function own.process_results
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Problem:"], do_sample: false, max_gen_toks: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: math_verify, aggregation: mean, higher_is_better: true}}
"""
SAME = [
    ("\\frac{1}{2}", "0.5"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("\\frac{\\pi}{2}", "\\frac{2\\pi}{4}"),
]


@needs_lm_eval
def test_minerva_math_loads_and_knows_what_is_equal_beside_math_verify(tiny_policy: Policy, tmp_path: Path) -> None:
    functions = "from lm_eval.tasks.minerva_math.utils import doc_to_text, process_docs, process_results\n"
    (tmp_path / "own.py").write_text(functions)
    row = {"problem": "1 + 1?", "solution": "It is $\\boxed{2}$."}
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "minerva.yaml").write_text(MINERVA.format(data=tmp_path / "items.jsonl"))
    before = version("antlr4-python3-runtime")
    found = run_tasks(tiny_policy, ["si_minerva"], include_path=tmp_path)
    assert [(one.metric, one.n) for one in found] == [("exact_match", 1), ("math_verify", 1)]
    from lm_eval.tasks.minerva_math import utils

    assert all(utils.is_equiv(*both) for both in SAME) and not utils.is_equiv("3", "4")
    assert version("antlr4-python3-runtime") == before


def test_the_extra_brings_what_ifeval_imports() -> None:
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any("lm-eval[ifeval]" in one for one in extras["lm-eval"])
