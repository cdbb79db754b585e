"""SFT and preference training: what is trained, from where, on which loss, and that a crash or a second process changes
nothing."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import Artefact, Store, write_rows
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS
from selfimprove.models.log_probs import Group
from selfimprove.models.policy import Policy, model_digest
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.sections import Lora
from selfimprove.report.terminal import Progress
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step
from selfimprove.training import stages
from selfimprove.training.losses import soft_preference_loss
from selfimprove.training.preference import PairCollator
from selfimprove.training.stages import batch_split, made_policy, newest_checkpoint, optimizer_steps, read_history

END = 2
LORA = Lora(r=4, alpha=8, dropout=0.0).model_dump(mode="json")
Row = dict[str, Any]


# ---- data and steps


def token_ids(dice: random.Random, longest: int) -> list[int]:
    return [dice.randrange(3, 259) for _ in range(dice.randint(1, longest))]


def example_rows(count: int, seed: int = 0) -> list[Row]:
    dice = random.Random(seed)
    return [{"prompt_ids": [1, *token_ids(dice, 9)], "response_ids": [*token_ids(dice, 6), END]} for _ in range(count)]


def score(policy: Policy, rows: list[Row], name: str) -> list[float]:
    """The scorer's summed log-probs of one response per row."""
    model, as_policy = MODELS.get(policy, torch.float32, "cpu")
    with as_policy:
        groups = [Group(tuple(row["prompt_ids"]), (tuple(row[name]),)) for row in rows]
        return [one[0] for one in summed_log_probs(model, groups, 4096)]


def pair_rows(policy: Policy, count: int, seed: int = 0, confidence: float | None = None) -> list[Row]:
    """Ragged pairs with their log-probs under `policy`; confidences between 0.3 and 1 unless one is given."""
    dice = random.Random(seed)
    rows: list[Row] = []
    for number in range(count):
        rows.append(
            {
                "prompt_id": f"p{number}",
                "prompt_ids": [1, *token_ids(dice, 9)],
                "chosen_ids": [*token_ids(dice, 6), END],
                "rejected_ids": [*token_ids(dice, 6), END],
                "confidence": confidence if confidence is not None else round(dice.uniform(0.3, 1), 3),
            }
        )
    for side in ("chosen", "rejected"):
        for row, value in zip(rows, score(policy, rows, f"{side}_ids"), strict=True):
            row[f"reference_{side}_log_prob"] = value
    return rows


def request(step: str, policy: Policy, rows: list[Row], *, processes: int = 1, **changes: Any) -> StepRequest:
    """A training step; `changes` go to its options or its execution."""
    options: dict[str, Any] = {
        "learning_rate": 1e-2, "epochs": 1.0, "batch_size": 4, "warmup_ratio": 0.0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "scheduler": "constant", "lora": LORA, "dtype": "float32",
    }  # fmt: skip
    if step == "dpo":
        options |= {"beta": 0.1, "reference_is_start": True}
    execution: dict[str, Any] = {
        "device": "cpu", "micro_batch_size": 8, "checkpoint_steps": 50, "gradient_checkpointing": False,
        "report_to": [], "gate_dpo_start": True,
    }  # fmt: skip
    for key, value in changes.items():
        (execution if key in execution else options)[key] = value
    return StepRequest(
        step=step,
        label=step,
        options=options,
        inputs={"examples" if step == "sft" else "pairs": rows},
        policies={"start": policy},
        seed=0,
        execution=execution,
        processes=processes,
    )


def run(folder: Path, made: StepRequest) -> Artefact:
    """The finished step."""
    return run_step(Store(folder), made, Progress(Console(file=io.StringIO())))[0]


def trained(folder: Path, made: StepRequest, name: str = "M1") -> Policy:
    return made_policy(made.policies["start"], run(folder, made), name)


def prepare(folder: Path, made: StepRequest) -> dict[str, Any]:
    """Writes the step's folder as the loop does, and returns its task: for working on it without the loop."""
    (folder / "inputs").mkdir(parents=True)
    for name, rows in made.inputs.items():
        write_rows(folder / "inputs" / f"{name}.arrow", rows)
    return {
        "step": made.step,
        "label": made.label,
        "key": made.key(),
        "options": dict(made.options),
        "policies": {role: policy.spec() for role, policy in made.policies.items()},
        "seed": made.seed,
        "execution": dict(made.execution),
    }


WORK = {"sft": stages.train_sft, "dpo": stages.train_preference}


