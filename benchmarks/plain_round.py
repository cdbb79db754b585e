"""The same round as someone competent writes it in an afternoon: Transformers' `generate`, a padded scoring loop, and
TRL's own DPOTrainer, in one process that loads the model once. Nothing of selfimprove does any of the work; it is used
for counting only.

Chosen in its favour: inference mode and KV cache, batches sorted by length at the best of several sizes, one model with
both adapters for sampling, scoring and training, no gradient checkpointing, no files between the stages. It does not
soften the labels by the consistency, which TRL's sigmoid loss cannot, and scores nothing after the training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import datasets
import torch
from peft import PeftModel
from scipy.stats import kendalltau
from stages import CLOCKS, EVALUATION, Clock, RoundTimes, Stage
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer

from selfimprove.steps.floor import sampling_work, scoring_work, training_work


@dataclass(frozen=True)
class Plain:
    """What the script is told: the same models, prompts and options as the product's round. `texts` and `items` are
    rendered prompts; `rows` and `score_rows` are sequences of one batch (decoding, scoring)."""

    base: str
    adapter: str
    middle: str
    texts: tuple[str, ...]
    items: tuple[str, ...]
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    item_tokens: int
    beta: float
    training: dict[str, Any]
    device: str
    dtype: str
    seed: int
    rows: int = 160
    score_rows: int = 32

    def dpo_arguments(self) -> dict[str, Any]:
        """Stock DPOTrainer, told what a careful user tells it."""
        return {
            **self.training,
            "beta": self.beta,
            "precompute_ref_log_probs": True,
            "precompute_ref_batch_size": 2 * self.training["per_device_train_batch_size"],
            "gradient_checkpointing": False,
            "bf16": self.dtype == "bfloat16",
            "use_cpu": self.device == "cpu",
            "dataloader_pin_memory": self.device != "cpu",
            "max_length": None,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": self.seed,
        }

    def settings(self) -> dict[str, Any]:
        """For the result's file, without the prompts and without where this machine keeps its models."""
        left_out = ("texts", "items", "base", "adapter", "middle")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**values, "dpo": self.dpo_arguments()}


