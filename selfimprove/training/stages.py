"""The two training stages, each run from its step's folder alone: SFT and preference training.

A folder holds `step.json`, `inputs/`, and while it works `checkpoints/`; it ends with `policy/` (an adapter or a
whole model, with the tokenizer) and `history.json`. One function serves the in-process call and every rank of
`accelerate launch`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, SFTConfig, SFTTrainer

from selfimprove.artefacts import Artefact, explained_write, read_rows, sync_tree, write_json
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.gates import dpo_start
from selfimprove.models.adapters import attach, check_trainable, name_base
from selfimprove.models.chat import end_of_turn_id
from selfimprove.models.configuration import as_configured
from selfimprove.models.loading import load_base
from selfimprove.models.policy import Policy, model_digest, pick_device, tokenizer_folder
from selfimprove.steps.worker import Latest
from selfimprove.training.dropout import without_dropout
from selfimprove.training.head import check_head
from selfimprove.training.preference import PairCollator, PreferenceTrainer
from selfimprove.training.trackers import PROJECT, tracked
from selfimprove.training.trained_parts import train_all_weights, without_adapters

Advance = Callable[[int], None]
_WHOLE = "whole"  # marks a checkpoint that was written to its end


class Checkpoints(TrainerCallback):
    """Marks whole checkpoints, keeps intermediate policies, reports progress, stops on a non-finite loss."""

    def __init__(self, folder: Path, keep_at: dict[int, str], advance: Advance) -> None:
        self.folder, self.keep_at, self.advance = folder, keep_at, advance
        self.trainer: Any = None
        self.latest = Latest(folder)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()  # every rank writes a part of a checkpoint
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            sync_tree(checkpoint)
            write_json(checkpoint / _WHOLE, {"step": state.global_step})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)
        if (name := self.keep_at.get(state.global_step)) and not (self.folder / name).exists():
            save_policy(self.trainer, self.folder / name)

    def finish(self, trainer: Any) -> None:
        """Saves the trained policy: last of all, since it says that the training is over."""
        save_policy(trainer, self.folder / "policy")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and state.is_world_process_zero and math.isfinite(float(loss)):
            shown = {"loss": logs.get("loss_per_pair", loss), "margin": logs.get("rewards/margins")}
            self.latest({name: float(value) for name, value in shown.items() if value is not None})
        if loss is not None and not math.isfinite(float(loss)):
            raise RunFailed(
                f"the training loss became {loss} at optimizer step {state.global_step}; lower "
                "training.learning_rate, or look at the examples in this step's folder: " + str(self.folder)
            )


def save_policy(trainer: Any, folder: Path) -> None:
    """Saves the trained model whole or not at all, in the form plain Transformers or PEFT opens."""
    temporary = folder.with_name(f".{folder.name}.saving")
    with explained_write(folder):
        if trainer.is_world_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        with as_configured(trainer.model):
            trainer.save_model(str(temporary))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            for extra in (
                "training_args.bin",
                "README.md",
            ):  # a pickle, and a card about a folder that is no repo
                (temporary / extra).unlink(missing_ok=True)
            name_base(temporary)
            sync_tree(temporary)
            temporary.replace(folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; half-written ones are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / _WHOLE).is_file():
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def batch_split(batch_size: int, micro_batch_size: int, processes: int) -> tuple[int, int]:
    """(rows per process and forward, accumulation steps) whose product with `processes` is `batch_size`."""
    if batch_size % processes:
        raise InputError(f"training.batch_size: {batch_size} is not a multiple of training.processes ({processes})")
    per_process = batch_size // processes
    micro = max(size for size in range(1, min(micro_batch_size, per_process) + 1) if per_process % size == 0)
    return micro, per_process // micro


def training_arguments(task: dict[str, Any], folder: Path, rows: int, device: str, processes: int) -> dict[str, Any]:
    """What SFTConfig and DPOConfig have in common; every default of TRL that would surprise is undone."""
    options, execution = task["options"], task["execution"]
    single_step = optimizer_steps(rows, options["batch_size"], options["epochs"]) == 1
    micro, accumulation = batch_split(options["batch_size"], execution["micro_batch_size"], processes)
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": task["seed"],
        "learning_rate": options["learning_rate"],
        "num_train_epochs": options["epochs"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "lr_scheduler_type": options["scheduler"],
        # A warm-up begins at a learning rate of 0: of a single step nothing would be left. Transformers takes 1 for one
        # step; just below it is a share, of which all steps are left.
        "warmup_steps": 0 if single_step else min(options["warmup_ratio"], 1 - 1e-9),
        "weight_decay": options["weight_decay"],
        "max_grad_norm": options["max_grad_norm"],
        "bf16": options["dtype"] == "bfloat16",
        "max_length": None,
        "gradient_checkpointing": execution["gradient_checkpointing"],
        "use_cpu": device == "cpu",
        "save_strategy": "steps",
        "save_steps": execution["checkpoint_steps"],
        "save_total_limit": 2,  # the older one stays until the newer is marked whole
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": execution["report_to"],
        "run_name": f"{task['label']} {task['key'][:8]}",  # what trackers call it; the key keeps runs apart
        "project": PROJECT,
        "dataloader_pin_memory": device != "cpu",
        "remove_unused_columns": True,
    }


def trainable_model(policy: Policy, options: dict[str, Any], device: str, seed: int) -> Any:
    """The policy ready to train: its adapter goes on, a new adapter starts as the identity, or all weights train."""
    lora = options["lora"]
    half = options["dtype"] == "bfloat16"
    # Full weights keep fp32 masters under bf16 autocast; a frozen base can be bf16 itself.
    dtype = torch.bfloat16 if half and lora else torch.float32
    # With several processes the trainer places each one's copy on its own device.
    model = load_base(policy, dtype, device if world_size() == 1 else "cpu")
    if model.base_model is model:  # (Llama 4) its prefix names no part of it, where TRL's head looks for the body
        bodies = [name for name, part in model.named_children() if isinstance(part, PreTrainedModel)]
        model.base_model_prefix = next(iter(bodies), "")
    set_seed(seed)
    if policy.adapter is not None:
        if lora:
            check_trainable(policy, lora)
        model = attach(model, policy, trainable=bool(lora))
        return model if lora else train_all_weights(model.merge_and_unload())
    if not lora:
        return train_all_weights(model)
    from peft import LoraConfig, get_peft_model

    # PEFT's default initialisation has B = 0, so the new adapter is the identity and the policy is its own
    # reference at step 0 (CREAM's released code draws B at random, where it is not).
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        exclude_modules=without_adapters(model),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"training.lora.target_modules: no adapter fits {type(model).__name__}: {said}") from error


def run_training(trainer: Any, folder: Path, callback: Checkpoints) -> None:
    callback.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    checkpoints = folder / "checkpoints"
    newest = newest_checkpoint(checkpoints) if trainer.is_world_process_zero() else None
    trainer.accelerator.wait_for_everyone()
    newest = newest or newest_checkpoint(checkpoints)
    if newest is not None:
        step = int(newest.name.split("-")[1])
        callback.advance(step)
        if trainer.is_world_process_zero():
            note = folder / "resumed-from.json"
            write_json(note, [*(json.loads(note.read_text()) if note.is_file() else []), step])
    with explained_write(folder), tracked(trainer):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if trainer.is_world_process_zero():
            # TRL counts num_tokens anew where a training goes on: a run that was killed would have another history.
            rows = [{k: v for k, v in row.items() if k != "num_tokens"} for row in trainer.state.log_history]
            write_json(folder / "history.json", [row for row in rows if "loss" in row])
        callback.finish(trainer)


def padded(rows: list[dict[str, Any]], multiple: int, blank: Callable[[dict[str, Any]], dict[str, Any]]) -> Dataset:
    """Rows filled up with blank ones to whole global batches, so that no process repeats or drops a real row."""
    missing = -len(rows) % multiple
    return Dataset.from_list(rows + [blank(rows[0])] * missing)


def optimizer_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of a training stage."""
    return math.ceil(math.ceil(rows / batch_size) * epochs)


