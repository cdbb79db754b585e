"""What a run writes down: notes, gates' verdicts and the figures of its rounds. `Loop` is a `Record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from selfimprove import gates
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Responses, Scores
from selfimprove.errors import RunFailed
from selfimprove.inference import Inference
from selfimprove.loop.rounds import Ranking, round_figures
from selfimprove.models.policy import Policy
from selfimprove.recipe.methods import Cream

# Of a judge's scores; others have a scale of their own.
_UNITS = {"implicit_reward": "nats", "likelihood": "nats per token"}


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and its own slice of the prompts."""

    number: int
    prompts: Sequence[RenderedPrompt]


class Record(Inference):
    """How what a run's rounds find is kept and checked: their figures, and gates on them."""

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