def built_trainer(folder: Path, made: StepRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer of a step as it stands before its first step."""
    built: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(stages, "run_training", lambda trainer, folder, callback: built.append(trainer))
        WORK[made.step](folder, prepare(folder, made), lambda n: None)
    return built[0]


def tensors(policy: Policy) -> dict[str, torch.Tensor]:
    return load_file(Path(str(policy.adapter)) / "adapter_model.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# ---- where training starts


def test_cream_lora_starts_as_the_identity(tiny_policy: Policy, tmp_path: Path) -> None:
    rows = pair_rows(tiny_policy, 8)
    step = run(tmp_path, request("dpo", tiny_policy, rows))
    history = read_history(step.folder)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    first = json.loads((step.folder / "first-batch.json").read_text())
    assert first["mean_abs_margin"] < 1e-5
    # ... and it is trained from there: the second batch is not at ln 2 any more, and B is not 0.
    assert abs(history[1]["loss"] - math.log(2)) > 1e-4
    made = tensors(made_policy(tiny_policy, step, "M1"))
    assert all(float(made[name].abs().max()) > 0 for name in made)


def test_no_reference_model_is_kept_in_memory(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pair_rows(tiny_policy, 4)
    adapter = trained(tmp_path / "first", request("dpo", tiny_policy, rows))
    for name, start, lora in (("fresh", tiny_policy, LORA), ("go-on", adapter, LORA), ("full", tiny_policy, None)):
        trainer = built_trainer(tmp_path / name, request("dpo", start, rows, lora=lora), monkeypatch)
        assert trainer.ref_model is None
        if lora:
            assert list(trainer.model.peft_config) == ["default"]
            assert not [key for key, _ in trainer.model.named_parameters() if ".ref." in key]
            trainable = [key for key, value in trainer.model.named_parameters() if value.requires_grad]
            assert trainable and all("lora_" in key for key in trainable)
        else:
            assert all(value.requires_grad for value in trainer.model.parameters())


def test_soup_trains_a_fresh_adapter_each_round(tiny_policy: Policy, tmp_path: Path) -> None:
    first = trained(tmp_path, request("dpo", tiny_policy, pair_rows(tiny_policy, 8)))
    rows = pair_rows(first, 8, seed=1)
    # A learning rate of (nearly) nothing leaves what training started from: round 1's adapter, not a fresh one.
    still = trained(tmp_path, request("dpo", first, rows, learning_rate=1e-30), "M2")
    assert largest_difference(tensors(still), tensors(first)) < 1e-7
    # With a real one it starts at ln 2 against round 1's policy and moves away from it.
    step = run(tmp_path, request("dpo", first, rows))
    assert read_history(step.folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    second = made_policy(first, step, "M2")
    assert largest_difference(tensors(second), tensors(first)) > 1e-3
    assert second.base == tiny_policy.base


def test_an_adapter_of_another_rank_is_refused(tiny_policy: Policy, tmp_path: Path) -> None:
    rows = example_rows(4)
    first = trained(tmp_path, request("sft", tiny_policy, rows))
    with pytest.raises(InputError, match=r"training.lora.r: 8, but .* has 4"):
        run(tmp_path, request("sft", first, rows, lora={**LORA, "r": 8}))


# ---- the losses


def test_response_log_probs_of_the_trainer_are_the_scorers(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pair_rows(tiny_policy, 6)
    trainer = built_trainer(tmp_path / "step", request("dpo", tiny_policy, rows, batch_size=6), monkeypatch)
    batch = PairCollator(0)([{**row, "weight": 1.0} for row in rows])
    # Prompts are padded on the left: the responses begin in one column.
    assert (batch["attention_mask"][:, 0] == 0).any()
    assert batch["response_mask"][:, 0].all()
    expected = torch.tensor([row[f"reference_{side}_log_prob"] for side in ("chosen", "rejected") for row in rows])
    found, gradients = [], []
    for fused in (False, True):
        log_probs = trainer.response_log_probs(trainer.model, batch, fused)
        trainer.model.zero_grad()
        (log_probs**2).mean().backward()
        found.append(log_probs.detach())
        gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-6)
    assert any(float(gradient.abs().max()) > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_training_uses_the_soft_loss_with_each_pairs_own_confidence(tiny_policy: Policy, tmp_path: Path) -> None:
    rows = pair_rows(tiny_policy, 2)
    beta, expected = 0.5, []
    for row, confidence, shift in zip(rows, (0.9, 0.3), (-2.0, 3.0), strict=True):
        # The reference is another model here: the policy's margins are beta x shift.
        row["reference_chosen_log_prob"] -= shift
        row["confidence"] = confidence
        expected.append(float(soft_preference_loss(torch.tensor(beta * shift), torch.tensor(confidence))))
    step = run(tmp_path, request("dpo", tiny_policy, rows, batch_size=2, beta=beta, reference_is_start=False))
    (logged,) = read_history(step.folder)
    assert logged["loss"] == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert logged["rewards/margins"] == pytest.approx(beta * (-2 + 3) / 2, abs=1e-5)


def test_the_logged_loss_of_the_pairs_leaves_padding_out(tiny_policy: Policy, tmp_path: Path) -> None:
    """Two batches for five pairs: three of the eight rows are padding, which the optimizer's loss counts as 0."""
    step = run(tmp_path, request("dpo", tiny_policy, pair_rows(tiny_policy, 5), batch_size=4, learning_rate=0.0))
    history = read_history(step.folder)
    assert [row["loss_per_pair"] for row in history] == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert sum(row["loss"] for row in history) == pytest.approx(math.log(2) * 5 / 4, abs=1e-4)


def test_sft_loss_is_the_mean_over_the_responses_tokens(tiny_policy: Policy, tmp_path: Path) -> None:
    rows = example_rows(4)
    (step,) = read_history(run(tmp_path, request("sft", tiny_policy, rows)).folder)
    tokens = sum(len(row["response_ids"]) for row in rows)
    assert step["loss"] == pytest.approx(-sum(score(tiny_policy, rows, "response_ids")) / tokens, abs=1e-5)


def sft_batches(trainer: Any) -> list[tuple[list[int], list[int]]]:
    """(ids without padding, trained ids) of every row of every batch, checked for their form."""
    found = []
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert (labels[mask == 0] == -100).all(), "a padding token is trained"
            kept = labels != -100
            assert (labels[kept] == ids[kept]).all()
            found.append((ids[mask == 1].tolist(), labels[kept].tolist()))
    return found


def test_cream_sft_masks_by_pad_id(tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Token 0 is the pad token: as a part of the answer it is trained, as a part of the prompt it is not.
    rows = example_rows(6)
    rows[0] = {"prompt_ids": [1, 50, 0, 51], "response_ids": [60, 0, 61, END]}
    trainer = built_trainer(tmp_path / "step", request("sft", tiny_policy, rows), monkeypatch)
    assert trainer.processing_class.pad_token_id == 0
    found = sft_batches(trainer)
    expected = [(row["prompt_ids"] + row["response_ids"], row["response_ids"]) for row in rows]
    assert sorted(one for one in found if one[1]) == sorted(expected)
    # Two rows fill the last batch up; nothing of them is trained.
    assert len(found) == 8 and sum(not trained_ids for _, trained_ids in found) == 2


def test_eos_is_trained_when_pad_is_eos(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    policy = resolve_policy(str(folder))
    rows = example_rows(4)
    trainer = built_trainer(tmp_path / "step", request("sft", policy, rows), monkeypatch)
    assert trainer.processing_class.pad_token_id == trainer.processing_class.eos_token_id == END
    found = sft_batches(trainer)
    assert len({len(ids) for ids, _ in found}) > 1  # so there is padding
    assert all(trained_ids[-1] == END for _, trained_ids in found)


def test_every_row_is_trained_once_an_epoch_and_the_last_batch_is_filled_with_nothing(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Online-RLHF drops the tail of every shard.
    rows = pair_rows(tiny_policy, 10)
    trainer = built_trainer(tmp_path / "step", request("dpo", tiny_policy, rows), monkeypatch)
    batches = list(trainer.get_train_dataloader())
    weights = torch.cat([batch["weight"] for batch in batches])
    assert len(weights) == 12 and weights.sum() == 10
    confidences = torch.cat([batch["confidence"] for batch in batches])[weights > 0]
    assert sorted(confidences.tolist()) == pytest.approx(sorted(row["confidence"] for row in rows))


# ---- how it is carried out changes nothing


@pytest.mark.parametrize("step", ["sft", "dpo"])
def test_micro_batches_change_no_adapter_also_with_a_partial_last_batch(
    step: str, tiny_policy: Policy, tmp_path: Path
) -> None:
    # 9 rows in batches of 4: three of the last batch's four rows are blank, so single-row micro-batches are all blank.
    rows = example_rows(9) if step == "sft" else pair_rows(tiny_policy, 9)
    made = [
        trained(tmp_path / str(micro), request(step, tiny_policy, rows, micro_batch_size=micro)) for micro in (4, 1)
    ]
    assert largest_difference(*map(tensors, made)) < 1e-5


class Crash(Exception):
    """A kill in the middle of training."""


def crash_after(steps: int) -> Callable[[int], None]:
    done = []

    def advance(count: int) -> None:
        done.append(count)
        if sum(done) == steps:
            raise Crash

    return advance


@pytest.mark.parametrize("step", ["sft", "dpo"])
def test_a_resumed_training_gives_the_digest_of_an_undisturbed_one(
    step: str, tiny_policy: Policy, tmp_path: Path
) -> None:
    rows = example_rows(10) if step == "sft" else pair_rows(tiny_policy, 10)
    # Dropout, two epochs and a schedule: the noise, the order of the rows and the optimizer must all be resumed.
    made = request(
        step, tiny_policy, rows, checkpoint_steps=2, epochs=2.0, scheduler="cosine", lora={**LORA, "dropout": 0.2}
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    WORK[step](whole, prepare(whole, made), lambda n: None)
    task = prepare(broken, made)
    with pytest.raises(Crash):
        WORK[step](broken, task, crash_after(5))
    assert not (broken / "policy").exists()
    checkpoints = broken / "checkpoints"
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    # What a kill during the next save would have left: a checkpoint without its mark.
    shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-5")
    (checkpoints / "checkpoint-5" / "whole").unlink()
    (checkpoints / "checkpoint-5" / "optimizer.pt").write_bytes(b"half")
    told: list[int] = []
    WORK[step](broken, task, told.append)
    assert told == [4, 1, 1]  # from step 4 of 6
    assert model_digest(broken / "policy") == model_digest(whole / "policy")
    assert [row["step"] for row in read_history(broken)] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in read_history(broken)] == [row["loss"] for row in read_history(whole)]


def test_a_half_written_checkpoint_is_removed_and_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    for step, whole in ((2, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "whole").write_text("{}")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()


@pytest.mark.parametrize("step", ["sft", "dpo"])
def test_two_processes_train_the_adapter_of_one(step: str, tiny_policy: Policy, tmp_path: Path) -> None:
    # 9 rows in batches of 4: the last batch has one real row, so one of the processes has none.
    rows = example_rows(9) if step == "sft" else pair_rows(tiny_policy, 9)
    one, two = (
        trained(tmp_path / str(processes), request(step, tiny_policy, rows, processes=processes))
        for processes in (1, 2)
    )
    assert largest_difference(tensors(one), tensors(two)) < 1e-5
    first, second = (read_history(Path(str(policy.adapter)).parent) for policy in (one, two))
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-5)


def test_two_processes_are_really_two_and_say_why_they_failed(tiny_policy: Policy, tmp_path: Path) -> None:
    # `accelerate launch --cpu --num_processes 2` starts one process. The worker refuses this batch size for two only.
    with pytest.raises(InputError, match=r"3 is not a multiple of training\.processes \(2\)"):
        run(tmp_path, request("sft", tiny_policy, example_rows(4), batch_size=3, processes=2))


def test_batch_split_keeps_the_global_batch() -> None:
    for batch, micro, processes in ((32, 8, 1), (32, 8, 2), (6, 4, 1), (7, 3, 1), (4, 8, 2), (12, 5, 2)):
        rows, accumulation = batch_split(batch, micro, processes)
        assert rows * accumulation * processes == batch and rows <= micro
    with pytest.raises(InputError, match=r"5 is not a multiple of training\.processes"):
        batch_split(5, 2, 2)


def test_optimizer_steps_are_the_trainers(tiny_policy: Policy, tmp_path: Path) -> None:
    rows = example_rows(10)
    for epochs in (1.0, 1.5):
        step = run(tmp_path, request("sft", tiny_policy, rows, epochs=epochs))
        assert len(read_history(step.folder)) == optimizer_steps(10, 4, epochs)


def test_warm_up_does_not_eat_the_only_step(tiny_policy: Policy, tmp_path: Path) -> None:
    # A warm-up begins at a learning rate of 0, and with 4 rows there is no second step.
    schedule = {"warmup_ratio": 0.1, "scheduler": "cosine", "learning_rate": 1e-2}
    step = run(tmp_path, request("sft", tiny_policy, example_rows(4), **schedule))
    assert [row["learning_rate"] for row in read_history(step.folder)] == [1e-2]
    made_tensors = tensors(made_policy(tiny_policy, step, "M1"))
    assert all(float(value.abs().max()) > 0 for value in made_tensors.values())
    longer = run(tmp_path, request("sft", tiny_policy, example_rows(8), **schedule)).folder
    assert [row["learning_rate"] for row in read_history(longer)] == [0.0, 1e-2]


# ---- what training leaves


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([[1, 40, 41, 42, 43]])).logits


def pool_logits(policy: Policy) -> torch.Tensor:
    model, as_policy = MODELS.get(policy, torch.float32, "cpu")
    with as_policy:
        return logits(model)


def test_a_trained_adapter_opens_with_plain_peft(tiny_policy: Policy, tmp_path: Path) -> None:
    policy = trained(tmp_path, request("sft", tiny_policy, example_rows(8)))
    folder = str(policy.adapter)
    expected = pool_logits(policy)
    assert (expected - pool_logits(tiny_policy)).abs().max() > 1e-3
    torch.testing.assert_close(logits(AutoPeftModelForCausalLM.from_pretrained(folder)), expected)
    base = AutoModelForCausalLM.from_pretrained(tiny_policy.base)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, folder)), expected)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert resolve_policy(folder, "M1").digest == policy.digest
    assert not list(Path(folder).glob("*.bin"))


