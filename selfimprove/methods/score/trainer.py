"""SCoRe's trainer: every optimizer step rolls out two attempts at its prompts, has them checked, and follows the
policy gradient of `score_loss` (arXiv 2409.12917).

A thin layer over Transformers' Trainer, through the two methods that its documentation offers for it (`training_step`,
`log`): it gives the optimizer, schedule, checkpoints, trackers and processes. Not TRL's GRPOTrainer (1.16): its loss,
reference, generation and truncation would all be replaced, and its generations are not in its checkpoints. Here an
update's prompts and noise are functions of its number, so a training that goes on from a checkpoint at an update's
boundary does what an undisturbed one does.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from selfimprove.errors import GateError
from selfimprove.judging.outcomes import Answered, Rewarded
from selfimprove.judging.rewarding import Checker
from selfimprove.methods.score.batch import ScoreBatch, micro_batches, trained_logits
from selfimprove.methods.score.figures import FIGURES, rollout_sums
from selfimprove.methods.score.gates import first_broken, score_gates
from selfimprove.methods.score.loss import (
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
from selfimprove.methods.score.rollouts import Episode, Plan, Question, questions_of, roll_out
from selfimprove.methods.score.sample_log import keep_rows, sample_rows
from selfimprove.methods.score.sampler_weights import sampler_figures, sampler_weights
from selfimprove.models.log_probs import token_log_probs

# Updates whose mean the gates look at.
GATE_WINDOW = 10
# The base's own adapter, where it has one and the trained adapter stands on the same weights.
REFERENCE_ADAPTER = "reference"
RATIO = "sampler/ratio"  # the one figure of a part that is no sum
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
class Drawn:
    """Prompts of an update, with samples of each in a row, their rewards, and the advantages of both turns."""

    questions: list[Question]
    episodes: list[Episode]
    rewards: list[list[Rewarded]]
    advantages: torch.Tensor

    def tells(self, prompts: int) -> torch.Tensor:
        """(prompts,) whether any sample of a prompt has an advantage that is not 0."""
        return (self.advantages.nan_to_num() != 0).any(dim=1).reshape(prompts, -1).any(dim=1)

    def replaced(self, places: list[int], others: Drawn, prompts: int) -> Drawn:
        """The same with the prompts at `places` replaced by those of `others` that tell, one by one."""
        size = len(self.episodes) // prompts
        questions, episodes, rewards = list(self.questions), list(self.episodes), list(self.rewards)
        advantages = self.advantages.clone()
        telling = others.tells(len(others.questions)).nonzero()[:, 0].tolist()
        for place, other in zip(places, telling, strict=False):
            here, there = slice(place * size, (place + 1) * size), slice(other * size, (other + 1) * size)
            questions[place] = others.questions[other]
            episodes[here] = [replace(one, prompt=place) for one in others.episodes[there]]
            rewards[here], advantages[here] = others.rewards[there], others.advantages[there]
        return Drawn(questions, episodes, rewards, advantages)


@dataclass
class Collected:
    """An update's samples, ready for its optimizer steps, with the counts of all processes."""

    batches: list[ScoreBatch]
    counts: Counts


