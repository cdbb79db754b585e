"""SCoRe's trainer: every optimizer step rolls out two attempts at its prompts, has them checked, and follows the
policy gradient of `score_loss` (arXiv 2409.12917).

A thin layer over Transformers' Trainer, through the two methods that its documentation offers for it (`training_step`,
`log`): it gives the optimizer, schedule, checkpoints, trackers and processes. Not TRL's GRPOTrainer (1.16): its loss,
reference, generation and truncation would all be replaced, its experimental `rollout_func` pads a mask over turns
wrongly, and its generations are not in its checkpoints. Here an update's prompts and noise are functions of its number,
so a training that goes on from a checkpoint at an update's boundary does what an undisturbed one does.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from selfimprove.errors import GateError
from selfimprove.judging.rewarding import Answered, Checker, Rewarded
from selfimprove.score_gates import first_broken, score_gates
from selfimprove.scoring import token_log_probs
from selfimprove.training.rollouts import Episode, Plan, Question, questions_of, roll_out
from selfimprove.training.score_batch import ScoreBatch, micro_batches, trained_logits
from selfimprove.training.score_figures import FIGURES, rollout_sums
from selfimprove.training.score_loss import (
    Counts,
    count,
    exact_kl,
    reward_tensor,
    sampled_kl,
    score_loss,
    stage_betas,
    turn_advantages,
    turn_returns,
)

# Updates whose mean the gates look at.
GATE_WINDOW = 10
# The base's own adapter, where it has one and the trained adapter stands on the same weights.
REFERENCE_ADAPTER = "reference"
TIMES = ("sampling", "rewards", "scoring", "training")


@dataclass
class Tools:
    """What a rollout needs of the outside. `swap` makes the sampler sample from the model as it stands now; `rest`
    gives its memory back for the training; `reference` is the context in which `reference_model(model)` is the base."""

    sampler: Any
    base_sampler: Any
    swap: Callable[[Any, int], None]
    rest: Callable[[], None]
    reference_model: Callable[[Any], Any]
    reference: Callable[[Any], AbstractContextManager[Any]]


@dataclass
class Collected:
    """An update's samples, ready for its optimizer steps, with the counts of all processes."""

    batches: list[ScoreBatch]
    counts: Counts


