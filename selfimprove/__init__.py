"""selfimprove: a language model generates, judges its own answers, trains on what it judged, and does it again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfimprove.data.rows import Responses, Scores
    from selfimprove.loop.loop import Judged, Loop, Trained
    from selfimprove.loop.record import Round
    from selfimprove.loop.round_parts import ROUND_PARTS
    from selfimprove.models.policy import Policy
    from selfimprove.recipe.contract import Needs, Options, method, task
    from selfimprove.recipe.judge_kind import judge
    from selfimprove.recipe.judges import JudgeOptions, Reward
    from selfimprove.recipe.recipe import Recipe, load_recipe
    from selfimprove.report.charts import Chart
    from selfimprove.report.part import Part
    from selfimprove.report.table import Col, Table
    from selfimprove.runs.execute import run
    from selfimprove.runs.results import Result
    from selfimprove.sampling.sampler import Decoding, Request, Sampled, Sampler
    from selfimprove.steps.cost import Dry, Preview, Tokens
    from selfimprove.steps.kind import StepKind
    from selfimprove.suites.kind import suite_kind
    from selfimprove.suites.outcome import Outcome
    from selfimprove.suites.suite_kinds import SuiteOptions

    __version__: str

# TRL's trainers report their use to the hub unless told otherwise; a person who wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_WHERE = {
    "recipe.recipe": ("Recipe", "load_recipe"),
    "runs.execute": ("run",),
    "runs.results": ("Result",),
    "models.policy": ("Policy",),
    "data.rows": ("Responses", "Scores"),
    "sampling.sampler": ("Decoding", "Request", "Sampled", "Sampler"),
    "loop.loop": ("Judged", "Loop", "Trained"),
    "loop.record": ("Round",),
    "loop.round_parts": ("ROUND_PARTS",),
    "report.charts": ("Chart",),
    "report.part": ("Part",),
    "report.table": ("Col", "Table"),
    "recipe.contract": ("Needs", "Options", "method", "task"),
    "recipe.judge_kind": ("judge",),
    "recipe.judges": ("JudgeOptions", "Reward"),
    "steps.cost": ("Dry", "Preview", "Tokens"),
    "steps.kind": ("StepKind",),
    "suites.kind": ("suite_kind",),
    "suites.outcome": ("Outcome",),
    "suites.suite_kinds": ("SuiteOptions",),
}
__all__ = [
    "ROUND_PARTS",
    "Chart",
    "Col",
    "Decoding",
    "Dry",
    "JudgeOptions",
    "Judged",
    "Loop",
    "Needs",
    "Options",
    "Outcome",
    "Part",
    "Policy",
    "Preview",
    "Recipe",
    "Request",
    "Responses",
    "Result",
    "Reward",
    "Round",
    "Sampled",
    "Sampler",
    "Scores",
    "StepKind",
    "SuiteOptions",
    "Table",
    "Tokens",
    "Trained",
    "__version__",
    "judge",
    "load_recipe",
    "method",
    "run",
    "suite_kind",
    "task",
]


def __getattr__(name: str) -> Any:
    # Importing torch and its friends takes seconds; `selfimprove ls` should not wait for them.
    from importlib import import_module
    from importlib.metadata import version

    if name == "__version__":
        return version("selfimprove")
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"selfimprove.{module}"), name)
    raise AttributeError(f"module 'selfimprove' has no attribute {name!r}")