def already_trained(folder: Path) -> bool:
    """The training itself is over; a kill came before the step was sealed."""
    return (folder / "policy").is_dir()


def train_sft(folder: Path, task: dict[str, Any], advance: Advance) -> None:
    """SFT on (prompt_ids, response_ids) rows; only response tokens are trained. `options["keep_at"]` is the share
    of the training after which `policy-middle/` is saved, or None."""
    options, policy = task["options"], Policy(**task["policies"]["start"])
    device, processes = pick_device(task["execution"]["device"]), world_size()
    rows = [
        {
            "input_ids": row["prompt_ids"] + row["response_ids"],
            "labels": [-100] * len(row["prompt_ids"]) + row["response_ids"],
        }
        for row in read_rows(folder / "inputs" / "examples.arrow")
    ]
    data = padded(rows, options["batch_size"], lambda row: {**row, "labels": [-100] * len(row["labels"])})
    trainer = SFTTrainer(
        model=trainable_model(policy, options, device, task["seed"]),
        args=SFTConfig(
            **training_arguments(task, folder, len(rows), device, processes),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=data,
        processing_class=fresh_tokenizer(policy),
    )
    check_head(trainer.model, policy)
    total = optimizer_steps(len(rows), options["batch_size"], options["epochs"])
    keep_at = options.get("keep_at")
    middle = {max(1, round(total * keep_at)): "policy-middle"} if keep_at else {}
    if total in middle:
        raise InputError(
            f"the SFT has only {total} optimizer step, so it has no middle; use cream.first_round=none or more examples"
        )
    run_training(trainer, folder, Checkpoints(folder, middle, advance))


def train_preference(folder: Path, task: dict[str, Any], advance: Advance) -> None:
    """Preference training on the pairs in `inputs/pairs.arrow`; see `PreferenceTrainer`."""
    options, policy = task["options"], Policy(**task["policies"]["start"])
    device, processes = pick_device(task["execution"]["device"]), world_size()
    rows = [
        {
            **{name: row[name] for name in row if name.endswith(("_ids", "_log_prob", "confidence"))},
            "weight": 1.0,
        }
        for row in read_rows(folder / "inputs" / "pairs.arrow")
    ]
    data = padded(rows, options["batch_size"], lambda row: {**row, "weight": 0.0})
    tokenizer = fresh_tokenizer(policy)
    trainer = PreferenceTrainer(
        model=trainable_model(policy, options, device, task["seed"]),
        args=DPOConfig(
            **training_arguments(task, folder, len(rows), device, processes),
            beta=options["beta"],
            disable_dropout=True,  # TRL's default, said here: the policy must be its own reference at step 0
            precompute_ref_log_probs=True,  # "do not load a reference model": its log-probs come with the pairs
            # Under FSDP with full weights TRL 1.16 loads one all the same: not over all GPUs from every process.
            model_init_kwargs={"device_map": None},
        ),
        train_dataset=data,
        data_collator=PairCollator(tokenizer.pad_token_id or 0),
        processing_class=tokenizer,
    )
    if hasattr(trainer.model, "peft_config") and "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")  # TRL's copy of the start adapter; nothing here reads it
    without_dropout(trainer.model)  # TRL's sees modules only, and most attention keeps its rate elsewhere
    if device != "cpu":  # there the loss is from the model's own logits
        check_head(trainer.model, policy)
    trainer.add_callback(_FirstLoss(trainer, task, folder))
    run_training(trainer, folder, Checkpoints(folder, {}, advance))