class ScoreTrainer(Trainer):
    """See the module.

    Args:
        rows: the prompts (`prompt_id`, `prompt_ids`, `text`, `answer`).
        options, gates: of the step, see `selfimprove/policy_gradient.py`.
        share_prompt: computes a prompt once for all its samples.
    """

    def __init__(
        self,
        *args: Any,
        rows: list[dict[str, Any]],
        plan: Plan,
        tools: Tools,
        checker: Checker,
        options: Mapping[str, Any],
        gates: Mapping[str, Any],
        micro_batch_size: int,
        share_prompt: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rows, self.plan, self.tools, self.checker, self.options, self.gates = (
            *(rows, plan, tools, checker, options, gates),
        )
        self.micro_batch_size, self.share_prompt = micro_batch_size, share_prompt
        self.betas = stage_betas(options["stage"], options["beta1"], options["beta2"])
        self.seconds = dict.fromkeys(TIMES, 0.0)
        self.missing = Counter[str]()  # why rewards are missing, of this process's samples
        self.collected: Collected | None = None
        self.figures: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item for every optimizer step of every process: what it holds is made when its turn comes."""
        return DataLoader([{"step": step} for step in range(self.args.max_steps)], batch_size=1)  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One optimizer step on the samples of its update, drawn now or (of several passes) by the first of them."""
        update, again = divmod(self.state.global_step, self.options["passes"])
        if not again or self.collected is None:
            self.collected = self._collect(update)
        model.train()
        total, sums = torch.zeros((), device=self.args.device), dict[str, torch.Tensor]()
        for number, batch in enumerate(self.collected.batches):
            last = number + 1 == len(self.collected.batches)
            with self.accelerator.no_sync(model) if not last else nullcontext():
                with self._timed("training"), self.compute_loss_context_manager():
                    loss, figures = self._loss(model, batch, self.collected.counts)
                with self._timed("training"):
                    # Data parallelism averages the processes' gradients, and the loss is already over all samples.
                    self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value
        reduced = self._summed({"loss": total, **sums})
        self.figures |= {name: value for name, value in reduced.items() if name.startswith(("kl/", "clip"))}
        self._check_gates(new_samples=not again)
        return torch.tensor(reduced["loss"], device=self.args.device)

    def _loss(self, model: Any, batch: ScoreBatch, counts: Counts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = self._tempered(trained_logits(model, batch, self.share_prompt))
        with self._timed("scoring", out_of="training"):
            reference_logits = self._reference_logits(model, batch)
        return batch_loss(logits, reference_logits, batch, self.betas, counts, self.options)

    @torch.no_grad()
    def _reference_logits(self, model: Any, batch: ScoreBatch) -> torch.Tensor:
        own = self.accelerator.unwrap_model(model)
        with self.tools.reference(own):
            return self._tempered(trained_logits(self.tools.reference_model(own), batch, self.share_prompt))

    def _tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """At the temperature of the sampling; at 1 without a copy of them all."""
        temperature = self.plan.decoding.temperature
        return logits if temperature == 1 else logits / temperature

    def _collect(self, update: int) -> Collected:
        """Samples of an update's prompts (this process's share of them), checked, with their advantages."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        each = self.options["batch_size"] // self.plan.samples // processes
        questions = questions_of(self.rows, update, each * processes, f"{self.plan.seed}|stage {self.options['stage']}")
        questions = questions[mine * each : (mine + 1) * each]
        with self._timed("sampling"):
            self.tools.swap(model, update)
            episodes = roll_out(
                self.plan, questions, update, self.tools.sampler, self.tools.base_sampler, self.processing_class
            )
            self.tools.rest()
        with self._timed("rewards"):
            rewards = check_episodes(self.checker, questions, episodes)
        self.missing.update(one.missing for row in rewards for one in row if one.missing)
        advantages = episode_advantages(episodes, rewards, len(questions), self.options)
        telling = float((advantages.nan_to_num() != 0).any(dim=1).sum())
        sums = rollout_sums(episodes, rewards, self.options["right_from"])
        self.figures = self._over_processes(sums | {"telling": (telling, float(len(episodes)))})
        prompts = [question.ids for question in questions]
        batches = micro_batches(prompts, episodes, advantages, self.micro_batch_size, self.args.device)
        counts = [count(batch.turn_mask, batch.advantages) for batch in batches]
        summed = torch.stack([torch.stack(list(one)) for one in counts]).sum(dim=0)
        return Collected(batches, Counts(*self.accelerator.reduce(summed, "sum")))

    def _over_processes(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Figures of all processes' samples, from each one's (sum, count). A figure may be unknown to some of them."""
        totals = self._summed(
            {f"{name}|{i}": torch.tensor(sums.get(name, (0.0, 0.0))[i]) for name in FIGURES for i in (0, 1)}
        )
        found = {name: (totals[f"{name}|0"], totals[f"{name}|1"]) for name in FIGURES}
        means = {name: total / number for name, (total, number) in found.items() if number}
        return means | {"samples": found["samples"][1]}

    def _summed(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Sums over the processes."""
        stacked = torch.stack([value.detach().double() for value in values.values()]).to(self.args.device)
        return dict(zip(values, self.accelerator.reduce(stacked, "sum").tolist(), strict=True))

    def _check_gates(self, new_samples: bool) -> None:
        if not new_samples:
            return
        earlier = [row for row in self.state.log_history if "samples" in row]
        window = [*earlier[-GATE_WINDOW + 1 :], self.figures]
        if len(window) < GATE_WINDOW:
            return
        verdicts = score_gates(window, self.gates["base_accuracy"], self.gates["base_n"], self.gates["bounds"])
        if broken := first_broken(verdicts, self.gates["disabled"]):
            where = f"stage {self.options['stage']}, optimizer step {self.state.global_step + 1}"
            if broken.gate == "reward_coverage":
                where += "".join(f"; {count} times: {why}" for why, count in self.missing.most_common(3))
            raise GateError(
                f"gate {broken.gate} ({where}): {broken.message}\n"
                f"(`gates.disabled=[{broken.gate}]` goes on all the same)",
                history=[
                    *(row for row in self.state.log_history if "loss" in row),
                    {**self.figures, "step": self.state.global_step + 1},
                ],
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own figures and those of the samples, and the seconds by part since the last row."""
        if "loss" in logs:
            logs |= self.figures | {f"seconds/{part}": round(self.seconds[part], 4) for part in TIMES}
            self.figures, self.seconds = {}, dict.fromkeys(TIMES, 0.0)
        super().log(logs, start_time)

    @contextmanager
    def _timed(self, part: str, out_of: str | None = None) -> Iterator[None]:
        """Adds to the seconds of `part`; `out_of`: a part whose clock runs around this one, and which it is not of."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self.args.device.type == "cuda":
                torch.cuda.synchronize()
            took = time.monotonic() - began
            self.seconds[part] += took
            if out_of:
                self.seconds[out_of] -= took

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer does, without the base's own adapter, where it stands beside the trained one as reference."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and output_dir is not None:
            shutil.rmtree(Path(output_dir) / REFERENCE_ADAPTER, ignore_errors=True)


def batch_loss(
    logits: torch.Tensor,
    reference_logits: torch.Tensor,
    batch: ScoreBatch,
    betas: tuple[float, float],
    counts: Counts,
    options: Mapping[str, Any],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`score_loss` of a batch from both models' logits of its trained tokens, (N, vocabulary), at the temperature of
    the sampling. Of several passes over a batch the first one writes down the log-probs of the weights that sampled."""
    log_probs = batch.spread(token_log_probs(logits, batch.targets))
    if options["passes"] > 1 and batch.sampling_log_probs is None:
        batch.sampling_log_probs = log_probs.detach()
    turn_mask = batch.turn_mask[:, batch.kept]
    if options["kl"] == "exact":
        kl = batch.spread(exact_kl(logits, reference_logits))
    else:
        base_log_probs = batch.spread(token_log_probs(reference_logits, batch.targets))
        kl = sampled_kl(log_probs, base_log_probs, turn_mask, options["kl"], batch.sampling_log_probs)
    return score_loss(
        log_probs,
        turn_mask,
        batch.advantages,
        kl,
        betas,
        sampling_log_probs=batch.sampling_log_probs,
        clip_range=options["clip_range"],
        policy_reduction=options["policy_reduction"],
        kl_reduction=options["kl_reduction"],
        counts=counts,
    )


def check_episodes(checker: Checker, questions: list[Question], episodes: list[Episode]) -> list[list[Rewarded]]:
    """What the checker says of every attempt of each episode, in their order; equal answers are checked once."""
    answered = [
        Answered(questions[e.prompt].text, one.text, questions[e.prompt].answer, one.truncated)
        for e in episodes
        for one in e.attempts
    ]
    found = iter(checker.check(answered))
    return [[next(found) for _ in episode.attempts] for episode in episodes]


def episode_advantages(
    episodes: list[Episode], rewards: list[list[Rewarded]], prompts: int, options: Mapping[str, Any]
) -> torch.Tensor:
    """(episodes, 2) advantages of both turns, NaN where a turn has none; see `turn_advantages`.

    A first attempt that the base wrote has none. Truncated responses are left out where the recipe says so; a second
    attempt after a truncated first one is then left out too, since its reward is compared with the first one's.
    """
    shape = (prompts, len(episodes) // prompts)
    first = reward_tensor([row[0].value for row in rewards]).reshape(shape)
    second = reward_tensor([row[1].value if len(row) > 1 else None for row in rewards]).reshape(shape)
    cut = [[one.truncated for one in e.attempts] for e in episodes]
    dropped = options["truncated"] == "left_out"
    leave_out = [
        [not e.own_first or (dropped and row[0]), dropped and any(row)] for e, row in zip(episodes, cut, strict=True)
    ]
    return turn_advantages(
        turn_returns(first, second, options["stage"], options["alpha"]),
        torch.tensor(leave_out).reshape(*shape, 2),
        torch.tensor([e.first_attempt for e in episodes]).reshape(shape),
        options["second_baseline"],
        options["whiten"],
    ).reshape(-1, 2)
