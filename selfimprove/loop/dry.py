"""A method walked through without making anything: its function runs with a loop whose steps say what they would make
and take. Every response has all of its tokens, gates do not stop, and half of what is judged or more is right."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from selfimprove.artefacts import Artefact, Store, write_json
from selfimprove.data.rows import RenderedPrompt, Responses, Scores
from selfimprove.errors import InputError, SelfImproveError
from selfimprove.gates import Verdict
from selfimprove.loop.loop import Loop
from selfimprove.models.chat import accepted_turns, render_prompt
from selfimprove.models.policy import ADAPTER_WEIGHTS, Policy
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.steps.cost import Dry, Tokens
from selfimprove.steps.kind import step_kind
from selfimprove.steps.request import StepRequest
from selfimprove.suites.kind import Loaded
from selfimprove.suites.runner import Evaluator

# Prompts of a round that are walked with, where it has more than twice as many.
_FEW = 64
# Tokens of an answer to a suite that does not say how many it may have.
_ANSWER = 60


@dataclass(frozen=True)
class Step:
    """A step that was walked through. `base`: the folder of the model that does its work, None where none of the
    Transformers' does; `trained`: whether it trains that with an adapter (`lora`) or whole (`full`)."""

    purpose: str
    base: str | None
    tokens: Tokens
    dry: Dry
    trained: str = ""


@dataclass
class Walk:
    """What a method goes through: its steps, how many policies are evaluated, and `unknown`: why there is no more."""

    steps: list[Step] = field(default_factory=list)
    evaluated: int = 0
    unknown: str = ""

    def tokens(self, evaluation: bool = False) -> Tokens:
        """Of all steps but those of the evaluation, or of these."""
        return sum((one.tokens for one in self.steps if (one.purpose == "evaluation") == evaluation), Tokens())


def walk(loop: Loop, recipe: Any = None) -> Walk:
    """Walks the method of a loop that has its data, under its recipe or another one of the same method.

    A round of many prompts is walked with few of them, evenly spaced by length, and with these twice: what a step takes
    is taken to be linear in their number.
    """
    recipe, groups = recipe or loop.recipe, loop.data.round_prompts
    whole = max(map(len, groups), default=0)
    if whole <= 2 * _FEW:
        return _walked(loop, recipe, groups)
    some = [spaced(group, _FEW) for group in groups]
    few = _walked(loop, recipe, some)
    twice = _walked(loop, recipe, [group + [replace(one, id=f"{one.id} again") for one in group] for group in some])
    if len(few.steps) != len(twice.steps):  # what it does depends on how many there are
        few.steps = [replace(one, tokens=one.tokens * 0.5) for one in twice.steps]
    further = (whole - 2 * _FEW) / _FEW
    twice.steps = [
        replace(two, tokens=two.tokens + (two.tokens + one.tokens * -1) * further)
        for one, two in zip(few.steps, twice.steps, strict=True)
    ]
    return twice


def _walked(loop: Loop, recipe: Any, prompts: Sequence[Sequence[RenderedPrompt]]) -> Walk:
    contract = loop.recipe.contract
    with TemporaryDirectory() as folder:
        dry = DryLoop(loop, recipe, Path(folder), prompts)
        gc.freeze()  # or every training's `MODELS.free` would go through all of the data's token ids
        try:
            (contract.cost or contract.run)(dry, dry.recipe.options)
        except Exception as error:  # a method may do with its responses whatever it likes
            said = str(error).partition("\n")[0]
            dry.walked.unknown = said if isinstance(error, SelfImproveError) else f"{type(error).__name__}: {said}"
        finally:
            gc.unfreeze()
        return dry.walked


class DryArtefact(Artefact):
    """A step that was not made: rows that stand for its own."""

    def rows(self) -> list[dict[str, Any]]:
        return list(self.manifest["rows"])

    def verify(self) -> None:
        pass


