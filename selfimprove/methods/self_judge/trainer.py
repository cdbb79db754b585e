"""Training a judge: Transformers' Trainer with Self-J's loss, through `compute_loss` and `log`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from selfimprove.artefacts import read_rows
from selfimprove.methods.self_judge.loss import self_distillation_loss
from selfimprove.models.batching import pad_left, positions
from selfimprove.models.policy import Policy, pick_device
from selfimprove.training.stages import (
    Advance,
    Checkpoints,
    fresh_tokenizer,
    padded,
    run_training,
    trainable_model,
    training_arguments,
    world_size,
)

_FIGURES = ("ce_reference", "ce_plain", "kl", "error/reference", "error/plain")


@dataclass
class QuestionCollator:
    """Questions with the reference first, then the same without it, padded on the left: all end where the digit is
    predicted."""

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [one["reference_ids"] for one in examples] + [one["plain_ids"] for one in examples]
        ids, mask = pad_left(rows, self.pad_token_id)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "label": torch.tensor([one["label"] for one in examples]),
            "weight": torch.tensor([one["weight"] for one in examples], dtype=torch.float32),
        }


class JudgeTrainer(Trainer):
    """Rows of `reference_ids`, `plain_ids`, `label` (a digit) and `weight` (0 for rows that only fill a batch).

    Args:
        digit_ids: (10,) tokens of the digits.
        weights: of the three parts of `self_distillation_loss`.
    """

    def __init__(self, *args: Any, digit_ids: Sequence[int], weights: dict[str, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.digit_ids = torch.tensor(list(digit_ids))
        self.weights = weights
        self.sums = dict.fromkeys((*_FIGURES, "rows"), 0.0)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        mask = inputs["attention_mask"]
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        reference, plain = logits.chunk(2)
        digits, weight = self.digit_ids.to(logits.device), inputs["weight"]
        losses, parts = self_distillation_loss(reference, plain, digits[inputs["label"]], **self.weights)
        for name, side in (("error/reference", reference), ("error/plain", plain)):
            score = side.detach()[:, digits].float().softmax(dim=-1) @ torch.arange(10.0, device=logits.device)
            parts[name] = (score - inputs["label"]).abs()
        for name, values in parts.items():
            self.sums[name] += float((values * weight).sum())
        self.sums["rows"] += float(weight.sum())
        loss = (losses * weight).sum() / len(weight)
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The parts of the loss, and how far the expected digit is from the label (`error/...`), with the reference and
        without: means over the rows since the last row of the history, of all processes."""
        if "loss" in logs:
            summed = torch.tensor(list(self.sums.values()), dtype=torch.float32, device=self.args.device)
            *totals, rows = self.accelerator.reduce(summed, "sum").tolist()
            if rows:
                logs |= {name: total / rows for name, total in zip(_FIGURES, totals, strict=True)}
            self.sums = dict.fromkeys(self.sums, 0.0)
        super().log(logs, start_time)


def train_judge(folder: Path, task: dict[str, Any], advance: Advance) -> None:
    """Trains a judge on the examples in `inputs/examples.arrow`; see `JudgeTrainer`."""
    options, policy = task["options"], Policy(**task["policies"]["start"])
    device, processes = pick_device(task["execution"]["device"]), world_size()
    rows = [{**row, "weight": 1.0} for row in read_rows(folder / "inputs" / "examples.arrow")]
    tokenizer = fresh_tokenizer(policy)
    arguments = training_arguments(task, folder, len(rows), device, processes)
    del arguments["max_length"]
    trainer = JudgeTrainer(
        model=trainable_model(policy, options, device, task["seed"]),
        args=TrainingArguments(**arguments | {"remove_unused_columns": False}),
        train_dataset=padded(rows, options["batch_size"], lambda row: {**row, "weight": 0.0}),
        data_collator=QuestionCollator(tokenizer.pad_token_id or 0),
        processing_class=tokenizer,
        digit_ids=options["digit_ids"],
        weights={name: options[name] for name in ("ce_reference", "ce_plain", "distillation")},
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean, which the trainer divides by the accumulation
    run_training(trainer, folder, Checkpoints(folder, {}, advance))
