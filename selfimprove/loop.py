"""The loop: what a method calls. Every method of `Loop` that is slow is a durable step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selfimprove import gates
from selfimprove.artefacts import Artefact, Store, digest_of, file_digest, rows_digest
from selfimprove.chat import stop_ids
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError, RunFailed
from selfimprove.evaluation.runner import Evaluator
from selfimprove.floor import step_floor
from selfimprove.judging.functions import Verdict
from selfimprove.judging.judges import check_judge
from selfimprove.policy import MODELS, Policy, adapter_rank, load_tokenizer, pick_device, resolve_policy
from selfimprove.recipe import JudgeOptions, Recipe
from selfimprove.record import Record, Round
from selfimprove.reporting.events import EventLog
from selfimprove.reporting.terminal import Progress
from selfimprove.run_data import RunData, context_tokens, responses_of, seed_responses
from selfimprove.sampling import Decoding, Request, choose_backend, make_sampler
from selfimprove.steps import StepRequest, run_step
from selfimprove.training.accelerate_file import check_accelerate_file, find_accelerate_file
from selfimprove.training.stages import made_policy, optimizer_steps, read_history
from selfimprove.worker import STEPS

# How many seed examples the probe for "weights moved" scores.
_PROBE = 8


class Loop(Record):
    """The steps a method is made of, with their data and policies; its gates and events are `Record`'s.

    Policies are named in order of their making: M0 is the given model, M1 the first trained one, and so on.
    """

    def __init__(self, recipe: Recipe, store: Store, events: EventLog, progress: Progress) -> None:
        super().__init__(recipe, events, progress)
        self.store = store
        self.base_policy = resolve_policy(recipe.model, "M0", recipe.trust_remote_code)
        self.tokenizer = load_tokenizer(self.base_policy)
        self.stops = stop_ids(self.tokenizer)
        self.device = pick_device(recipe.device)
        given = recipe.training.dtype
        self.dtype = given if given != "auto" else ("bfloat16" if self.device.startswith("cuda") else "float32")
        self.backend, _ = choose_backend(recipe.sampling.backend, self.device)
        self._first_health: dict[str, float] | None = None
        room = min(context_tokens(self.base_policy.base), recipe.training.max_length)
        self.data = RunData(recipe, self.tokenizer, room, self.note)
        self.evaluator = Evaluator(self, recipe)
        if recipe.training.accelerate:
            check_accelerate_file(find_accelerate_file(recipe), recipe.training)
        if recipe.method == "iterative_dpo":
            check_judge(recipe.iterative_dpo.judge, recipe.search_folders())
        for changed in events.adopt_inputs(self._inputs()):
            progress.note(f"{changed} changed since this run was last started; what depends on it is made again")
        self.check(gates.no_leak(self.data.training_texts(), self.evaluator.texts()))

    def _inputs(self) -> dict[str, str]:
        """Digests of what a recipe's text does not show: the model, the data, the versions of the steps."""
        data = self.data
        return {
            "the model": self.base_policy.digest,
            "data.seed": rows_digest(data.seed_examples),
            "data.prompts": digest_of([[[p.id, p.prompt_ids, p.answer] for p in part] for part in data.round_prompts]),
            "data.pairs": digest_of(
                [[pair.prompt.prompt_ids, pair.chosen.ids, pair.rejected.ids] for pair in data.pairs]
            ),
            "the evaluation suites": digest_of(self.evaluator.texts()),
            "the program's steps": digest_of({name: kind.version for name, kind in STEPS.items()}),
        }

    def step(self, request: StepRequest) -> Artefact:
        """The artefact of a step: found, or made now. Emits the step's event."""
        artefact, reused = run_step(self.store, request, self.progress)
        if reused:
            self.progress.step_reused(request.label)
        self._report_engine()
        figures = artefact.figures
        self.events.emit(
            "step",
            f"{request.label}|{artefact.manifest['key'][:16]}",
            step=request.step,
            label=request.label,
            round=self._round,
            seconds=figures["seconds"],
            tokens=figures["tokens"],
            floor_seconds=None if reused else self._floor(request, artefact),
            reused=reused,
            folder=artefact.folder.name,
        )
        return artefact

    def _floor(self, request: StepRequest, artefact: Artefact) -> float | None:
        """Seconds the step's matrix products take at this machine's speed, for the report."""
        policy = request.policies.get("policy") or request.policies.get("start")
        if policy is None:
            return None
        made = artefact.rows() if request.step == "sample" else []
        return step_floor(
            request.step, request.options, request.inputs, made, policy.base, self.device, request.processes
        )

    def rounds(self) -> Iterator[Round]:
        """The rounds, each with its own prompts."""
        for number, prompts in enumerate(self.data.round_prompts, start=1):
            self._round = number
            self.progress.note(f"round {number} of {len(self.data.round_prompts)}: {len(prompts)} prompts")
            yield Round(number, prompts)

    def sft(self, policy: Policy) -> Policy:
        """Supervised fine-tuning of `policy` on the seed examples."""
        return self.sft_with_middle(policy, middle=False)[0]

    def sft_with_middle(self, policy: Policy, middle: bool) -> tuple[Policy, Policy | None]:
        """SFT, and (if `middle`) the policy half-way through its optimizer steps."""
        options = self._training_options("sft")
        self.check(
            gates.rendering(
                self.tokenizer,
                [(e["prompt_ids"], e["response_ids"]) for e in self.data.seed_examples[: options["batch_size"]]],
            )
        )
        if middle:
            options["keep_at"] = 0.5
        trained, artefact = self._train("sft", policy, options, "examples", self.data.seed_examples)
        probe = seed_responses(self.data.seed_examples[:_PROBE])
        self._check_moved(policy, trained, probe, self.log_probs(probe, policy), self.log_probs(probe, trained))
        half = made_policy(policy, artefact, f"{trained.name} half-way", middle=True) if middle else None
        return trained, half

    def sample(self, policy: Policy, prompts: Sequence[RenderedPrompt]) -> Responses:
        """N responses per prompt from `policy`, token for token."""
        sampling = self.recipe.sampling
        responses = self.draw(
            policy,
            prompts,
            f"sample {policy.name}",
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
        )
        health = gates.response_health(list(responses.by_prompt.values()))
        self._first_health = self._first_health or health
        self.check(gates.degeneration(health, self._first_health, self.recipe.gates.model_dump()))
        return responses

    def draw(
        self,
        policy: Policy,
        prompts: Sequence[RenderedPrompt],
        label: str,
        *,
        n: int,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        stops: Sequence[int] | None = None,
    ) -> Responses:
        """Responses to prompts under any decoding options (temperature 0 is greedy; `stops`: the run's own)."""
        artefact = self.step(
            StepRequest(
                step="sample",
                label=label,
                options={
                    "n": n,
                    "temperature": temperature,
                    "top_p": top_p,
                    "max_new_tokens": max_new_tokens,
                    "stop_ids": list(self.stops if stops is None else stops),
                    "dtype": self.dtype,
                    "backend": self.backend,
                },
                inputs={"prompts": [{"prompt_id": p.id, "prompt_ids": list(p.prompt_ids)} for p in prompts]},
                policies={"policy": policy},
                seed=self.recipe.seed if temperature else 0,  # greedy answers are every seed's
                execution={"device": self.device, **self._sampler_execution(policy)},
                total=n * len(prompts),
            )
        )
        by_prompt: dict[str, list[Response]] = {}
        for row in artefact.rows():
            response = Response(
                row["prompt_id"], row["index"], tuple(row["ids"]), row["finish"], row["text"], row["log_prob"]
            )
            by_prompt.setdefault(response.prompt_id, []).append(response)
        return Responses({p.id: p for p in prompts}, by_prompt, sampled_by=policy.digest)

    def log_probs(self, responses: Responses, policy: Policy) -> LogProbs:
        """Summed log-prob and token count of every response under `policy`."""
        artefact = self.step(
            StepRequest(
                step="log_probs",
                label=f"log-probs under {policy.name}",
                options={"dtype": self.dtype},
                inputs={"responses": responses.rows()},
                policies={"policy": policy},
                seed=0,
                execution={"device": self.device, "batch_tokens": self.recipe.sampling.batch_tokens},
            )
        )
        rows = artefact.rows()
        scored = LogProbs(
            policy.name,
            policy.digest,
            {(row["prompt_id"], row["index"]): row["log_prob"] for row in rows},
            {(row["prompt_id"], row["index"]): row["tokens"] for row in rows},
        )
        if responses.sampled_by == policy.digest:
            bound = self.recipe.gates.sampler_agrees or (1e-3 if self.dtype == "float32" else 2e-2)
            self.check(gates.sampler_agrees(responses, scored, bound))
        return scored

    def dpo(
        self,
        policy: Policy,
        pairs: Sequence[Pair],
        reference: LogProbs,
        round: Round | None = None,
        may_be_empty: bool = False,
    ) -> Policy:
        """Preference training of `policy` on `pairs`; `reference` holds the loss reference's log-probs of them."""
        where = f"round {round.number}" if round else "data.pairs"
        if not pairs:
            if may_be_empty:
                self.note(f"{where}: no pair is above the floor, so nothing is trained and {policy.name} stays")
                return policy
            raise RunFailed(
                f"{where}: no preference pair is left (all responses the same, or no usable scores). Raise "
                "sampling.temperature or sampling.n, or look at the responses in the step's folder"
            )
        options = self._training_options("training")
        options |= {
            "beta": self.recipe.training.beta,
            "reference_is_start": reference.policy_digest == policy.digest,
        }
        first = pairs[: options["batch_size"]]
        self.check(gates.rendered_pairs(self.tokenizer, first, self.stops))
        rows = [_pair_row(pair, reference) for pair in pairs]
        trained, artefact = self._train("dpo", policy, options, "pairs", rows)
        if (note := artefact.folder / "first-batch.json").is_file():
            self.check(gates.dpo_start(json.loads(note.read_text()), options["reference_is_start"], self.dtype))
        both = responses_of(pairs)
        after = self.log_probs(both, trained)
        before = reference if options["reference_is_start"] else self.log_probs(both, policy)
        self._check_moved(policy, trained, both, before, after)
        self._last_margins = margins(pairs, after, reference, self.recipe.training.beta)
        return trained

    def judged(self, responses: Responses, judge: JudgeOptions) -> dict[str, list[Verdict]]:
        """Verdicts of a `reward_model` or a `function` on every response, as a durable step."""
        texts = [
            {
                "prompt_id": prompt.id,
                "index": response.index,
                "prompt": prompt.text,
                "text": response.text,
                "answer": prompt.answer,
                "messages": list(prompt.messages) or [{"role": "user", "content": prompt.text}],
            }
            for prompt, its_responses in responses
            for response in its_responses
        ]
        options: dict[str, Any] = {"dtype": self.dtype}
        policies = {}
        if judge.kind == "reward_model":
            policies["reward_model"] = resolve_policy(str(judge.model), "judge", self.recipe.trust_remote_code)
        else:
            options = {"function": judge.function, "version": judge.version}
        artefact = self.step(
            StepRequest(
                step=judge.kind,
                label=f"judge {Path(str(judge.model or judge.function)).name}",
                options=options,
                inputs={"texts": texts},
                policies=policies,
                seed=0,
                execution={"device": self.device, "batch_tokens": self.recipe.sampling.batch_tokens},
            )
        )
        verdicts: dict[str, list[Verdict]] = {}
        for row in artefact.rows():
            verdicts.setdefault(row["prompt_id"], []).append((row["score"], row["missing"]))
        return verdicts

    def ask(self, policy: Policy, questions: Mapping[str, str], new_tokens: int, label: str) -> dict[str, str]:
        """Greedy answers to questions by id; one that does not fit the context is answered by an empty text."""
        # Whoever is asked reads its own chat template, which may be another than the run's.
        tokenizer, room = load_tokenizer(policy), context_tokens(policy.base)
        prompts = [Prompt(id, ({"role": "user", "content": text},)) for id, text in questions.items()]
        rendered = self.data.rendered(prompts, new_tokens, label, tokenizer, room)
        answers = self.draw(
            policy,
            rendered,
            f"{label} ({policy.name})",
            n=1,
            temperature=0.0,
            top_p=1.0,
            max_new_tokens=new_tokens,
            stops=stop_ids(tokenizer),
        )
        found = {response.prompt_id: response.text for response in answers.all()}
        return {id: found.get(id, "") for id in questions}

    def evaluate(self, policy: Policy, round: Round | None = None) -> None:
        """Runs every suite of the recipe on `policy`, with intervals and the paired change."""
        self.evaluator.evaluate(policy, round.number if round else 0)

    def kept(self, last: Policy) -> Policy:
        """`keep: last`, or the best policy on the development suite."""
        return self.evaluator.best() or last if self.recipe.keep == "best" else last

    def _train(
        self, step: str, start: Policy, options: dict[str, Any], input_name: str, rows: list[dict[str, Any]]
    ) -> tuple[Policy, Artefact]:
        """The policy a training step makes, with its event."""
        MODELS.free()
        artefact = self.step(
            StepRequest(
                step=step,
                label=f"{step.upper()} {start.name} to M{len(self.made) + 1}",
                options=options,
                inputs={input_name: rows},
                policies={"start": start},
                seed=self.recipe.seed,
                execution=self._training_execution(),
                total=optimizer_steps(len(rows), options["batch_size"], options["epochs"]),
                processes=self.recipe.training.processes,
                accelerate=str(find_accelerate_file(self.recipe)) if self.recipe.training.accelerate else None,
            )
        )
        trained = made_policy(start, artefact, f"M{len(self.made) + 1}")
        self.made.append(trained)
        options = artefact.manifest["options"]
        self.events.emit(
            "training",
            f"{artefact.manifest['label']}|{artefact.manifest['key'][:16]}",
            stage=artefact.manifest["step"],
            round=self._round,
            policy=trained.name,
            policy_digest=trained.digest,
            start_digest=start.digest,
            examples=len(rows),
            epochs=options["epochs"],
            seconds=artefact.figures["seconds"],
            history=[_shown(row) for row in read_history(artefact.folder)],
        )
        return trained, artefact

    def _training_options(self, stage: str) -> dict[str, Any]:
        """What of the recipe changes a training step's result."""
        training = self.recipe.training
        names = (
            "learning_rate",
            "epochs",
            "batch_size",
            "warmup_ratio",
            "weight_decay",
            "max_grad_norm",
            "scheduler",
        )
        options: dict[str, Any] = {name: getattr(training, name) for name in names}
        if stage == "sft" and self.recipe.method != "sft":
            own = self.recipe.sft.model_dump()
            options |= {name: own[name] for name in names if own[name] is not None}
        options["lora"] = training.lora.model_dump(mode="json") if training.lora else None
        options["dtype"] = self.dtype
        if stage == "sft" and training.lora and training.lora.dropout:
            # Which rows share a forward decides their dropout masks.
            options |= {"micro_batch_size": training.micro_batch_size, "processes": training.processes}
        if training.accelerate:
            options["accelerate"] = file_digest(find_accelerate_file(self.recipe))
        return options

    def _sampler_execution(self, policy: Policy) -> dict[str, Any]:
        """What the sampler's backend needs to know that changes its responses by rounding only."""
        sampling = self.recipe.sampling
        if self.backend == "vllm":
            own = sampling.vllm.model_dump()
            own["max_model_len"] = own["max_model_len"] or min(context_tokens(policy.base), 32768)
            ranks = [self.recipe.training.lora.r] if self.recipe.training.lora else []
            return {"vllm": own | {"max_lora_rank": max([*ranks, adapter_rank(policy)])}}
        if self.backend == "openai" and sampling.server:
            served = replace(self.base_policy, adapter=None, adapter_digest=None)  # adapters are loaded beside it
            needs = "sampler_agrees" not in self.recipe.gates.disabled
            return {"server": sampling.server.model_dump(), "served_policy": served.spec(), "needs_log_probs": needs}
        return {"batch_tokens": sampling.batch_tokens}

    def check_sampler(self) -> None:
        """Before anything is trained: vllm has room for the prompts; a server is asked for one token, so that what it
        lacks is said."""
        sampling = self.recipe.sampling
        prompts = [tuple(p.prompt_ids) for group in self.data.round_prompts for p in group] or [(self.stops[0],)]
        execution = {"device": self.device, **self._sampler_execution(self.base_policy)}
        if self.backend == "vllm" and self.data.round_prompts:
            from selfimprove.sampling.vllm import require_room

            require_room(execution["vllm"]["max_model_len"], max(map(len, prompts)), sampling.max_new_tokens)
        if self.backend != "openai":
            return
        if not self.recipe.training.lora and self.recipe.method != "evaluate":
            raise InputError(
                "sampling.backend: a server takes a trained policy as a LoRA adapter only, and training.lora is off; "
                "set training.lora, or sampling.backend to vllm or transformers"
            )
        decoding = Decoding(sampling.temperature, sampling.top_p, sampling.max_new_tokens, tuple(self.stops))
        with TemporaryDirectory() as folder:
            sampler = make_sampler({"backend": "openai"}, execution, Path(folder))
            sampler.check([Request(max(prompts, key=len), 1, 0)], decoding)  # type: ignore[attr-defined]

    def _report_engine(self) -> None:
        """Events of the vLLM engine's starts and swaps since the last step."""
        if vllm := sys.modules.get("selfimprove.sampling.vllm"):
            for entry in vllm.ENGINE.take_history():
                self.events.emit("engine", str(time.time_ns()), backend="vllm", round=self._round, **entry)

    def _training_execution(self) -> dict[str, Any]:
        """What says how a training step is carried out, and changes its result by rounding only."""
        training = self.recipe.training
        checkpointing = training.gradient_checkpointing
        return {
            "device": self.device,
            "micro_batch_size": training.micro_batch_size,
            "checkpoint_steps": training.checkpoint_steps,
            "gradient_checkpointing": self.device != "cpu" if checkpointing == "auto" else checkpointing,
            "report_to": list(training.report_to),
            "gate_dpo_start": "dpo_start" not in self.recipe.gates.disabled,
        }