class DryLoop(Loop):
    """A prepared `loop` whose steps are not made. What a method writes itself goes to `folder`.

    Methods may ask for `loop.dry`, where they would do without a step what is slow or has a price.
    """

    dry = True

    def __init__(self, loop: Loop, recipe: Any, folder: Path, prompts: Sequence[Sequence[RenderedPrompt]]) -> None:
        self.__dict__.update(vars(loop))
        self.folder, self.walked = folder, Walk()
        self.recipe = recipe.model_copy(update={"output": str(folder)})
        self.store, self.events = Store(folder / "steps"), EventLog(folder, wait=True)
        self.progress, self.made = Progress(Console(file=io.StringIO())), []
        self.data = copy(loop.data)
        self.data.round_prompts = [list(group) for group in prompts]
        self.evaluator, self._factor = DryEvaluator(self, loop.evaluator), 1.0
        self._made: dict[Any, DryArtefact] = {}

    def step(self, request: StepRequest) -> Artefact:
        """What the step's kind says of it. InputError where it says nothing."""
        kind, same = step_kind(request.step), _frozen(request)
        if request.policies and same in self._made:  # texts are the same of every policy
            return self._made[same]
        if kind.dry is None:
            raise InputError(f"step {request.step!r} does not say what it takes (`dry=` of its StepKind)")
        found = kind.dry(request)
        number = len(self.walked.steps)
        folder = self.folder / "steps" / f"{request.step}-{number}"
        folder.mkdir(parents=True)
        policy = request.policies.get("policy") or request.policies.get("start")
        trained = ("lora" if request.options.get("lora") else "full") if found.policies else ""
        if policy and trained:
            _leave(folder, policy, request.options.get("lora") or {}, found)
        base = policy.base if policy and found.plan else None
        purpose = (self._purpose if request.step == "sample" else "") or kind.purpose or request.step
        self.walked.steps.append(Step(purpose, base, found.tokens * self._factor, found, trained))
        self._made[same] = DryArtefact(
            folder,
            {
                "step": request.step,
                "label": request.label,
                "options": dict(request.options),
                "key": f"{number:016}",
                "digest": f"dry step {number}",
                "figures": {"seconds": 0.0, "tokens": 0},
                "files": {},
                "rows": found.rows,
            },
        )
        return self._made[same]

    @contextmanager
    def times(self, factor: float) -> Iterator[None]:
        """The tokens of the steps within count so many times."""
        before, self._factor = self._factor, self._factor * factor
        try:
            yield
        finally:
            self._factor = before

    def check(self, verdict: Verdict, stop: bool = True) -> None:
        """Nothing is known of what gates ask for."""

    def check_rendering(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        pass

    def scores_of(
        self, judge: JudgeOptions, responses: Responses, scores: Scores, missing: dict[str, int]
    ) -> tuple[Scores, dict[str, int]]:
        """Each prompt's first response is wrong, the others are right, later ones more so; the only one is right."""
        right = judge.accepts_from
        found = {
            prompt.id: [right + place if place or len(row) == 1 else right - 1 for place in range(len(row))]
            for prompt, row in responses
        }
        return found, {}


class DryEvaluator(Evaluator):
    """The answers to every suite's items are drawn; nothing is measured, no judge is asked, and no policy is best."""

    def __init__(self, loop: DryLoop, found: Evaluator) -> None:
        self.__dict__.update(vars(found))
        self.drawer, self._items = loop, dict[str, list[RenderedPrompt]]()

    def evaluate(self, policy: Policy, round: int) -> dict[str, dict[str, Any]]:
        loop = self.drawer
        loop.walked.evaluated += 1
        for loaded in self.suites:
            suite, prompts = loaded.suite, self._prompts_of(loaded)
            if prompts:
                with loop.working_on("evaluation"), loop.times(len(loaded.items) / len(prompts)):
                    loop.draw(
                        policy,
                        prompts,
                        f"{suite.name} ({policy.name})",
                        n=getattr(suite, "samples", 1) if suite.kind == "graded" else 1,
                        temperature=0.0,
                        top_p=1.0,
                        max_new_tokens=getattr(suite, "max_new_tokens", _ANSWER),
                    )
        return {}

    def best(self) -> Policy | None:
        return None

    def _prompts_of(self, loaded: Loaded) -> list[RenderedPrompt]:
        """Some of a suite's items, evenly spaced."""
        tokenizer, some = self.drawer.tokenizer, loaded.items[:: max(1, len(loaded.items) // _FEW)]
        if loaded.suite.name not in self._items:
            self._items[loaded.suite.name] = [
                RenderedPrompt(
                    one.id, tuple(render_prompt(tokenizer, accepted_turns(tokenizer, list(one.messages)))), ""
                )
                for one in some
            ]
        return self._items[loaded.suite.name]


def _frozen(request: StepRequest) -> int:
    """What makes two steps one, as `StepRequest.key` has it; quick, for this process."""

    def frozen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return tuple((name, frozen(one)) for name, one in value.items())
        if isinstance(value, list | tuple):
            return tuple(value) if value and isinstance(value[0], int) else tuple(map(frozen, value))
        return value

    policies = [(role, policy.digest) for role, policy in request.policies.items()]
    return hash(frozen([request.step, request.options, request.inputs, policies, request.seed]))


def spaced(prompts: Sequence[RenderedPrompt], most: int) -> list[RenderedPrompt]:
    """At most so many of the prompts, evenly spaced by length, with the longest."""
    if len(prompts) <= most:
        return list(prompts)
    ordered = sorted(range(len(prompts)), key=lambda place: len(prompts[place].prompt_ids))
    taken = [ordered[int((place + 0.5) * len(ordered) / (most - 1))] for place in range(most - 1)] + [ordered[-1]]
    return [prompts[place] for place in sorted(taken)]


def _leave(folder: Path, start: Policy, lora: Mapping[str, Any], found: Dry) -> None:
    """What a training leaves, as adapters without weights: their base, whole or not, is what it began from."""
    import torch
    from safetensors.torch import save_file

    for name in ("policy", "policy-middle")[: found.policies]:
        (made := folder / name).mkdir()
        config = {"base_model_name_or_path": start.base, "peft_type": "LORA", "r": lora.get("r", 0)}
        write_json(made / "adapter_config.json", config)
        save_file({f"{folder.name} {name}": torch.zeros(1)}, made / ADAPTER_WEIGHTS)
    write_json(folder / "history.json", [dict(row) for row in found.history])