class PlainRound:
    """The script's state: one model with the adapters of M1 ("default") and of the SFT's middle."""

    def __init__(self, plain: Plain, clock: Clock = CLOCKS["wall"]) -> None:
        self.plain, self.clock = plain, clock
        self.stages: dict[str, Stage] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        stage = self.stages.setdefault(name, Stage())
        before = self.clock()
        yield stage
        if self.plain.device != "cpu":
            torch.cuda.synchronize()
        stage.seconds += self.clock() - before

    def load(self) -> None:
        plain = self.plain
        self.tokenizer = AutoTokenizer.from_pretrained(plain.base, padding_side="left")
        self.end = self.tokenizer.eos_token_id
        base = AutoModelForCausalLM.from_pretrained(plain.base, dtype=getattr(torch, plain.dtype)).to(plain.device)
        self.model = PeftModel.from_pretrained(base, plain.adapter, is_trainable=True)
        self.model.load_adapter(plain.middle, "middle")
        self.model.eval()

    @torch.inference_mode()
    def generate(self, texts: Sequence[str], n: int, rows: int, **decoding: Any) -> list[list[list[int]]]:
        """n responses (token ids, end of turn included) for each text."""
        prompts = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
        found: list[list[list[int]]] = [[] for _ in texts]
        each = max(1, rows // n)
        for start in range(0, len(order), each):
            batch = order[start : start + each]
            padded = self.tokenizer.pad({"input_ids": [prompts[i] for i in batch]}, return_tensors="pt")
            padded = padded.to(self.plain.device)
            made = self.model.generate(
                **padded, num_return_sequences=n, pad_token_id=self.tokenizer.pad_token_id, **decoding
            )
            for row, ids in enumerate(made[:, padded["input_ids"].shape[1] :].tolist()):
                ended = ids.index(self.end) + 1 if self.end in ids else len(ids)
                found[batch[row // n]].append(ids[:ended])
        return found

    @torch.inference_mode()
    def log_probs(self, sequences: Sequence[tuple[list[int], list[int]]], rows: int) -> list[float]:
        """Summed log-prob (nats) of the response of each (prompt, response)."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]) + len(sequences[i][1]))
        found = [0.0] * len(sequences)
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            whole = [torch.tensor([*sequences[i][0], *sequences[i][1]]) for i in batch]
            ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=self.end)
            lengths = torch.tensor([len(one) for one in whole])[:, None]
            mask = (torch.arange(ids.shape[1]) < lengths).long()
            logits = self.model(
                input_ids=ids.to(self.plain.device), attention_mask=mask.to(self.plain.device), use_cache=False
            ).logits
            for row, i in enumerate(batch):
                prompt, response = sequences[i]
                first = len(prompt) - 1
                predicted = logits[row, first : first + len(response)].float().log_softmax(dim=-1)
                targets = torch.tensor(response, device=self.plain.device)[:, None]
                found[i] = float(predicted.gather(1, targets).sum())
        return found

    def sample(self, texts: Sequence[str], rows: int) -> list[list[list[int]]]:
        plain = self.plain
        return self.generate(
            texts,
            plain.n,
            rows,
            do_sample=True,
            temperature=plain.temperature,
            top_p=plain.top_p,
            top_k=0,
            max_new_tokens=plain.max_new_tokens,
        )

    def train(self, pairs: list[dict[str, str]], folder: str) -> None:
        self.model.delete_adapter("middle")
        trainer = DPOTrainer(
            model=self.model,
            args=DPOConfig(output_dir=folder, **self.plain.dpo_arguments()),
            train_dataset=datasets.Dataset.from_list(pairs),
            processing_class=self.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.save_model(folder)

    def run(self, wanted_pairs: int | None) -> RoundTimes:
        """The round and the evaluation. `wanted_pairs`: how many pairs to train, so that both sides train as many."""
        plain = self.plain
        torch.manual_seed(plain.seed)
        datasets.disable_caching()  # an earlier repeat's reference log-probs must not be found
        began = self.clock()
        with self.stage("load"):
            self.load()
        with self.stage("sample") as stage:
            responses = self.sample(plain.texts, plain.rows)
        prompts = self.tokenizer(list(plain.texts), add_special_tokens=False)["input_ids"]
        sequences = [(prompt, ids) for prompt, group in zip(prompts, responses, strict=True) for ids in group]
        stage.tokens = sum(len(ids) for _, ids in sequences)
        with self.stage("score"):
            now = self.log_probs(sequences, plain.score_rows)
            with self.model.disable_adapter():
                initial = self.log_probs(sequences, plain.score_rows)
            self.model.set_adapter("middle")
            before = self.log_probs(sequences, plain.score_rows)
            self.model.set_adapter("default")
        own = self.pairs(responses, now, initial, before)
        pairs = list(islice(cycle(own), wanted_pairs or len(own)))
        with tempfile.TemporaryDirectory() as folder, self.stage("train"):
            self.train(pairs, folder)
        round_seconds = self.clock() - began
        with self.stage(EVALUATION):
            self.model.eval()
            answers = self.generate(plain.items, 1, plain.rows, do_sample=False, max_new_tokens=plain.item_tokens)
        self._count(prompts, responses, pairs, answers)
        return RoundTimes(self.stages, round_seconds, {"pairs": len(pairs)}).close()

    def pairs(
        self, responses: list[list[list[int]]], now: list[float], initial: list[float], before: list[float]
    ) -> list[dict[str, str]]:
        """Best over worst by log pi_t - log pi_0, and the consistency with the model before (which TRL cannot use)."""
        pairs, agreement, place = [], [], 0
        for text, group in zip(self.plain.texts, responses, strict=True):
            here = range(place, place + len(group))
            place += len(group)
            reward = [now[i] - initial[i] for i in here]
            agreement.append(kendalltau(reward, [before[i] - initial[i] for i in here]).statistic)
            answers = self.tokenizer.batch_decode(group, skip_special_tokens=True)
            chosen, rejected = answers[reward.index(max(reward))], answers[reward.index(min(reward))]
            if chosen != rejected:
                pairs.append({"prompt": text, "chosen": chosen, "rejected": rejected})
        return pairs

    def _count(self, prompts: Any, responses: Any, pairs: Any, answers: Any) -> None:
        """Tokens and unavoidable work of each stage, as the product's are counted."""
        epochs = self.plain.training["num_train_epochs"]

        def length(text: str) -> int:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        lengths = [len(ids) for ids in prompts]
        flat = [len(ids) for group in responses for ids in group]
        self.stages["sample"].work = [sampling_work(lengths, flat)]
        distinct = [
            (size, [len(ids) for ids in {tuple(ids) for ids in group}])
            for size, group in zip(lengths, responses, strict=True)
        ]
        self.stages["score"].work = [scoring_work(distinct)] * 3
        self.stages["score"].tokens = 3 * (sum(flat) + self.plain.n * sum(lengths))
        groups = [(length(p["prompt"]), [length(p["chosen"]) + 1, length(p["rejected"]) + 1]) for p in pairs]
        self.stages["train"].work = [training_work(groups, epochs, lora=True)]
        self.stages["train"].tokens = int(epochs * sum(2 * prompt + sum(both) for prompt, both in groups))
        self.stages[EVALUATION].tokens = sum(len(ids) for group in answers for ids in group)
        self.stages[EVALUATION].work = [
            sampling_work([length(text) for text in self.plain.items], [len(ids) for group in answers for ids in group])
        ]


def tuned(plain: Plain) -> dict[str, int]:
    """The fastest of a few batch sizes on a part of the work: rows while sampling, rows while scoring."""
    script = PlainRound(plain)
    script.load()
    texts = plain.texts[: max(1, 160 // plain.n)]
    responses = script.sample(texts, 160)
    prompts = script.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    sequences = [(prompt, ids) for prompt, group in zip(prompts, responses, strict=True) for ids in group][:96]
    larger = plain.device != "cpu"
    return {
        "rows": _fastest((160, 320, 640) if larger else (40, 80, 160), lambda rows: script.sample(texts, rows)),
        "score_rows": _fastest((32, 64, 96) if larger else (8, 16, 32), lambda rows: script.log_probs(sequences, rows)),
    }


def _fastest(sizes: Sequence[int], work: Callable[[int], object]) -> int:
    times = {}
    for size in sizes:
        before = time.perf_counter()
        work(size)
        times[size] = time.perf_counter() - before
    return min(times, key=lambda size: times[size])
