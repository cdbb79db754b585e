"""The preference trainer: TRL's DPOTrainer with a confidence per pair and reference log-probs from the scorer.

This file is the only place that overrides private methods of TRL (1.16). DPOTrainer re-tokenises every data set,
recomputes reference log-probs even where the columns exist, and has no soft label for its sigmoid loss;
`tests/test_trl_internals.py` fails when one of the four methods moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOTrainer

from selfimprove.models.batching import pad_left, pad_right, positions
from selfimprove.models.log_probs import token_log_probs
from selfimprove.training.losses import soft_preference_loss

PAIR_COLUMNS = (
    *("prompt_ids", "chosen_ids", "rejected_ids"),
    *("reference_chosen_log_prob", "reference_rejected_log_prob", "confidence", "weight"),
)


@dataclass
class PairCollator:
    """Chosen rows first, rejected rows after them; prompts padded on the left, responses on the right, so that the
    responses of a batch begin in one column and no position before it goes through the LM head."""

    pad_token_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prompts = [pair["prompt_ids"] for pair in pairs] * 2
        responses = [pair["chosen_ids"] for pair in pairs] + [pair["rejected_ids"] for pair in pairs]
        prompt_ids, prompt_mask = pad_left(prompts, self.pad_token_id)
        response_ids, response_mask = pad_right(responses, self.pad_token_id)
        batch = {
            "input_ids": torch.cat([prompt_ids, response_ids], dim=1),
            "attention_mask": torch.cat([prompt_mask, response_mask], dim=1),
            "response_mask": response_mask,
        }
        for name in PAIR_COLUMNS[3:]:
            batch[name] = torch.tensor([pair[name] for pair in pairs], dtype=torch.float32)
        return batch


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer on pairs of token ids (`PAIR_COLUMNS`), with the loss of `soft_preference_loss`.

    A pair of weight 0 is padding: it fills the last global batch so that one process and several see the same
    batches. The loss of a batch is sum(weight x loss) / number of rows.
    """

    first_batch: dict[str, float] | None = None

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # already token ids; re-tokenising a policy's own sample would change it

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # the columns are there: the scoring step made them

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(PAIR_COLUMNS)

    def response_log_probs(self, model: Any, inputs: dict[str, torch.Tensor], fused: bool) -> torch.Tensor:
        """(2 x pairs,) summed log-probs of the responses, with gradient.

        `fused`: TRL's fused head, which on a GPU scores the response positions in tiles and never holds their
        logits; on the CPU it would score the prompt too, so there `logits_to_keep` does the selection.
        """
        mask = inputs["response_mask"]
        width = mask.shape[1]
        forward = {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "position_ids": positions(inputs["attention_mask"]),
            "use_cache": False,
        }
        if fused:
            labels = inputs["input_ids"].clone()
            labels[:, :-width] = -100
            labels[:, -width:][mask == 0] = -100
            return model(**forward, labels=labels, fused_lm_head=True).log_probs.float().sum(dim=1)
        logits = model(**forward, logits_to_keep=width + 1).logits[:, :-1]
        return (token_log_probs(logits, inputs["input_ids"][:, -width:]) * mask).sum(dim=1)

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False) -> Any:
        log_probs = self.response_log_probs(model, inputs, fused=inputs["input_ids"].is_cuda)
        chosen, rejected = log_probs.chunk(2)
        chosen_reward = self.beta * (chosen - inputs["reference_chosen_log_prob"])
        rejected_reward = self.beta * (rejected - inputs["reference_rejected_log_prob"])
        margin = chosen_reward - rejected_reward
        weight = inputs["weight"]
        per_pair = soft_preference_loss(margin, inputs["confidence"])
        real = weight > 0
        if self.first_batch is None and real.any():
            self.first_batch = {
                # With C = 1: near C = 1/2 the loss is flat around a margin of 0, which would hide a wrong reference.
                "loss": float(soft_preference_loss(margin[real], torch.tensor(1.0)).mean().detach()),
                "mean_abs_margin": float(margin[real].abs().mean().detach()),
                "step": float(self.state.global_step),
            }
        if real.any():
            metrics = self._metrics["train" if self.model.training else "eval"]
            metrics["loss_per_pair"].append(float(per_pair[real].mean().detach()))  # `loss` counts padding as 0
            metrics["rewards/margins"].append(float(margin[real].mean().detach()))
            metrics["rewards/accuracies"].append(float((margin[real] > 0).float().mean()))
            metrics["rewards/chosen"].append(float(chosen_reward[real].mean().detach()))
            metrics["rewards/rejected"].append(float(rejected_reward[real].mean().detach()))
        loss = (weight * per_pair).sum() / len(weight)
        return (loss, {"log_probs": log_probs}) if return_outputs else loss