class _FirstLoss(TrainerCallback):
    """Writes down the first batch, and stops a training whose reference is not the one it should be."""

    def __init__(self, trainer: Any, task: dict[str, Any], folder: Path) -> None:
        self.trainer, self.task, self.folder = trainer, task, folder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        first = self.trainer.first_batch
        if first is None or first["step"] > 0 or state.global_step > 1:
            return
        options = self.task["options"]
        if state.is_world_process_zero:
            write_json(self.folder / "first-batch.json", first)
        verdict = dpo_start(first, options["reference_is_start"], options["dtype"])
        if not verdict.passed and self.task["execution"]["gate_dpo_start"]:
            raise GateError(f"gate dpo_start: {verdict.message}. Look at the pairs in {self.folder}")


def fresh_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """A tokenizer of its own for a trainer, since TRL changes the one it is given (its pad token)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(policy), trust_remote_code=policy.trust_remote_code)
    if (
        tokenizer.pad_token is None and tokenizer.eos_token is None
    ):  # TRL wants one; padding is masked, so any token does
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer))
    return tokenizer


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def made_policy(start: Policy, artefact: Artefact, name: str, middle: bool = False) -> Policy:
    """The policy that a finished training step made. Its digest is the manifest's, so that walking through a
    finished run reads no weights; they are checked when they are loaded."""
    made = artefact.folder / ("policy-middle" if middle else "policy")
    if middle:
        artefact.verify()
    digest = model_digest(made) if middle else artefact.digest
    if (made / "adapter_config.json").is_file():
        return replace(start, name=name, adapter=str(made), adapter_digest=digest)
    return replace(start, name=name, base=str(made), base_digest=digest, adapter=None, adapter_digest=None)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The trainer's log, one row per optimizer step."""
    return list(json.loads((folder / "history.json").read_text()))
