"""The loop: what a method calls. Every method of `Loop` that is slow is a durable step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from selfimprove import gates
from selfimprove.artefacts import Artefact, Store, digest_of, file_digest, rows_digest
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Responses, Scores
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.judging.asking import short_name
from selfimprove.judging.judges import check_judge, judge_responses
from selfimprove.judging.rewarding import check_reward, reward_step_of
from selfimprove.loop.data import RunData, responses_of, seed_responses
from selfimprove.loop.record import Record, Round
from selfimprove.models.chat import check_template_kwargs, stop_ids
from selfimprove.models.context import context_tokens
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import Policy, declared_ends, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.sampling.backends import make_sampler
from selfimprove.sampling.sampler import Decoding, Request
from selfimprove.steps.kind import step_versions
from selfimprove.steps.request import StepRequest
from selfimprove.suites.runner import Evaluator
from selfimprove.training.accelerate_file import check_accelerate_file, find_accelerate_file
from selfimprove.training.stages import made_policy, optimizer_steps, read_history
from selfimprove.training.trackers import tell_figures

# How many seed examples the probe for "weights moved" scores.
_PROBE = 8


class Trained(NamedTuple):
    """What a preference training made.

    Attributes:
        policy: the policy it left; the one it began from where there was nothing to train on.
        margins: h of each pair after training, in nats: see `margins`.
        health: the last logged step's figures: loss, margin, gradient norm, learning rate.
    """

    policy: Policy
    margins: list[float]
    health: dict[str, Any]


class Judged(NamedTuple):
    """What a judge said: scores by prompt id, in the order of the responses (None is missing), and how many are missing
    by reason."""

    scores: Scores
    missing: dict[str, int]


class Loop(Record):
    """The steps a method is made of, with their data and policies. Those that train none, gates and events are
    `Inference`'s; figures of rounds are `Record`'s.

    Policies are named in order of their making: M0 is the given model, M1 the first trained one, and so on.
    """

    def __init__(self, recipe: Recipe, store: Store, events: EventLog, progress: Progress) -> None:
        super().__init__(recipe, store, events, progress)
        self.base_policy: Policy = resolve_policy(recipe.model, "M0", recipe.opening)
        self.measured = [self.base_policy]
        if "policies" in recipe.contract.reads:
            self.measured = self._named_policies()
            self.base_policy = self.measured[0]
        self.tokenizer = load_tokenizer(self.base_policy)
        check_template_kwargs(self.tokenizer)
        self.stops = stop_ids(self.tokenizer, declared_ends(self.base_policy))
        self._first_health: dict[str, float] | None = None
        self._last_health: dict[str, float] | None = None
        self._stopped = ""
        room = min(context_tokens(self.base_policy.base), recipe.training.max_length)
        self.data = RunData(recipe, self.tokenizer, room, self.note)
        self.evaluator = Evaluator(self, recipe)
        if recipe.training.accelerate:
            check_accelerate_file(find_accelerate_file(recipe), recipe.training)
        if judge := recipe.ranked_by():
            check_judge(judge, recipe.search_folders(), recipe.judge_key, recipe.opening)
        if reward := recipe.rewarded_by():
            check_reward(reward, recipe.search_folders(), recipe.reward_key, recipe.opening)
        prepare = recipe.contract.prepare
        self.inputs = self._inputs() | (prepare(self, recipe.options) or {} if prepare else {})
        for changed in events.adopt_inputs(self.inputs):
            progress.note(f"{changed} changed since this run was last started; what depends on it is made again")

    def check_leaks(self) -> None:
        """The gate `no_leak`: no evaluation item among what is trained."""
        self.check(gates.no_leak(self.data.training_texts(), self.evaluator.texts()))

    def _named_policies(self) -> list[Policy]:
        """The policies that method `evaluate` measures, named as the recipe names them, at most as long as needed."""
        given = [self.recipe.model, *self.recipe.policies]
        names = [short_name(one) for one in given]
        if len(set(names)) < len(names):
            names = given
        found = {self.base_policy.digest: self.base_policy.named(names[0])}
        for one, name in zip(given[1:], names[1:], strict=True):
            policy = resolve_policy(one, name, self.recipe.opening)
            if policy.digest not in found:
                found[policy.digest] = policy
            elif one.endswith("@M0"):  # of several runs from one model
                self.note(f"{one} is {found[policy.digest].name}, which is measured already")
            else:
                raise InputError(f"policies: {one} is the same model as {found[policy.digest].name}; measure it once")
        return list(found.values())

    def _inputs(self) -> dict[str, str]:
        """Digests of what a recipe's text does not show: the model, the data, the versions of the steps."""
        data, recipe = self.data, self.recipe
        return {
            "the model": self.base_policy.digest,
            "data.seed": rows_digest(data.seed_examples),
            "data.prompts": digest_of([[self._asked(p) for p in part] for part in data.round_prompts]),
            "data.pairs": digest_of(
                [[pair.prompt.prompt_ids, pair.chosen.ids, pair.rejected.ids] for pair in data.pairs]
            ),
            "the evaluation suites": self.evaluator.identity(),
            **self._judge_input(),
            **({"the method": self.code_of(recipe.method, "method").digest or ""} if ":" in recipe.method else {}),
            "the policies to measure": digest_of([policy.digest for policy in self.measured]),
            "the program's steps": digest_of(step_versions()),
        }

    def _asked(self, prompt: RenderedPrompt) -> list[Any]:
        """What of a prompt decides: its whole row too, where the judge reads that."""
        reads = any(judge.found.reads_rows for judge in self.recipe.judges())
        row = [json.dumps(prompt.row, default=str, sort_keys=True)] if reads else []
        return [prompt.id, prompt.prompt_ids, prompt.answer, *row]

    def _judge_input(self) -> dict[str, str]:
        """Digest of what decides of a judge, or of a rubric that rewards, beside the recipe's text."""
        reward = self.recipe.rewarded_by()
        for judge in self.recipe.judges():
            if identity := judge.found.identity:
                return {"the judge": identity(self, judge, self.base_policy)}
        if reward and reward.found.needs == "rubric":
            options, policies, _ = reward_step_of(self, reward)
            return {"the judge": digest_of([options, {role: policy.digest for role, policy in policies.items()}])}
        return {}

    def rounds(self) -> Iterator[Round]:
        """The rounds, each with its own prompts."""
        for number, prompts in enumerate(self.data.round_prompts, start=1):
            if number > 1 and (reason := self._why_stop()):
                self._stopped = f"stopped after round {self._round}: {reason}"
                self.events.emit("stop", self._stopped, round=self._round, reason=reason)
                self.progress.note(self._stopped)
                return
            self._round = number
            self.progress.overall.round, self.progress.overall.rounds = number, len(self.data.round_prompts)
            self.progress.note(f"round {number} of {len(self.data.round_prompts)}: {len(prompts)} prompts")
            yield Round(number, prompts)

    def _why_stop(self) -> str | None:
        """What of the recipe's `stop` holds after the rounds so far."""
        stop = self.recipe.stop
        if stop.patience and (worse := self.evaluator.rounds_below_best()) >= stop.patience:
            best = self.evaluator.best()
            assert best is not None
            return f"the development score is below that of {best.name} for {worse} policies in a row (stop.patience)"
        if self._first_health and self._last_health:
            return gates.drifted(self._last_health, self._first_health, stop.model_dump())
        return None

    def over_all(self, number: int, name: str) -> Round:
        """A part of a run that has no rounds (`Needs(rounds=False)`): number `number`, over all prompts. `name`: for
        the person."""
        self._round = number
        prompts = self.data.round_prompts[0]
        self.progress.note(f"{name}: {len(prompts)} prompts")
        return Round(number, prompts)

    def sft(self, policy: Policy, sampled: Sequence[dict[str, list[int]]] | None = None, role: str = "") -> Policy:
        """Supervised fine-tuning of `policy` on the seed examples, or on answers that were sampled: rows of
        `prompt_ids` and `response_ids`, trained token for token. `role`: what the result is for, for tables."""
        return self.sft_with_middle(policy, middle=False, sampled=sampled, role=role)[0]

    def sft_with_middle(
        self, policy: Policy, middle: bool, sampled: Sequence[dict[str, list[int]]] | None = None, role: str = ""
    ) -> tuple[Policy, Policy | None]:
        """SFT, and (if `middle`) the policy half-way through its optimizer steps."""
        options = self.training_options("sft")
        examples = self.data.seed_examples if sampled is None else list(sampled)
        rows = [(e["prompt_ids"], e["response_ids"]) for e in examples]
        if sampled is not None:  # an answer may end with another stop token than the template's end of turn
            rows = [(prompt, [*ids[:-1], self.stops[0]] if ids[-1] in self.stops else ids) for prompt, ids in rows]
        self.check_rendering(rows)
        if middle:
            options["keep_at"] = 0.5
        named: dict[str, Any] = {"role": role} if role else {}
        trained, artefact = self.train("sft", policy, options, "examples", examples, **named)
        probe = seed_responses(examples[:_PROBE])
        self.check_moved(policy, trained, probe, self.log_probs(probe, policy), self.log_probs(probe, trained))
        half = made_policy(policy, artefact, f"{trained.name} half-way", middle=True) if middle else None
        return trained, half

    def check_rendering(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        """The gate `rendering` of (prompt ids, answer's ids)."""
        self.check(gates.rendering(self.tokenizer, rows, answers=True))

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
            shaping=sampling.shaping,
            max_new_tokens=sampling.max_new_tokens,
        )
        health = gates.response_health(list(responses.by_prompt.values()))
        self._first_health, self._last_health = self._first_health or health, health
        self.check(gates.degeneration(health, self._first_health, self.recipe.gates.model_dump()))
        return responses

    def dpo(
        self,
        policy: Policy,
        pairs: Sequence[Pair],
        reference: LogProbs,
        round: Round | None = None,
        may_be_empty: bool = False,
    ) -> Trained:
        """Preference training of `policy` on `pairs`; `reference` holds the loss reference's log-probs of them.

        Raises RunFailed without a pair, unless that `may_be_empty`: then nothing is trained.
        """
        where = f"round {round.number}" if round else "data.pairs"
        if not pairs:
            if may_be_empty:
                self.note(f"{where}: no pair is above the floor, so nothing is trained and {policy.name} stays")
                return Trained(policy, [], {})
            raise RunFailed(
                f"{where}: no preference pair is left (all responses the same, or no usable scores). Raise "
                "sampling.temperature or sampling.n, or look at the responses in the step's folder"
            )
        options = self.training_options("training")
        options |= {
            "beta": self.recipe.training.beta,
            "reference_is_start": reference.policy_digest == policy.digest,
        }
        self.check(gates.rendered_pairs(self.tokenizer, pairs, self.stops))
        rows = [_pair_row(pair, reference) for pair in pairs]
        trained, artefact = self.train("dpo", policy, options, "pairs", rows)
        if (note := artefact.folder / "first-batch.json").is_file():
            self.check(gates.dpo_start(json.loads(note.read_text()), options["reference_is_start"], self.dtype))
        both = responses_of(pairs)
        after = self.log_probs(both, trained)
        before = reference if options["reference_is_start"] else self.log_probs(both, policy)
        self.check_moved(policy, trained, both, before, after)
        history = [_shown(row) for row in read_history(artefact.folder)]
        return Trained(
            trained, margins(pairs, after, reference, self.recipe.training.beta), history[-1] if history else {}
        )

    def judge(self, judge: JudgeOptions, responses: Responses, policy: Policy) -> Judged:
        """Scores of `responses` by any judge of a recipe: see `docs/recipes.md`. `policy`: the model of the judges that
        are the model itself. Ends the run where most scores are missing (gate `judge_health`)."""
        judged = Judged(*judge_responses(self, judge, responses, policy))
        self.check_judged(*judged)
        return judged

    def report(self, name: str, round: Round | None = None, **figures: Any) -> None:
        """Writes figures of a method's own into the run's `metrics.jsonl`, and so into its report: numbers, texts, or
        counts by name. Called again for the same name and round, they are replaced."""
        number = round.number if round else 0
        self.events.emit("figures", f"{name}|{number}", name=name, round=number, figures=figures)

    def evaluate(self, policy: Policy, round: Round | None = None) -> None:
        """Runs every suite of the recipe on `policy`, with intervals and the paired change."""
        found = self.evaluator.evaluate(policy, round.number if round else 0)
        told = {f"{name}/{one['metric']}": one["value"] for name, one in found.items() if one["value"] is not None}
        place = max((len(its) for its in self.evaluator.outcomes.values()), default=1) - 1
        tell_figures(self.recipe.training.report_to, told, place, Path(self.recipe.output) / "logs" / "policies.json")

    def kept(self, last: Policy) -> Policy:
        """`keep: last`, or the best policy on the development suite. `why_kept` says it in words."""
        best = self.evaluator.best() if self.recipe.keep == "best" else None
        why = self.evaluator.why_best() if best else "the last policy"
        self.why_kept = f"{why}; {self._stopped}" if self._stopped else why
        return best or last

    def train(
        self,
        step: str,
        start: Policy,
        options: dict[str, Any],
        input_name: str,
        rows: list[dict[str, Any]],
        *,
        label: str | None = None,
        steps: int | None = None,
        policies: Mapping[str, Policy] | None = None,
        execution: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> tuple[Policy, Artefact]:
        """The policy a training step makes, with its event, which has `fields` too.

        `steps`: the optimizer steps, where they are not so many epochs over `rows`; `policies`, `execution`: further
        ones than the start, and than what every training step has.
        """
        MODELS.free()
        label = label or f"{step.upper()} {start.name} to M{len(self.made) + 1}"
        try:
            artefact = self.step(
                StepRequest(
                    step=step,
                    label=label,
                    options=options,
                    inputs={input_name: rows},
                    policies={"start": start, **(policies or {})},
                    seed=self.recipe.seed,
                    execution=self._training_execution() | dict(execution or {}),
                    total=optimizer_steps(len(rows), options["batch_size"], options["epochs"])
                    if steps is None
                    else steps,
                    processes=self.recipe.training.processes,
                    accelerate=str(find_accelerate_file(self.recipe)) if self.recipe.training.accelerate else None,
                )
            )
        except GateError as error:
            if error.history:  # the report shows how it came to that
                history = [_shown(dict(row)) for row in error.history]
                self.events.emit(
                    "training", f"{label}|{error}", stage=step, round=self._round, history=history, **fields
                )
            raise
        trained = made_policy(start, artefact, f"M{len(self.made) + 1}")
        self.made.append(trained)
        options = artefact.manifest["options"]
        history = [_shown(row) for row in read_history(artefact.folder)]
        self.progress.overall.figures = history[-1] if history else {}
        self.events.emit(
            "training",
            f"{artefact.manifest['label']}|{artefact.manifest['key'][:16]}",
            stage=artefact.manifest["step"],
            round=self._round,
            policy=trained.name,
            policy_digest=trained.digest,
            start_digest=start.digest,
            examples=len(rows),
            epochs=options.get("epochs"),
            seconds=artefact.figures["seconds"],
            history=history,
            **fields,
        )
        return trained, artefact

    def training_options(self, stage: str) -> dict[str, Any]:
        """What of the recipe changes a training step's result. `sft`: section `sft` replaces; `judge`: with dropout."""
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
        if stage == "sft" and "sft" not in self.recipe.contract.leaves:
            own = self.recipe.sft.model_dump()
            options |= {name: own[name] for name in names if own[name] is not None}
        options["lora"] = training.lora.model_dump(mode="json") if training.lora else None
        options["dtype"] = self.dtype
        if stage in ("sft", "judge") and training.lora and training.lora.dropout:
            # Which rows share a forward decides their dropout masks.
            options |= {"micro_batch_size": training.micro_batch_size, "processes": training.processes}
        if training.accelerate:
            options["accelerate"] = file_digest(find_accelerate_file(self.recipe))
        return options

    def check_sampler(self) -> None:
        """Before anything is trained: vllm has room for the prompts; a server is asked for one token, so that what it
        lacks is said."""
        sampling = self.recipe.sampling
        prompts = [tuple(p.prompt_ids) for group in self.data.round_prompts for p in group] or [(self.stops[0],)]
        execution = {"device": self.device, **self.sampler_execution(self.base_policy, self.backend)}
        if self.backend == "vllm" and self.data.round_prompts:
            from selfimprove.sampling.vllm import require_room

            require_room(execution["vllm"]["max_model_len"], max(map(len, prompts)), self.data.new_tokens())
        if self.backend != "openai":
            return
        if not self.recipe.training.lora and self.recipe.contract.trains:
            raise InputError(
                "sampling.backend: a server takes a trained policy as a LoRA adapter only, and training.lora is off; "
                "set training.lora, or sampling.backend to vllm or transformers"
            )
        decoding = Decoding(sampling.temperature, sampling.top_p, sampling.max_new_tokens, tuple(self.stops))
        with TemporaryDirectory() as folder:
            sampler = make_sampler({"backend": "openai"}, execution, Path(folder))
            sampler.check([Request(max(prompts, key=len), 1, 0)], decoding)  # type: ignore[attr-defined]

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
