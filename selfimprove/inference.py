"""The steps that read models and train none: sampling, scoring, judging. `Loop` adds a policy to train."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from selfimprove import gates
from selfimprove.artefacts import Artefact, Store
from selfimprove.data.rows import LogProbs, RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import GateError, InputError
from selfimprove.models.chat import OPENING, Message, accepted_turns, render_prompt, stop_ids
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy, adapter_rank, declared_ends, load_tokenizer, pick_device
from selfimprove.models.thoughts import opens_thought, said
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import OURS, Code, code_at, find_code
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.sampling.backends import choose_backend, found_sampler
from selfimprove.steps.floor import step_floor
from selfimprove.steps.kind import step_kind
from selfimprove.steps.request import StepRequest
from selfimprove.steps.run import run_step


class Written(NamedTuple):
    """What a policy answered to a question, how many tokens it read and wrote, and whether it was `cut` off."""

    text: str
    prompt_tokens: int
    tokens: int
    cut: bool = False


class Inference:
    """Durable steps over any policies. `base_policy` is the run's own model, None where there is none."""

    base_policy: Policy | None = None
    dry = False  # whether steps only say what they would take: `loop/dry.py`

    def __init__(self, recipe: Recipe, store: Store, events: EventLog, progress: Progress) -> None:
        self.recipe, self.events, self.progress = recipe, events, progress
        self.made: list[Policy] = []
        self._round = 0
        self._purpose = ""
        self.why_kept = "the last policy"
        self.last_step = ""  # the folder of the step that was made or found last
        self.store = store
        self._codes: dict[str, Code] = {}
        self.judges_answer_as: dict[str, set[str]] = {}  # by the judge's digest: its server's names for its model
        self.device = pick_device(recipe.device)
        given = recipe.training.dtype
        self.dtype = given if given != "auto" else ("bfloat16" if self.device.startswith("cuda") else "float32")
        self.backend, _ = choose_backend(recipe.sampling.backend, self.device)
        # A file of the user's that samples: where it is, and its digest.
        self._sampler = self.code_of(self.backend, "sampling.backend") if ":" in self.backend else None
        found_sampler(self.backend, self._sampler)

    def note(self, text: str) -> None:
        """Tells the person, and the report."""
        self.progress.note(text)
        self.events.emit("note", text, text=text)

    def check(self, verdict: gates.Verdict, stop: bool = True) -> None:
        """Records a gate's verdict, and ends the run if it did not pass (unless `gates.disabled` names it)."""
        self.events.emit(
            "gate",
            f"{self._round}|{len(self.made)}|{verdict.gate}|{verdict.message}",
            round=self._round,
            gate=verdict.gate,
            passed=verdict.passed,
            value=verdict.value,
            bound=verdict.bound,
            message=verdict.message,
        )
        if not verdict.passed:
            if stop and verdict.gate not in self.recipe.gates.disabled:
                where = f" in round {self._round}" if self._round else ""
                raise GateError(
                    f"gate {verdict.gate}{where}: {verdict.message}\n"
                    f"(`gates.disabled=[{verdict.gate}]` goes on all the same)"
                )
            self.note(f"gate {verdict.gate} (not enforced): {verdict.message}")

    @contextmanager
    def working_on(self, purpose: str) -> Iterator[None]:
        """What is sampled within is for this: `evaluation`, `judging`. It stands in the events of the steps."""
        before, self._purpose = self._purpose, purpose
        try:
            yield
        finally:
            self._purpose = before

    def step(self, request: StepRequest) -> Artefact:
        """The artefact of a step: found, or made now. Emits the step's event."""
        self.progress.overall.begin(request.label)
        artefact, reused = run_step(self.store, request, self.progress)
        id = f"{request.label}|{artefact.manifest['key'][:16]}"
        self.progress.overall.finish(id, None if reused else artefact.figures["seconds"])
        if reused:
            self.progress.step_reused(request.label)
        self._report_engine()
        self.last_step = str(artefact.folder)
        figures, kind = artefact.figures, step_kind(request.step)
        self.events.emit(
            "step",
            id,
            step=request.step,
            label=request.label,
            purpose=(self._purpose if request.step == "sample" else "") or kind.purpose or request.step,
            policy=next((policy.name for policy in request.policies.values()), None),
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

    def scores_of(
        self, judge: JudgeOptions, responses: Responses, scores: Scores, missing: dict[str, int]
    ) -> tuple[Scores, dict[str, int]]:
        """What a judge said of responses, as it is used."""
        return scores, missing

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
        shaping: Mapping[str, Any] | None = None,
    ) -> Responses:
        """Responses to prompts under any decoding options (temperature 0 is greedy; `shaping`: `Sampling.shaping`).

        `stops`: the token ids that end a response, by default those of the policy's own chat template.
        """
        backend = self._backend_for(policy)
        artefact = self.step(
            StepRequest(
                step="sample",
                label=label,
                options={
                    "n": n,
                    "temperature": temperature,
                    "top_p": top_p,
                    "max_new_tokens": max_new_tokens,
                    "stop_ids": list(
                        stop_ids(load_tokenizer(policy), declared_ends(policy)) if stops is None else stops
                    ),
                    "dtype": self.dtype,
                    **self.sampler_options(backend),
                    **{name: list(one) if name == "stop" else one for name, one in (shaping or {}).items()},
                },
                inputs={"prompts": [{"prompt_id": p.id, "prompt_ids": list(p.prompt_ids)} for p in prompts]},
                policies={"policy": policy},
                seed=self.recipe.seed if temperature else 0,  # greedy answers are every seed's
                execution={"device": self.device, **self.sampler_execution(policy, backend)},
                total=n * len(prompts),
            )
        )
        tokenizer, by_prompt = load_tokenizer(policy), dict[str, list[Response]]()
        opened = {p.id for p in prompts if opens_thought(tokenizer.decode(p.prompt_ids[-OPENING:]))}
        for row in artefact.rows():
            text = said(tokenizer, row["ids"], row["text"], row["prompt_id"] in opened)
            finish = "length" if text is None else row["finish"]
            response = Response(
                row["prompt_id"], row["index"], tuple(row["ids"]), finish, text or "", row["log_prob"], text is None
            )
            by_prompt.setdefault(response.prompt_id, []).append(response)
        return Responses({p.id: p for p in prompts}, by_prompt, sampled_by=policy.digest)

    def log_probs(self, responses: Responses, policy: Policy, label: str | None = None) -> LogProbs:
        """Summed log-prob and token count of every response under `policy`."""
        artefact = self.step(
            StepRequest(
                step="log_probs",
                label=label or f"log-probs under {policy.name}",
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

    def code_of(self, name: str, where: str, search: Sequence[Path] | None = None) -> Code:
        """The user's code of a name, as it was when it was first asked for: InputError if its file has changed since,
        or if two files go by one name."""
        known = self._codes.get(name)
        found = (
            code_at(name, Path(known.file), where)
            if known and known.file and search is None
            else find_code(name, self.recipe.search_folders() if search is None else search, where)
        )
        if known and found.digest != known.digest:
            raise InputError(
                f"{where}: {name!r} is another file than when this run began ({found.file}): it was changed, or two "
                "files go by that name; run the same command again, or rename one"
            )
        return self._codes.setdefault(name, found)

    def ask(
        self, policy: Policy, questions: Mapping[str, Sequence[Message]], new_tokens: int, label: str
    ) -> dict[str, Written]:
        """Greedy answers of `policy`, by question id, without those to questions that do not fit its context."""
        rendered = self.rendered_for(policy, questions, new_tokens, label)
        if not rendered:
            return {}
        with self.working_on("judging"):
            answers = self.draw(
                policy,
                rendered,
                f"{label} ({policy.name})",
                n=1,
                temperature=0.0,
                top_p=1.0,
                max_new_tokens=new_tokens,
            )
        read = {prompt.id: len(prompt.prompt_ids) for prompt in rendered}
        return {
            one.prompt_id: Written(one.text, read[one.prompt_id], len(one.ids), one.finish == "length")
            for one in answers.all()
        }

    def rendered_for(
        self, policy: Policy, questions: Mapping[str, Sequence[Message]], new_tokens: int, label: str
    ) -> list[RenderedPrompt]:
        """Conversations as token ids under the policy's own chat template; what does not fit its context is left out
        and noted."""
        tokenizer, room = load_tokenizer(policy), context_tokens(policy.base)
        rendered = []
        for id, messages in questions.items():
            ids = render_prompt(tokenizer, accepted_turns(tokenizer, list(messages)))
            rendered.append(RenderedPrompt(id, tuple(ids), messages[-1]["content"]))
        fitting = [prompt for prompt in rendered if len(prompt.prompt_ids) + new_tokens <= room]
        if dropped := len(rendered) - len(fitting):
            self.note(
                f"{label}: {dropped} of {len(rendered)} questions to {policy.name} are too long for its {room} tokens "
                f"(with {new_tokens} new ones) and are not asked"
            )
        return fitting

    def _backend_for(self, policy: Policy) -> str:
        """A server serves the run's own model; any other (a judge) is read here."""
        own = self.base_policy is not None and policy.base_digest == self.base_policy.base_digest
        return "transformers" if self.backend == "openai" and not own else self.backend

    def sampler_options(self, backend: str) -> dict[str, Any]:
        """What of the sampler is in a step's key: its name, and the digest of a file."""
        own = self._sampler if backend == self.backend else None
        return {"backend": backend, **({"sampler_digest": own.digest} if own and own.digest else {})}

    def sampler_execution(self, policy: Policy, backend: str) -> dict[str, Any]:
        """What the sampler needs to know beside its options, and changes its responses by rounding only."""
        sampling = self.recipe.sampling
        if backend == "vllm":
            own = sampling.vllm.model_dump()
            own["max_model_len"] = own["max_model_len"] or min(context_tokens(policy.base), 32768)
            ranks = [self.recipe.training.lora.r] if self.recipe.training.lora else []
            return {"vllm": own | {"max_lora_rank": max([*ranks, adapter_rank(policy)])}}
        if backend == "openai" and sampling.server and self.base_policy:
            served = replace(self.base_policy, adapter=None, adapter_digest=None)  # adapters are loaded beside it
            needs = "sampler_agrees" not in self.recipe.gates.disabled
            return {"server": sampling.server.model_dump(), "served_policy": served.spec(), "needs_log_probs": needs}
        if backend in OURS["sampler"]:
            return {"batch_tokens": sampling.batch_tokens}
        server = sampling.server.model_dump() if sampling.server else None
        file = self._sampler.file if self._sampler else None
        return {"batch_tokens": sampling.batch_tokens, "server": server, "sampler_file": file}

    def _report_engine(self) -> None:
        """Events of the vLLM engine's starts and swaps since the last step."""
        if vllm := sys.modules.get("selfimprove.sampling.vllm"):
            for entry in vllm.ENGINE.take_history():
                self.events.emit("engine", str(time.time_ns()), backend="vllm", round=self._round, **entry)