def margins(pairs: Sequence[Pair], after: LogProbs, reference: LogProbs, beta: float) -> list[float]:
    """h of each pair after training: beta times the difference of the log-ratios to the loss reference."""
    return [
        beta
        * (
            (after.of(pair.chosen) - reference.of(pair.chosen))
            - (after.of(pair.rejected) - reference.of(pair.rejected))
        )
        for pair in pairs
    ]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A logged training step as the report names it: the loss is the mean of the pairs, without padding rows."""
    names = {"rewards/margins": "margin", "loss_per_pair": "loss"}
    kept = {name: value for name, value in row.items() if not (name == "loss" and "loss_per_pair" in row)}
    return {names.get(name, name): value for name, value in kept.items()}


def _pair_row(pair: Pair, reference: LogProbs) -> dict[str, Any]:
    """What the preference trainer reads, with the texts beside it in TRL's names for people and other tools."""
    return {
        "prompt_id": pair.prompt.id,
        "prompt": pair.prompt.text,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "prompt_ids": list(pair.prompt.prompt_ids),
        "chosen_ids": list(pair.chosen.ids),
        "rejected_ids": list(pair.rejected.ids),
        "reference_chosen_log_prob": reference.of(pair.chosen),
        "reference_rejected_log_prob": reference.of(pair.rejected),
        "confidence": pair.confidence,
    }
