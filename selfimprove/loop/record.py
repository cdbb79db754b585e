"""What a run writes down: notes, gates' verdicts and the figures of its rounds. `Loop` is a `Record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfimprove import gates
from selfimprove.data.rows import LogProbs, Pair, RenderedPrompt, Responses, Scores
from selfimprove.inference import Inference
from selfimprove.loop.rounds import Ranking, round_figures
from selfimprove.models.policy import Policy

# Of a judge's scores; others have a scale of their own.


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and its own slice of the prompts."""

    number: int
    prompts: Sequence[RenderedPrompt]


class Record(Inference):
    """How what a run's rounds find is kept and checked: their figures, and gates on them."""

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
        margins: Sequence[float] = (),
        measure: str = "kendall",
        weight: str = "none",
        first_previous: str | None = None,
    ) -> None:
        """Writes what the round did, and checks the judge's health.

        Args:
            before: the previous model's scores, where the method has them, so that the report can show both rankings.
            margins: of the pairs after training, `Trained.margins`.
            measure, weight: how far the two agree, and what follows of it, for the report.
            first_previous: whose ranking stands in for M0's own, where the previous model is M0.
        """
        figures = round_figures(
            responses,
            scores,
            pairs,
            skipped,
            agreement,
            margins=margins,
            ranking=self._ranking(bool(pairs), measure, weight, first_previous),
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

    def _ranking(self, trained_now: bool, measure: str, weight: str, first_previous: str | None) -> Ranking:
        """Who ranked the round's responses, and whose ranking that is compared with; for the report only."""
        # `made` ends with the policy that this round trained, if it trained one
        names = ["M0", *(policy.name for policy in self.made)][: -1 if trained_now else None]
        current, previous = names[-1], names[-2] if len(names) > 1 else "M0"
        judge, unit = "implicit reward", "nats"
        if options := self.recipe.ranked_by():
            judge, unit = options.label, options.found.unit
        if self.recipe.judge:
            current = judge
        if previous == "M0" and first_previous:
            previous = first_previous
        return Ranking(judge, unit, current, previous, measure, weight)

    def check_moved(self, start: Policy, trained: Policy, probe: Responses, before: LogProbs, after: LogProbs) -> None:
        moved = [[scores.of(response) for response in probe.all()] for scores in (before, after)]
        self.check(gates.weights_moved(start.digest, trained.digest, *moved))
