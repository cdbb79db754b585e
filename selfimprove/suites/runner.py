"""Runs suites on the policies of a run: intervals, paired changes, one event for each suite and policy."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import digest_of
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError
from selfimprove.judging.asking import Judge, find_judge
from selfimprove.models.policy import Policy
from selfimprove.suites.answers import answer_outcome
from selfimprove.suites.checked import checked_by, checked_outcome
from selfimprove.suites.dialogues import Opponent, find_opponent
from selfimprove.suites.graded import Asks, correlation_change, find_asks, measure_judge
from selfimprove.suites.judge_questions import variant_of
from selfimprove.suites.longen import demands_of, measure_lengths
from selfimprove.suites.outcome import Outcome, paired_change
from selfimprove.suites.preference import compare, length_controlled_change
from selfimprove.suites.rating import rate
from selfimprove.suites.self_correction import correct
from selfimprove.suites.suites import (
    CheckedSuite,
    Code,
    GradedSuite,
    JudgeSuite,
    LengthSuite,
    Loaded,
    PreferenceSuite,
    RatingSuite,
    SelfCorrection,
    Suite,
    graded,
    load_suite,
)

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.recipe.judges import SuiteChoice
    from selfimprove.recipe.recipe import Recipe


class Evaluator:
    """The recipe's suites, and what each policy did on them so far.

    What a suite needs (its data, judge and opponent) is found here, before anything is trained.
    """

    def __init__(self, loop: Inference, recipe: Recipe) -> None:
        self.loop = loop
        development = load_chosen(recipe, recipe.development) if recipe.development else None
        self.suites = [load_chosen(recipe, choice) for choice in recipe.evaluate] + (
            [development] if development else []
        )
        self.development = development.suite.name if development else None
        found = [loaded.suite.name for loaded in self.suites]
        if twice := [name for name in found if found.count(name) > 1]:
            raise InputError(
                f"evaluate: two suites are named {twice[0]!r}, so their results could not be told apart; change `name` "
                "in one of the suites' files (`development` counts too)"
            )
        if judging := [loaded for loaded in self.suites if isinstance(loaded.suite, JudgeSuite)]:
            raise InputError(
                f"evaluate: the suite {judging[0].suite.name!r} measures a judge, not a policy: `selfimprove eval "
                f"judge --data {judging[0].suite.name} --judge J`"
            )
        self.judges: dict[str, Judge] = {}
        self.opponents: dict[str, Opponent] = {}
        self.asks: dict[str, Asks] = {}
        self.checkers: dict[str, str] = {}
        for loaded in self.suites:
            suite = loaded.suite
            if isinstance(suite, LengthSuite):
                demands_of(loaded)
            if isinstance(suite, PreferenceSuite | RatingSuite) or (isinstance(suite, LengthSuite) and suite.judge):
                judge = self.judges[suite.name] = find_judge(loop, suite.judge, suite.rubric)
                if not isinstance(suite, PreferenceSuite) and judge.rubric.options.of != "one":
                    raise InputError(
                        f"{suite.name}: the rubric {judge.rubric.name} compares two outputs, and a {suite.kind} suite "
                        "needs one that rates one response"
                    )
                for item in loaded.items:
                    for turn in range(1 + len(item.later_turns)):
                        variant_of(judge.rubric, item, turn)  # a prompt for every turn
            if isinstance(suite, PreferenceSuite):
                self.opponents[suite.name] = find_opponent(loop, loaded)
            if isinstance(suite, CheckedSuite):
                self.checkers[suite.name] = checked_by(loop, loaded)
            if isinstance(suite, GradedSuite):
                self.asks[suite.name] = find_asks(loop, loaded)
            checker = suite.checker if isinstance(suite, SelfCorrection | GradedSuite) else suite.kind
            if checker == "math" and find_spec("math_verify") is None:
                raise InputError(
                    f"{suite.name}: answers are checked by math-verify: pip install 'math-verify[antlr4_13_2]'"
                )
            if checker == "code":
                from selfimprove.judging.checkers.sandbox import sandbox_problem

                if problem := sandbox_problem():
                    raise InputError(f"{suite.name}: programs cannot be run safely here: {problem}")
        self.outcomes: dict[str, list[Outcome]] = {name: [] for name in found}
        self.before_rounds: dict[str, list[Outcome]] = {name: [] for name in found}

    def texts(self) -> list[str]:
        """The prompts of every suite, also those beyond the limit, for the leak gate: an instruction that a task's
        items share is told from an item by all of them."""
        return [text for loaded in self.suites for item in loaded.every for text in _said(item)]

    def identity(self) -> str:
        """Digest of all that decides the suites' figures for a policy: items, options, judges, opponents."""
        return digest_of(
            [
                [
                    loaded.suite.model_dump(mode="json", exclude={"description", "judge"}),
                    [asdict(item) for item in loaded.items],
                    self.judges[name].digest if name in self.judges else None,
                    self.opponents[name].digest if name in self.opponents else None,
                    *([self.asks[name].digest] if name in self.asks else []),
                    *([self.checkers[name]] if name in self.checkers else []),
                ]
                for loaded in self.suites
                for name in [loaded.suite.name]
            ]
        )

    def evaluate(self, policy: Policy, round: int) -> dict[str, dict[str, Any]]:
        """Runs every suite on `policy` and emits one event for each."""
        return {loaded.suite.name: self._one(loaded, policy, round) for loaded in self.suites}

    def _one(self, loaded: Loaded, policy: Policy, round: int) -> dict[str, Any]:
        suite = loaded.suite
        with self.loop.working_on("evaluation"):
            outcome = self._outcome(loaded, policy)
        value, low, high = outcome.interval()
        earlier, initial = self.outcomes[suite.name], self.before_rounds[suite.name]
        figures: dict[str, Any] = {
            "round": round,
            "policy": policy.name,
            "policy_digest": policy.digest,
            "suite": suite.name,
            "metric": metric_of(suite),
            "value": value,
            "low": low,
            "high": high,
            "n": sum(value is not None for value in outcome.values),
            "values": outcome.values,
            "failures": outcome.failures,
            "groups": graded(loaded.items, outcome.values),
            **outcome.figures,
            "paired": paired_change(initial[-1], outcome) if initial else None,
            "paired_previous": paired_change(earlier[-1], outcome) if earlier else None,
        }
        if "preference" in figures:
            change = length_controlled_change(initial[-1], outcome) if initial else None
            figures["preference"] = figures["preference"] | {"length_controlled_paired": change}
        if "graded" in figures:
            changed = correlation_change(initial[-1], outcome) if initial else None
            figures["graded"] = figures["graded"] | {"spearman_paired": changed}
        earlier.append(outcome)
        if round == 0:
            initial.append(outcome)
        self.loop.events.emit("evaluation", f"{suite.name}|{policy.name}|{policy.digest[:16]}|{round}", **figures)
        return figures

    def _outcome(self, loaded: Loaded, policy: Policy) -> Outcome:
        suite = loaded.suite
        if isinstance(suite, PreferenceSuite):
            return compare(self.loop, loaded, policy, self.judges[suite.name], self.opponents[suite.name])
        if isinstance(suite, RatingSuite):
            return rate(self.loop, loaded, policy, self.judges[suite.name])
        if isinstance(suite, LengthSuite):
            return measure_lengths(self.loop, loaded, policy, self.judges.get(suite.name))
        if isinstance(suite, SelfCorrection):
            return correct(self.loop, loaded, policy)
        if isinstance(suite, CheckedSuite):
            return checked_outcome(self.loop, loaded, policy)
        if isinstance(suite, GradedSuite):
            return measure_judge(self.loop, loaded, policy, self.asks[suite.name])
        return answer_outcome(self.loop, loaded, policy)

    def best(self) -> Policy | None:
        """The policy with the highest mean on the development suite, the earlier one where two are equal."""
        if self.development is None:
            return None
        return max(self.outcomes[self.development], key=lambda one: one.mean()).policy

    def rounds_below_best(self) -> int:
        """How many policies in a row, up to the last, are below the best one on the development suite."""
        means = [one.mean() for one in self.outcomes[self.development]] if self.development else []
        return next((place for place, mean in enumerate(reversed(means)) if mean == max(means)), 0)

    def why_best(self) -> str:
        """The best policy's figure on the development suite beside the others', in words."""
        found = self.outcomes[str(self.development)]
        shares = all(0 <= value <= 1 for one in found for value in one.values if value is not None)
        shown = ", ".join(
            f"{one.policy.name} {one.mean():.1%}" if shares else f"{one.policy.name} {one.mean():.3f}" for one in found
        )
        return f"the best of {len(found)} on {self.development} ({shown})"


def load_chosen(recipe: Recipe, choice: SuiteChoice | str) -> Loaded:
    """A suite of the recipe with its changes, cut to the recipe's limit."""
    name, change = (choice, {}) if isinstance(choice, str) else (choice.suite, choice.change)
    loaded = load_suite(name, recipe.search_folders(), change)
    if recipe.evaluate_limit is None:
        return loaded
    most = recipe.evaluate_limit
    return replace(loaded, items=loaded.items[:most], pairs=loaded.pairs[:most])


def metric_of(suite: Suite) -> str:
    """What the suite's value is: a share, but for ratings, length scores and the gold of what a judge picks."""
    if isinstance(suite, Code):
        return f"pass@{suite.k}"
    names = {"preference": "win rate", "rating": "rating", "graded": "best of N", "length": "length score"}
    return names.get(suite.kind, "accuracy")


def _said(item: Prompt) -> list[str]:
    return [item.messages[-1]["content"], *item.later_turns]
