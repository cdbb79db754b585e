"""One stage of SCoRe as a training step, from its folder alone: what `ScoreTrainer` needs, and its checkpoints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from selfimprove.artefacts import explained_write, read_rows
from selfimprove.errors import InputError
from selfimprove.judging.rewarding import make_checker
from selfimprove.methods.score.rollouts import Plan
from selfimprove.methods.score.sample_log import FOLDER
from selfimprove.methods.score.trainer import REFERENCE_ADAPTER, ScoreTrainer, Tools
from selfimprove.models.adapters import attach
from selfimprove.models.configuration import as_configured
from selfimprove.models.loading import load_base
from selfimprove.models.policy import Policy, model_digest, pick_device
from selfimprove.sampling.backends import make_sampler
from selfimprove.sampling.sampler import Decoding
from selfimprove.training.dropout import without_dropout
from selfimprove.training.stages import (
    Advance,
    Checkpoints,
    fresh_tokenizer,
    run_training,
    save_policy,
    trainable_model,
    training_arguments,
    world_size,
)


def train_score(folder: Path, task: dict[str, Any], advance: Advance) -> None:
    """Policy-gradient training on the prompts in `inputs/prompts.arrow`; see `ScoreTrainer`."""
    options, execution = task["options"], task["execution"]
    start, base = Policy(**task["policies"]["start"]), Policy(**task["policies"]["base"])
    device = pick_device(execution["device"])
    share = execution["share_prompt"]
    if share is True and execution["gradient_checkpointing"]:
        raise InputError(
            "score.share_prompt: true, but with training.gradient_checkpointing a model keeps no keys and values that "
            "could be shared; set one of them to false"
        )
    model = trainable_model(start, options, device, task["seed"])
    tokenizer = fresh_tokenizer(start)
    tools = make_tools(task, folder, start, base, model, tokenizer, device)
    without_dropout(model)  # after the base's own adapter has been loaded beside the trained one
    judge = Policy(**task["policies"]["judge"]) if "judge" in task["policies"] else None
    trainer = ScoreTrainer(
        model=model,
        args=TrainingArguments(**score_arguments(task, folder, device)),
        processing_class=tokenizer,
        rows=read_rows(folder / "inputs" / "prompts.arrow"),
        plan=plan_of(task),
        tools=tools,
        checker=make_checker(options["reward"], judge, execution["reward"], folder / _journal()),
        options=options,
        gates=execution["gates"],
        micro_batch_size=execution["micro_batch_size"],
        share_prompt=(not execution["gradient_checkpointing"]) if share == "auto" else share,
        samples=folder / FOLDER,
        keep_samples=execution["keep_samples"],
    )
    best = options["keep"] == "highest_reward"
    checkpoints = BestCheckpoint(folder, options, advance) if best else Checkpoints(folder, {}, advance)
    run_training(trainer, folder, checkpoints)


def clear_leftovers(folder: Path) -> None:
    """Removes what a training needs only while it runs. A kill may have come before it."""
    shutil.rmtree(folder / "live", ignore_errors=True)
    (folder / _journal()).unlink(missing_ok=True)


def _journal() -> str:
    """A served judge's answers to this process: a journal has one writer."""
    return f"journal-{os.environ.get('RANK', '0')}.jsonl"


def plan_of(task: dict[str, Any]) -> Plan:
    """How the step's samples are drawn."""
    options = task["options"]
    decoding = Decoding(options["temperature"], 1.0, options["max_new_tokens"], tuple(options["stop_ids"]))
    return Plan(
        samples=options["n"],
        first_attempts=options["first_attempts"],
        base_share=options["base_first_attempts"],
        turns=options["turns"],
        instruction=options["instruction"],
        decoding=decoding,
        seed=task["seed"],
        key=task["key"],
    )


def score_arguments(task: dict[str, Any], folder: Path, device: str) -> dict[str, Any]:
    """TrainingArguments: an optimizer step is one step of the trainer's, whatever its micro-batches; checkpoints stand
    at boundaries of updates only, since samples are in none."""
    options = task["options"]
    steps = options["updates"] * options["passes"]
    once = {**task, "options": {**options, "epochs": 1}}
    given = training_arguments(once, folder, steps * options["batch_size"], device, world_size())
    for ours in ("max_length", "num_train_epochs"):
        del given[ours]
    return given | {
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "save_steps": task["execution"]["checkpoint_steps"] * options["passes"],
        "remove_unused_columns": False,
    }