def test_full_weights_make_a_round_trip(tiny_policy: Policy, tmp_path: Path) -> None:
    first = trained(tmp_path, request("sft", tiny_policy, example_rows(8), lora=None, learning_rate=1e-3))
    assert first.adapter is None and first.base != tiny_policy.base
    opened = AutoModelForCausalLM.from_pretrained(first.base)
    assert opened.dtype == torch.float32
    torch.testing.assert_close(logits(opened), pool_logits(first))
    assert (pool_logits(first) - pool_logits(tiny_policy)).abs().max() > 1e-3
    assert first.base_digest == model_digest(Path(first.base)) != tiny_policy.base_digest
    assert resolve_policy(first.base).digest == first.digest
    rows = pair_rows(first, 8)
    step = run(tmp_path, request("dpo", first, rows, lora=None, learning_rate=1e-3))
    assert read_history(step.folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    second = made_policy(first, step, "M2")
    assert second.digest not in (first.digest, tiny_policy.digest)


def test_full_training_goes_on_from_a_merged_adapter(tiny_policy: Policy, tmp_path: Path) -> None:
    adapter = trained(tmp_path, request("sft", tiny_policy, example_rows(8)))
    still = trained(tmp_path, request("sft", adapter, example_rows(8), lora=None, learning_rate=1e-30))
    assert still.adapter is None
    torch.testing.assert_close(pool_logits(still), pool_logits(adapter), atol=1e-4, rtol=1e-4)


# ---- what stops training


@pytest.mark.parametrize("confidence", [1.0, 0.5])
def test_dpo_start_gate_fires_on_reference_log_probs_of_another_model(
    confidence: float, tiny_policy: Policy, tmp_path: Path
) -> None:
    # At C = 1/2 the soft loss is flat around a margin of 0, so the gate must not go by that loss.
    rows = pair_rows(tiny_policy, 4, confidence=confidence)
    for row in rows:
        row["reference_chosen_log_prob"] += 1.0
    with pytest.raises(GateError, match="dpo_start"):
        run(tmp_path, request("dpo", tiny_policy, rows))
    # Switched off, it says nothing.
    run(tmp_path, request("dpo", tiny_policy, rows, gate_dpo_start=False))


def test_dpo_start_gate_fires_when_another_reference_is_the_policy_itself(tiny_policy: Policy, tmp_path: Path) -> None:
    adapter = trained(tmp_path, request("sft", tiny_policy, example_rows(8)))
    own, other = pair_rows(adapter, 4), pair_rows(tiny_policy, 4)
    run(tmp_path, request("dpo", adapter, other, reference_is_start=False))
    with pytest.raises(GateError, match="dpo_start"):
        run(tmp_path, request("dpo", adapter, other, reference_is_start=True))
    with pytest.raises(GateError, match="the policy's own"):
        run(tmp_path, request("dpo", adapter, own, reference_is_start=False))


def test_a_loss_that_is_not_finite_stops_training_and_leaves_no_policy(tiny_policy: Policy, tmp_path: Path) -> None:
    made = request("sft", tiny_policy, example_rows(16), learning_rate=1e30)
    with pytest.raises(RunFailed, match="learning_rate"):
        run(tmp_path, made)
    assert not list(tmp_path.rglob("policy"))
