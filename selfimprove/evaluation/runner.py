"""Runs suites on the policies of a run: the project's own sampler and scorer, intervals, paired changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfimprove.chat import render_example
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError
from selfimprove.evaluation.statistics import paired_difference, wilson_interval
from selfimprove.evaluation.suites import Suite, exact_match, graded, load_suite
from selfimprove.policy import Policy

if TYPE_CHECKING:
    from selfimprove.loop import Loop
    from selfimprove.recipe import Recipe


@dataclass(frozen=True)
class Outcome:
    """A suite's verdicts on one policy, item by item."""

    policy: Policy
    right: list[bool]
    failures: dict[str, int]


class Evaluator:
    """The recipe's suites, and what each policy did on them so far."""

    def __init__(self, loop: Loop, recipe: Recipe) -> None:
        self.loop = loop
        search = recipe.search_folders()
        names = [*recipe.evaluate, *([recipe.development] if recipe.development else [])]
        whole = [load_suite(name, search) for name in names]
        # All items, whatever the limit: an instruction shared by a task's items is told from an item by that.
        self._texts = [item.messages[-1]["content"] for _, items in whole for item in items]
        self.suites = [(suite, items[: recipe.evaluate_limit]) for suite, items in whole]
        self.development = self.suites[-1][0].name if recipe.development else None
        found = [suite.name for suite, _ in self.suites]
        if twice := [name for name in found if found.count(name) > 1]:
            raise InputError(
                f"evaluate: two suites are named {twice[0]!r}, so their results could not be told apart; change `name` "
                "in one of the suites' files (`development` counts too)"
            )
        self.outcomes: dict[str, list[Outcome]] = {suite.name: [] for suite, _ in self.suites}
        self.before_rounds: dict[str, list[Outcome]] = {suite.name: [] for suite, _ in self.suites}

    def texts(self) -> list[str]:
        """The prompts of every suite, also those beyond the limit, for the leak gate."""
        return self._texts

    def evaluate(self, policy: Policy, round: int) -> dict[str, dict[str, Any]]:
        """Runs every suite on `policy` and emits one event for each."""
        return {suite.name: self._one(suite, items, policy, round) for suite, items in self.suites}

    def _one(self, suite: Suite, items: list[Prompt], policy: Policy, round: int) -> dict[str, Any]:
        run = self._exact_match if suite.kind == "exact_match" else self._multiple_choice
        outcome = run(suite, items, policy)
        value, low, high = wilson_interval(sum(outcome.right), len(outcome.right))
        figures: dict[str, Any] = {
            "round": round,
            "policy": policy.name,
            "policy_digest": policy.digest,
            "suite": suite.name,
            "metric": "accuracy",
            "value": value,
            "low": low,
            "high": high,
            "n": len(items),
            "failures": outcome.failures,
            "groups": graded(items, outcome.right),
            "paired": self._paired(outcome, self.before_rounds[suite.name]),
            "paired_previous": self._paired(outcome, self.outcomes[suite.name]),
        }
        self.outcomes[suite.name].append(outcome)
        if round == 0:
            self.before_rounds[suite.name].append(outcome)
        self.loop.events.emit("evaluation", f"{suite.name}|{policy.name}|{policy.digest[:16]}|{round}", **figures)
        return figures

    def _paired(self, outcome: Outcome, earlier: list[Outcome]) -> dict[str, Any] | None:
        """The change against the last of the `earlier` models: of those before the rounds (M1 after an SFT; for that
        one M0), or of all (the previous model)."""
        if not earlier:
            return None
        against = earlier[-1]
        difference, low, high = paired_difference(against.right, outcome.right)
        return {"against": against.policy.name, "difference": difference, "low": low, "high": high}

    def best(self) -> Policy | None:
        """The policy with the highest development accuracy, the earlier one where two are equal."""
        if self.development is None:
            return None
        outcomes = self.outcomes[self.development]
        return max(outcomes, key=lambda one: sum(one.right)).policy

    def _exact_match(self, suite: Suite, items: list[Prompt], policy: Policy) -> Outcome:
        prompts = self.loop.data.rendered(items, suite.max_new_tokens, f"items of {suite.name}")
        drawn = self.loop.draw(
            policy,
            prompts,
            f"{suite.name} with {policy.name}",
            n=1,
            temperature=0.0,
            top_p=1.0,
            max_new_tokens=suite.max_new_tokens,
        )
        right, failures = [], Counter[str]()
        for item in items:
            answers = drawn.by_prompt.get(item.id)
            if answers is None:
                failures["prompt too long"] += 1
                right.append(False)
            elif answers[0].finish == "length":
                failures["truncated"] += 1
                right.append(False)
            else:
                right.append(exact_match(answers[0].text, str(item.answer), suite.normalize))
        return Outcome(policy, right, dict(failures))

    def _multiple_choice(self, suite: Suite, items: list[Prompt], policy: Policy) -> Outcome:
        prompts, by_prompt = {}, {}
        for item in items:
            rendered = [render_example(self.loop.tokenizer, list(item.messages), c) for c in item.choices or ()]
            prompts[item.id] = RenderedPrompt(item.id, tuple(rendered[0][0]), item.messages[-1]["content"])
            by_prompt[item.id] = [
                Response(item.id, index, tuple(ids), "stop", choice)
                for index, ((_, ids), choice) in enumerate(zip(rendered, item.choices or (), strict=True))
            ]
        scored = self.loop.log_probs(Responses(prompts, by_prompt), policy)
        right = []
        for item in items:
            options = by_prompt[item.id]
            divisors = [len(option.ids) if suite.score == "per_token" else 1 for option in options]
            values = [scored.of(option) / divisor for option, divisor in zip(options, divisors, strict=True)]
            right.append(options[values.index(max(values))].text == item.answer)
        return Outcome(policy, right, {})
