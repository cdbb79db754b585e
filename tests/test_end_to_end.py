"""The real model: SmolLM2-135M-Instruct through a whole, small CREAM run, as a person starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfimprove.models.resolve import resolve_policy

pytestmark = pytest.mark.real_model

OVERRIDES = (
    *("rounds=1", "data.seed_limit=12", "data.prompts_per_round=12", "sampling.n=3", "sft.epochs=2"),
    *(
        "evaluate_limit=6",
        "training.checkpoint_steps=2",
        "gates.disabled=[consistency]",
        "sampling.backend=transformers",
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("real") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "selfimprove", "run", "smollm2-135m/cream", f"output={output}", *OVERRIDES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "report:" in done.stdout
    for noise in ("Warning", "warn(", "it/s", "Loading weights"):
        assert noise not in done.stderr, done.stderr
    return output


def test_real_run_ends_with_a_report_and_every_gate_recorded(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    gates = {event["gate"] for event in events if event["event"] == "gate" and event["passed"]}
    assert {
        "rendering",
        "dpo_start",
        "sampler_agrees",
        "weights_moved",
        "no_leak",
        "judge_health",
        "degeneration",
    } <= gates
    assert [e["policy"] for e in events if e["event"] == "evaluation"] == ["M0", "M1", "M2"]
    agreement = next(e for e in events if e["event"] == "gate" and e["gate"] == "sampler_agrees")
    assert agreement["value"] < 1e-4
    first = json.loads(next(finished.glob("steps/dpo-*/first-batch.json")).read_text())
    assert abs(first["loss"] - 0.693147) < 1e-3
    page = (finished / "report.html").read_text()
    assert "not the hub's weights" in page.replace("&#39;", "'")


def test_real_policies_open_with_plain_peft_and_generate(finished: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    folder = finished / "policies" / "final"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write the plural of cat."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert made.shape[1] > inputs["input_ids"].shape[1]


def test_builtin_is_cached_and_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_policy("smollm2-135m-instruct")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_policy("smollm2-135m-instruct").digest == resolve_policy("smollm2-135m-instruct").digest
