"""One round of CREAM as the product does it: `methods.cream` over a `Loop` whose steps are timed from outside."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from stages import EVALUATION, Clock, RoundTimes, Stage

from selfimprove.artefacts import Artefact, Store
from selfimprove.data.rows import RenderedPrompt
from selfimprove.loop.loop import Loop
from selfimprove.loop.record import Round
from selfimprove.methods.cream import cream
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import Policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.sampling.backends import close_engine
from selfimprove.steps.floor import step_work
from selfimprove.steps.request import StepRequest
from selfimprove.suites.suite_kinds import ExactMatch


@dataclass
class _Timed:
    stage: str
    request: StepRequest
    artefact: Artefact
    seconds: float


class TimedLoop(Loop):
    """The loop of one round, from M1 on. With `until_round`, it ends where the first round would begin."""

    def __init__(self, recipe: Recipe, folder: Path, clock: Clock, until_round: bool = False) -> None:
        self._log = EventLog(folder)
        super().__init__(recipe, Store(folder / "steps"), self._log, Progress(Console(file=io.StringIO())))
        self.clock, self.until_round = clock, until_round
        self.timed: list[_Timed] = []
        self.used: list[Path] = []  # folders of the steps that were found or made
        self.pairs = 0
        self.middle: Policy | None = None
        self._began = self._ended = self.evaluation_seconds = 0.0
        self._evaluating = self._trained = False

    def step(self, request: StepRequest) -> Artefact:
        before = self.clock()
        artefact = super().step(request)
        seconds = self.clock() - before
        stage = {"sample": "sample", "log_probs": "score", "dpo": "train", "sft": "sft"}[request.step]
        if self._evaluating:
            stage = EVALUATION
        elif stage == "score" and self._trained:
            stage = "score after"
        if stage == "train":
            self._trained, self.pairs = True, len(request.inputs["pairs"])
        self.used.append(artefact.folder)
        if self._round:
            self.timed.append(_Timed(stage, request, artefact, seconds))
        return artefact

    def sft_with_middle(self, policy: Policy, middle: bool) -> tuple[Policy, Policy | None]:
        trained, self.middle = super().sft_with_middle(policy, middle)
        return trained, self.middle

    def rounds(self) -> Any:
        if self.until_round:
            return
        for round in super().rounds():
            MODELS.free()  # a round begins with nothing loaded, as the plain one does
            self._began = self.clock()
            yield round

    def evaluate(self, policy: Policy, round: Round | None = None) -> None:
        if round is None:  # M0 and M1 are no part of the round
            return
        self._ended = self.clock()
        self._evaluating = True
        super().evaluate(policy, round)
        self.evaluation_seconds = self.clock() - self._ended

    def start_engine(self) -> float:
        """Seconds of a first, tiny draw under M0: the start of an engine that has one."""
        before = self.clock()
        first = self.data.round_prompts[0][:1]
        self.draw(self.base_policy, first, "warm-up", n=2, temperature=1.0, top_p=1.0, max_new_tokens=2)
        return self.clock() - before

    def close(self) -> None:
        self._log.close()

    def times(self) -> RoundTimes:
        stages = {name: Stage() for name in ("sample", "score", "train", "score after", EVALUATION)}
        for one in self.timed:
            stage, rows = stages[one.stage], one.artefact.rows() if one.request.step == "sample" else []
            stage.seconds += one.seconds
            stage.tokens += _tokens(one.request, rows)
            work = step_work(one.request.step, one.request.options, one.request.inputs, rows)
            stage.work += [work] if work else []
        stages[EVALUATION].seconds = self.evaluation_seconds
        notes = {
            "pairs": self.pairs,
            "steps": [
                {"label": one.request.label, "seconds": one.seconds, "in_step": one.artefact.figures["seconds"]}
                for one in self.timed
            ],
        }
        return RoundTimes(stages, self._ended - self._began, notes).close()


def _tokens(request: StepRequest, rows: list[dict[str, Any]]) -> int:
    if request.step == "sample":
        return sum(len(row["ids"]) for row in rows)
    names = ("ids", "chosen_ids", "rejected_ids")
    tokens = sum(
        len(row["prompt_ids"]) + len(row[name])
        for row in next(iter(request.inputs.values()))
        for name in names
        if name in row
    )
    return int(tokens * request.options.get("epochs", 1))


@dataclass(frozen=True)
class Start:
    """Where every repeat begins: M1 and the model half-way to it, made once; the round's prompts, the items to
    evaluate on, and the new tokens an item may have."""

    steps: list[Path]
    base: Policy
    policy: Policy
    middle: Policy
    prompts: list[RenderedPrompt]
    items: list[RenderedPrompt]
    item_tokens: int


def prepare(recipe: Recipe, folder: Path, clock: Clock) -> Start:
    """M1 by the recipe's SFT, not timed; a later call with the same SFT and folder finds it."""
    loop = TimedLoop(recipe, folder, clock, until_round=True)
    policy = cream(loop)
    MODELS.free()
    loop.close()
    if loop.middle is None:
        raise ValueError("the benchmark needs cream.first_round=sft_middle: three models to score with")
    loaded = loop.evaluator.suites[0]
    suite = loaded.suite
    assert isinstance(suite, ExactMatch)
    rendered = loop.data.rendered(loaded.items, suite.max_new_tokens)
    prompts = list(loop.data.round_prompts[0])
    return Start(loop.used, loop.base_policy, policy, loop.middle, prompts, rendered, suite.max_new_tokens)


def our_round(recipe: Recipe, start: Start, folder: Path, clock: Clock) -> tuple[RoundTimes, float]:
    """One round in an empty `folder`, where M1 is found; and the seconds of the engine's start before it."""
    for step in start.steps:
        shutil.copytree(step, folder / "steps" / step.name)
    loop = TimedLoop(recipe, folder, clock)
    engine = loop.start_engine()
    cream(loop)
    MODELS.free()
    close_engine()  # nothing of it may take cores or memory from the other side
    loop.close()
    return loop.times(), engine