class ScoreTrainer(Trainer):
    """See the module.

    Args:
        rows: the prompts (`prompt_id`, `prompt_ids`, `text`, `answer`).
        options, gates: of the step, see `selfimprove/methods/score/run.py`.
        share_prompt: computes a prompt once for all its samples.
        samples: folder for the samples that are kept, of every `keep_samples`th update; see `sample_log.py`.
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
        samples: Path,
        keep_samples: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rows, self.plan, self.tools, self.checker, self.options, self.gates = (
            *(rows, plan, tools, checker, options, gates),
        )
        self.micro_batch_size, self.share_prompt = micro_batch_size, share_prompt
        self.samples, self.keep_samples = samples, keep_samples
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
        largest = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(self.collected.batches):
            last = number + 1 == len(self.collected.batches)
            with self.accelerator.no_sync(model) if not last else nullcontext():
                with self._timed("training"), self.compute_loss_context_manager():
                    loss, figures = self._loss(model, batch, self.collected.counts)
                with self._timed("training"):
                    # Data parallelism averages the processes' gradients, and the loss is already over all samples.
                    self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
            largest = torch.maximum(largest, figures.pop(RATIO))
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value
        reduced = self._summed({"loss": total, **sums})
        self.figures |= {name: value for name, value in reduced.items() if name.startswith(("kl/", "clip"))}
        if not again and reduced["sampler/tokens"]:
            self.figures["sampler_kl"] = reduced["sampler/kl"] / reduced["sampler/tokens"]
            self.figures["sampler_ratio"] = float(self.accelerator.gather(largest[None]).max())
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
        # As the trained model's forward is by itself: a frozen one's would not be, and the KL would not begin at 0.
        with self.tools.reference(own), self.accelerator.autocast():
            return self._tempered(trained_logits(self.tools.reference_model(own), batch, self.share_prompt))

    def _tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """At the temperature of the sampling; at 1 without a copy of them all."""
        temperature = self.plan.decoding.temperature
        return logits if temperature == 1 else logits.float() / temperature

    def _collect(self, update: int) -> Collected:
        """Samples of an update's prompts (this process's share of them), checked, with their advantages."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        each = self.options["batch_size"] // self.plan.samples // processes
        order = f"{self.plan.seed}|stage {self.options['stage']}"

        def asked(again: int) -> list[Question]:
            name = f"{order}|again {again}" if again else order
            found = questions_of(self.rows, update, each * processes, name)[mine * each : (mine + 1) * each]
            return [one._replace(draw=f"{one.draw}|again {again}") for one in found] if again else found

        with self._timed("sampling"):
            self.tools.swap(model, update)
        drawn = self._draw(update, asked(0))
        # Of the first draw alone: what replaces it was chosen by its rewards.
        sums = rollout_sums(drawn.episodes, drawn.rewards, self.options["right_from"])
        telling = (drawn.advantages.nan_to_num() != 0).any(dim=1)
        learn = telling.reshape(each, -1).any(dim=1)
        sums["telling"] = float(telling.sum()), float(len(telling))
        sums["informative"] = float(learn.sum()), float(each)
        for again in range(1, self.options["redraw"] + 1):
            if alike := (~drawn.tells(each)).nonzero()[:, 0].tolist():
                drawn = drawn.replaced(alike, self._draw(update, asked(again)[: len(alike)]), each)
        with self._timed("sampling"):
            self.tools.rest()
        self.figures = self._over_processes(sums)
        rows = sample_rows(update, drawn.questions, drawn.episodes, drawn.rewards, drawn.advantages)
        keep_rows(self.samples, rows, update, mine, self.keep_samples, GATE_WINDOW)
        prompts = [question.ids for question in drawn.questions]
        batches = micro_batches(prompts, drawn.episodes, drawn.advantages, self.micro_batch_size, self.args.device)
        counts = [count(batch.turn_mask, batch.advantages) for batch in batches]
        summed = torch.stack([torch.stack(list(one)) for one in counts]).sum(dim=0)
        return Collected(batches, Counts(*self.accelerator.reduce(summed, "sum")))

    def _draw(self, update: int, questions: list[Question]) -> Drawn:
        """Samples of some prompts, checked."""
        with self._timed("sampling"):
            episodes = roll_out(
                self.plan, questions, update, self.tools.sampler, self.tools.base_sampler, self.processing_class
            )
        with self._timed("rewards"):
            rewards = check_episodes(self.checker, questions, episodes)
        self.missing.update(one.missing for row in rewards for one in row if one.missing)
        return Drawn(questions, episodes, rewards, episode_advantages(episodes, rewards, len(questions), self.options))

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
                f"gate {broken.gate} ({where}): {broken.message}. Samples of the last updates: {self.samples}\n"
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
    the sampling, with the sums of `sampler_figures`. Of several passes over a batch the first one writes down the
    log-probs of the weights that sampled."""
    log_probs = batch.spread(token_log_probs(logits, batch.targets))
    if options["passes"] > 1 and batch.sampling_log_probs is None:
        batch.sampling_log_probs = log_probs.detach()
    turn_mask = batch.turn_mask[:, batch.kept]
    if options["kl"] == "exact":
        kl = batch.spread(exact_kl(logits, reference_logits))
    else:
        base_log_probs = batch.spread(token_log_probs(reference_logits, batch.targets))
        kl = sampled_kl(log_probs, base_log_probs, turn_mask, options["kl"], batch.sampling_log_probs)
    sampler = batch.sampler_log_probs[:, batch.kept]
    at_first = log_probs.detach() if batch.sampling_log_probs is None else batch.sampling_log_probs
    loss, figures = score_loss(
        log_probs,
        turn_mask,
        batch.advantages,
        kl,
        betas,
        sampling_log_probs=batch.sampling_log_probs,
        clip_range=options["clip_range"],
        policy_reduction=options["policy_reduction"],
        kl_reduction=options["kl_reduction"],
        weights=sampler_weights(at_first, sampler, turn_mask, options["sampler_weights"], options["sampler_cap"]),
        counts=counts,
    )
    between = sampler_figures(at_first, sampler, turn_mask)
    return loss, figures | {f"sampler/{name}": torch.as_tensor(value).to(loss) for name, value in between.items()}


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
