"""Runs suites on the policies of a run: intervals, paired changes, one event for each suite and policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import digest_of
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError
from selfimprove.models.policy import Policy
from selfimprove.report.samples import Sample, write_samples
from selfimprove.suites.graded import correlation_change
from selfimprove.suites.kind import Found, Loaded
from selfimprove.suites.outcome import Outcome, paired_change
from selfimprove.suites.preference import length_controlled_change
from selfimprove.suites.suite_kinds import JudgeSuite
from selfimprove.suites.suites import graded, kind_of, load_suite

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
        self.kinds = {loaded.suite.name: kind_of(loaded) for loaded in self.suites}
        self.found = {
            loaded.suite.name: kind.prepare(loop, loaded) if kind.prepare else Found()
            for loaded, kind in zip(self.suites, self.kinds.values(), strict=True)
        }
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
                    *self.found[loaded.suite.name].digests,
                ]
                for loaded in self.suites
            ]
        )

    def evaluate(self, policy: Policy, round: int) -> dict[str, dict[str, Any]]:
        """Runs every suite on `policy` and emits one event for each."""
        return {loaded.suite.name: self._one(loaded, policy, round) for loaded in self.suites}

    def _one(self, loaded: Loaded, policy: Policy, round: int) -> dict[str, Any]:
        suite = loaded.suite
        with self.loop.working_on("evaluation"):
            outcome = self.kinds[suite.name].measure(self.loop, loaded, policy, self.found[suite.name].value)
        value, low, high = outcome.interval()
        earlier, initial = self.outcomes[suite.name], self.before_rounds[suite.name]
        figures: dict[str, Any] = {
            "round": round,
            "policy": policy.name,
            "policy_digest": policy.digest,
            "suite": suite.name,
            "metric": self.kinds[suite.name].metric_of(suite),
            "value": value,
            "low": low,
            "high": high,
            "n": sum(value is not None for value in outcome.values),
            "values": outcome.values,
            "items": [digest_of(asdict(item))[:12] for item in loaded.items],
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
        id = f"{suite.name}|{policy.name}|{policy.digest[:16]}|{round}"
        if outcome.answers:
            write_samples(Path(self.loop.recipe.output), suite.name, policy.name, id, _samples(loaded.items, outcome))
        self.loop.events.emit("evaluation", id, **figures)
        return figures

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


def _samples(items: Sequence[Prompt], outcome: Outcome) -> list[Sample]:
    """Every item with its answer and what that is worth."""
    found = []
    for item, value, said in zip(items, outcome.values, outcome.answers, strict=True):
        choices = "\n".join(f"- {one}" for one in item.choices or ())
        turns = [*(one["content"] for one in item.messages), *item.later_turns, choices]
        prompt = "\n\n".join(filter(None, turns))
        reference = item.answer if item.answer is not None else "\n\n".join(item.references)
        found.append(Sample(item.id, prompt, reference, item.group or "", said.text, value, said.why, dict(said.more)))
    return found


def _said(item: Prompt) -> list[str]:
    return [item.messages[-1]["content"], *item.later_turns]