def make_tools(
    task: dict[str, Any], folder: Path, start: Policy, base: Policy, model: Any, tokenizer: Any, device: str
) -> Tools:
    """Samplers and the reference. With LoRA the base is the trained model without its adapter (or with the base's own
    instead), so that no second model is in memory; with full weights it is a frozen one of its own."""
    options, execution = task["options"], task["execution"]
    sampler = make_sampler(options, execution, folder)
    live = _LiveWeights(folder / "live", start, tokenizer, sampler)
    base_sampler = _BaseSampler(sampler, base, live)
    frozen: Any = None
    if options["lora"] is None:
        frozen = _frozen(base, device)
    elif base.adapter is not None:
        model.load_adapter(base.adapter, adapter_name=REFERENCE_ADAPTER)
        model.set_adapter("default")

    def reference(own: Any) -> AbstractContextManager[Any]:
        if frozen is not None:
            return nullcontext()
        return own.disable_adapter() if base.adapter is None else _as_reference(own)

    def swap(own: Any, update: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the last backward pass held is the engine's now
        live.swap(own, update)
        base_sampler.model = _InContext(own if frozen is None else frozen, reference)

    def rest() -> None:
        if vllm := sys.modules.get("selfimprove.sampling.vllm"):
            vllm.ENGINE.rest()

    return Tools(sampler, base_sampler, swap, rest, lambda own: own if frozen is None else frozen, reference)


@contextmanager
def _as_reference(model: Any) -> Iterator[None]:
    """The base's own adapter in place of the trained one."""
    model.set_adapter(REFERENCE_ADAPTER, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter("default")


def _frozen(policy: Policy, device: str) -> Any:
    """In fp32, as full weights are trained (under the same autocast): in bf16 the KL would not begin at 0."""
    model: Any = load_base(policy, torch.float32, device)
    if policy.adapter is not None:
        model = attach(model, policy)
    return model.requires_grad_(False).eval()


class _InContext:
    """A model that is the base only inside a context: every call goes through it."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model, self._context = model, context
        self.config, self.device = model.config, model.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._context(self._model):
            return self._model(*args, **kwargs)


class _BaseSampler:
    """The run's own sampler with the base's weights, for as long as it samples. `model`: the base as it stands here."""

    def __init__(self, sampler: Any, base: Policy, live: _LiveWeights) -> None:
        self.sampler, self.base, self.live = sampler, base, live
        self.model: Any = None

    def sample(self, *asked: Any) -> Any:
        self.sampler.set_weights(self.base, self.model)
        try:
            return self.sampler.sample(*asked)
        finally:
            self.sampler.set_weights(*self.live.now)


class _LiveWeights:
    """The weights as they stand in the training, given to the sampler in place at every update. The transformers
    sampler samples from the very model; vLLM reads them from `folder` (an adapter, or all weights)."""

    def __init__(self, folder: Path, start: Policy, tokenizer: Any, sampler: Any) -> None:
        self.folder, self.start, self.tokenizer, self.sampler = folder, start, tokenizer, sampler
        self.unchanged: str | None = None  # digest of the weights that are still the start's
        self.now: tuple[Policy, Any] = (start, None)  # what the sampler was given last

    def swap(self, model: Any, update: int) -> None:
        if self.sampler.name == "transformers":
            self._give(self.start, model)
            return
        here = self.folder / str(update)
        with explained_write(self.folder), as_configured(model):
            if adapter := hasattr(model, "peft_config"):
                model.save_pretrained(str(here), selected_adapters=["default"])
            else:
                model.save_pretrained(str(here))
                self.tokenizer.save_pretrained(str(here))
        digest = model_digest(here)
        if update == 0:
            self.unchanged = digest
        policy = replace(self.start, name=f"update {update}")
        if (
            digest == self.unchanged
        ):  # a new adapter is the identity: vLLM would take it for weights that did not arrive
            policy = self.start
        elif adapter:
            policy = replace(policy, adapter=str(here), adapter_digest=digest)
        else:
            policy = replace(policy, base=str(here), base_digest=digest, adapter=None, adapter_digest=None)
        self._give(policy, model)
        for older in self.folder.glob("*"):  # only now: a sleeping engine wakes with the weights of before
            if older != here:
                shutil.rmtree(older, ignore_errors=True)

    def _give(self, policy: Policy, model: Any) -> None:
        self.now = policy, model
        self.sampler.set_weights(policy, model)


class BestCheckpoint(Checkpoints):
    """Keeps the policy of the checkpoint whose samples since the one before had the highest mean reward at the last
    turn, "the checkpoint with the highest training reward" of the paper. It keeps the first of equal ones."""

    def __init__(self, folder: Path, options: dict[str, Any], advance: Advance) -> None:
        super().__init__(folder, {}, advance)
        self.name = f"reward/turn_{options['turns']}"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = self.best_step(state.log_history, int(args.save_steps), state.global_step)
        if best == state.global_step:
            here = self.folder / f"policy-best-{best}"
            if state.is_world_process_zero:
                shutil.rmtree(here, ignore_errors=True)
            save_policy(self.trainer, here)
        super().on_save(args, state, control, **kwargs)
        if state.is_world_process_zero:  # only now: a kill before the checkpoint was whole draws its samples again
            for older in self.folder.glob("policy-best-*"):
                if older.name != f"policy-best-{best}":
                    shutil.rmtree(older)

    def best_step(self, history: list[dict[str, Any]], steps: int, last: int) -> int | None:
        """Of the checkpoints every so many `steps`, and at the end, the one with the highest mean reward since the one
        before; None where no reward was known."""
        rows = [(int(row["step"]), float(row[self.name])) for row in history if self.name in row]
        means = dict[int, float]()
        for begin in range(0, last, steps):
            if window := [reward for step, reward in rows if begin < step <= begin + steps]:
                means[min(begin + steps, last)] = float(np.mean(window))
        return max(means, key=lambda step: means[step], default=None)

    def finish(self, trainer: Any) -> None:
        found = list(self.folder.glob("policy-best-*"))
        trainer.accelerator.wait_for_everyone()  # every process has looked before one renames it
        if found:
            if trainer.is_world_process_zero():
                found[0].replace(self.folder / "policy")
            trainer.accelerator.wait_for_everyone()
        else:
            super().finish(trainer)
