"""What a run writes down: notes, gates' verdicts and the figures of its rounds. `Loop` is a `Record` with steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfimprove import gates
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Responses, Scores
from selfimprove.errors import GateError, RunFailed
from selfimprove.method_sections import Cream
from selfimprove.policy import Policy
from selfimprove.recipe import Recipe
from selfimprove.reporting.events import EventLog
from selfimprove.reporting.rounds import Ranking, round_figures
from selfimprove.reporting.terminal import Progress

# Of a judge's scores; others have a scale of their own.
_UNITS = {"implicit_reward": "nats", "likelihood": "nats per token"}


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and its own slice of the prompts."""

    number: int
    prompts: Sequence[RenderedPrompt]


class Record:
    """Where a run stands (round, policies made so far), and how what it finds is kept and checked."""

    def __init__(self, recipe: Recipe, events: EventLog, progress: Progress) -> None:
        self.recipe, self.events, self.progress = recipe, events, progress
        self.made: list[Policy] = []
        self._round = 0
        self._last_margins: list[float] = []
        self.why_kept = "the last policy"
        self.last_step = ""  # the folder of the step that was made or found last

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

    def mean_consistency(self, agreement: Mapping[str, float | None]) -> float:
        """C: the mean of the prompts' C_j, over those where it is defined."""
        known = [value for value in agreement.values() if value is not None]
        if not known:
            raise RunFailed(
                "the consistency is undefined for every prompt (each has equal scores, or fewer than two responses). "
                "Raise sampling.temperature, or sampling.n"
            )
        return float(np.mean(known))

    def check_consistency(
        self, round: Round, options: Cream, mean: float, agreement: Mapping[str, float | None]
    ) -> None:
        """The consistency gate. With the floor on, a low C trains nothing and the gate only reports."""
        verdict = gates.consistent_enough(options.weight, mean, list(agreement.values()))
        self.check(verdict, stop=not options.floor)

    def check_judged(self, scores: Scores, missing: Mapping[str, int]) -> None:
        """Ends the run where the judge mostly failed, before pairs are made of what is left."""
        flat = [score for row in scores.values() for score in row]
        share = sum(score is None for score in flat) / max(len(flat), 1)
        verdict = gates.judge_health(share, 0.0, self.recipe.gates.model_dump(), missing, self.last_step)
        if not verdict.passed:
            self.check(verdict)

    def report_round(
        self,
        round: Round,
        trained: Policy,
        responses: Responses,
        scores: Scores,
        pairs: Sequence[Pair],
        skipped: Mapping[str, int],
        agreement: Mapping[str, float | None] | None = None,
        missing: Mapping[str, int] | None = None,
        before: Scores | None = None,
    ) -> None:
        """Writes what the round did, and checks the judge's health. `before`: the previous model's scores, where the
        method has them, so that the report can show both rankings."""
        figures = round_figures(
            responses,
            scores,
            pairs,
            skipped,
            agreement,
            margins=self._last_margins if pairs else [],
            ranking=self._ranking(trained_now=bool(pairs)),
            before=before,
        )
        self.events.emit(
            "round",
            f"round {round.number}|{responses.sampled_by}|{trained.digest}",
            round=round.number,
            policy=trained.name,
            missing=missing or {},
            **figures,
        )
        health = gates.judge_health(figures["missing_share"], figures["tie_rate"], self.recipe.gates.model_dump())
        self.check(health)

    def _ranking(self, trained_now: bool) -> Ranking:
        """Who ranked the round's responses, and whose ranking that is compared with; for the report only."""
        recipe = self.recipe
        # `made` ends with the policy that this round trained, if it trained one
        names = ["M0", *(policy.name for policy in self.made)][: -1 if trained_now else None]
        current, previous = names[-1], names[-2] if len(names) > 1 else "M0"
        judge, unit = "implicit reward", "nats"
        if options := recipe.ranked_by():
            judge, unit = options.label, _UNITS.get(options.kind, "score")
        if recipe.method == "iterative_dpo":
            return Ranking(judge, unit, current, previous, "kendall", "none")
        if recipe.judge:
            current = judge
        if recipe.method == "cream":
            stands_in = {"likelihood": "M0's likelihood per token", "sft_middle": "M1 half-way through its SFT"}
            if previous == "M0":  # whose implicit reward is zero everywhere
                previous = stands_in.get(recipe.cream.first_round, previous)
            return Ranking(judge, unit, current, previous, recipe.cream.measure, recipe.cream.weight)
        return Ranking(judge, unit, current, previous, "kendall", "none")

    def check_moved(self, start: Policy, trained: Policy, probe: Responses, before: LogProbs, after: LogProbs) -> None:
        moved = [[scores.of(response) for response in probe.all()] for scores in (before, after)]
        self.check(gates.weights_moved(start.digest, trained.digest, *moved))
